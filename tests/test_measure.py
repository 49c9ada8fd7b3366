"""What notebooks measure with: captions, pictures in batches, accuracies, distances, forward passes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lcm_nb.models.vocabulary import BACKGROUNDS, MEDIUMS, PALETTES, SUBJECTS
from lcm_nb.tutorial import measure


def noise(prompts, *, generator, **options):
    """Stand in for a pipeline: the pictures are the noise of their generators."""
    assert len(prompts) == len(generator)
    noise.calls.append((list(prompts), options))
    return SimpleNamespace(images=torch.stack([torch.rand(3, 4, 4, generator=g) for g in generator]))


@pytest.fixture
def calls():
    noise.calls = []
    return noise.calls


def test_a_batch_chooses_neither_captions_nor_noise(calls):
    captions = [f"picture {i}" for i in range(5)]
    whole = measure.generate(noise, captions, 4)
    parts = measure.generate(noise, captions, 4, batch=2)
    assert whole.shape == (5, 3, 4, 4)
    assert torch.equal(whole, parts)
    assert len({picture.sum().item() for picture in whole}) == 5
    assert [given for given, _ in calls] == [captions, captions[:2], captions[2:4], captions[4:]]
    assert calls[0][1] == dict(num_inference_steps=4, guidance_scale=8.0, output_type="pt")


def test_each_picture_starts_from_its_own(calls):
    measure.generate(noise, ["a", "b", "c"], 2, 1.5, images=[1, 2, 3], batch=2, strength=0.5)
    assert [options["image"] for _, options in calls] == [[1, 2], [3]]
    assert {(options["guidance_scale"], options["strength"]) for _, options in calls} == {(1.5, 0.5)}


def test_a_sheet_has_a_row_for_so_many_captions(calls):
    assert measure.sheet(noise, list("abcdef"), 3, batch=4).size == (12, 8)
    assert len(calls) == 2


def test_a_picture_survives_both_ways():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    batch = measure.as_batch(pictures)
    assert batch.shape == (2, 3, 5, 7) and batch.min() >= 0 and batch.max() <= 1
    assert np.array_equal(np.stack([np.asarray(p) for p in measure.as_pictures(batch)]), pictures)


def test_cases_are_a_stream_of_captions_that_name_their_labels():
    captions, rows = measure.cases(6)
    assert measure.cases(3) == (captions[:3], rows[:3])
    assert measure.cases(3, seed=7)[0] != captions[:3]
    assert all(len(row["subjects"]) == 1 for row in rows)
    assert len({list(SUBJECTS)[row["subjects"][0]] for row in rows}) > 1


def test_forwards_counts_the_batches_of_networks_and_of_their_copies():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    with measure.forwards(first, second) as sizes:
        first(torch.zeros(3, 2))
        second(torch.zeros(1, 2))
        copy.deepcopy(first)(torch.zeros(2, 2))
    first(torch.zeros(9, 2))
    assert sizes == [3, 1, 2]
    with pytest.raises(RuntimeError), measure.forwards(first) as sizes:
        raise RuntimeError
    first(torch.zeros(9, 2))
    assert sizes == []


def test_the_judge_knows_pictures_of_the_shard(studio):
    """Latents that ship, decoded by the family's autoencoder: what the captions name is seen."""
    latents, captions = measure.load_shard()
    assert len(latents) == len(captions) and latents.shape[1:] == (8, 16, 16)
    picks = [i for i, text in enumerate(captions[:40]) if " and " not in text and "two " not in text][:8]
    vae = studio.pipe.vae
    with torch.no_grad():
        decoded = [vae.decode(latents[i : i + 1].to(vae.device, vae.dtype)).sample.float().cpu() for i in picks]
    eye = measure.load_judge()
    scores, features = measure.judge_pictures(eye, (torch.cat(decoded) / 2 + 0.5).clamp(0, 1))
    assert features.shape == (8, 128) and features.dtype == np.float64
    seen = [list(SUBJECTS)[i] for i in scores["subject"].argmax(1).tolist()]
    named = [name in captions[i] for name, i in zip(seen, picks, strict=True)]
    assert sum(named) >= 5, [*zip(seen, [captions[i] for i in picks], strict=True)]  # some captions use other words


def test_frechet_distance_is_that_of_two_gaussians():
    features = np.random.default_rng(0).normal(size=(500, 3))
    assert measure.frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert measure.frechet_distance(features, features + [3.0, 0, 4]) == pytest.approx(25)
    centred = features - features.mean(0)
    spread = np.trace(np.cov(centred.T))  # of the same Gaussian, twice as wide: (2 - 1)^2 times its variance
    assert measure.frechet_distance(centred, 2 * centred) == pytest.approx(spread)


def test_accuracies_count_what_the_judge_got_right():
    rows = [
        dict(subjects=[0], background=1, palette=0, medium=0),
        dict(subjects=[2, 1], background=0, palette=1, medium=0),
        dict(subjects=[1, 1], background=2, palette=2, medium=1),
    ]
    scores = {
        "subject": torch.tensor([[9.0, 1, 2], [0, 5, 6], [5, 4, 1]]),  # right, both right, wrong
        "background": torch.eye(3)[[1, 0, 0]],
        "palette": torch.eye(3)[[2, 1, 0]],
        "medium": torch.eye(3)[[0, 1, 1]],
    }
    found = measure.accuracies(scores, rows)
    assert found == {"subject": 2 / 3, "background": 2 / 3, "palette": 1 / 2, "medium": 1.0}
    first = measure.accuracies({name: values[:1] for name, values in scores.items()}, rows[:1])
    assert (first["subject"], first["background"]) == (1.0, 1.0)
    assert np.isnan([first["palette"], first["medium"]]).all(), "nothing was asked"


def test_the_judge_is_not_asked_what_a_picture_cannot_show():
    def row(background, palette=None, medium=None):
        names = (None, *PALETTES).index(palette), (None, *MEDIUMS).index(medium)
        return dict(subjects=[0], background=BACKGROUNDS.index(background), palette=names[0], medium=names[1])

    rows = [
        row("red"),
        row("red", "sepia"),
        row("red", None, "pencil sketch"),
        row("snow", "sepia"),
        row("red", "warm"),
    ]
    counts = measure.counted(rows)
    assert counts["subject"].all()
    assert counts["background"].tolist() == [True, False, False, True, True]
    assert counts["palette"].tolist() == [False, True, False, True, True]
    assert counts["medium"].tolist() == [False, False, True, False, False]
