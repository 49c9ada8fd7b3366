"""What the export computes before any graph is written; test_web.py has the rest."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from lcm_nb import export, schedule
from lcm_nb.web import built_folder, web_panel
from lcm_nb.web.parts import Decoder, FoldedTail, folded


@torch.no_grad()
def test_the_folded_decoder_draws_the_same_picture(studio):
    vae = studio.pipe.vae
    latents = torch.randn(export.latent_shape(studio.pipe), generator=torch.Generator().manual_seed(0))
    wanted = (vae.decode(latents).sample * 0.5 + 0.5).clamp(0, 1)
    assert (Decoder(vae)(latents) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("doublings", [1, 2, 3])
@torch.no_grad()
def test_a_fold_is_exact_up_to_the_border(doublings):
    torch.manual_seed(doublings)
    layers = []
    for _ in range(doublings):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(5, 5, 3, padding=1, bias=False)]
    tail = nn.Sequential(*layers, nn.Conv2d(5, 3, 3, padding=1))
    x = torch.randn(1, 5, 6, 9)
    assert (FoldedTail(tail, 5)(x) - tail(x)).abs().max() < 1e-5


def test_a_tail_that_reaches_farther_is_refused():
    tail = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1))
    with pytest.raises(ValueError, match="reach farther"):
        FoldedTail(tail, 2)


def test_a_decoder_without_upsampling_at_its_end_stays(studio):
    class Other(nn.Module):
        decoder = nn.Module()

    assert folded(other := Other()) is other


def test_the_schedule_is_the_notebooks(studio):
    found = export.schedule(studio.pipe.scheduler)
    assert found["points"] == schedule.solver_points().tolist()
    alphas = schedule.alphas_cumprod(zero_terminal_snr=True)[found["points"]]
    np.testing.assert_allclose(list(found["alphas_cumprod"].values()), alphas, atol=1e-6)
    assert found["timestep_scaling"] == schedule.TIMESTEP_SCALING and found["sigma_data"] == schedule.SIGMA_DATA


def test_limits_are_the_panels(studio):
    limits = {name: export.limits(spec) for name, spec in export.controls().items() if name != "prompt"}
    assert limits["steps"] == {"low": 1, "high": 8, "step": 1}
    assert limits["guidance"] == {"low": 1, "high": 14, "step": 0.5}
    assert limits["seed"]["high"] == 2**32 - 1


def test_packages_are_pinned_by_version_and_hash():
    for package in export.PACKAGES:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package.version)
        assert re.fullmatch(r"[A-Za-z0-9+/]{86}==", package.sha512)


def test_without_npm_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(export.shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="npm is not installed"):
        export.fetch_packages(tmp_path)


def test_another_archive_is_refused(monkeypatch, tmp_path):
    class Done:
        returncode, stdout, stderr = 0, "other.tgz\n", ""

    (tmp_path / "other.tgz").write_bytes(b"other")
    monkeypatch.setattr(export.subprocess, "run", lambda *_, **__: Done)
    with pytest.raises(OSError, match="is not the expected file"):
        export._packed(export.PACKAGES[0], tmp_path)


# -- the widget without a browser -----------------------------------------------------


@pytest.fixture
def built(tmp_path):
    """A folder that looks like an export."""
    assets = tmp_path / "web" / "assets"
    assets.mkdir(parents=True)
    (assets / "manifest.json").write_text(json.dumps({"files": {}}))
    (assets / "unet.safetensors").write_bytes(bytes(range(256)) * 10_000)
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "web"


def test_the_panel_finds_the_last_export(built, monkeypatch):
    monkeypatch.setenv("LCM_NB_WEB", str(built))
    assert built_folder() == built
    panel = web_panel(seed=3)
    assert (panel.seed, panel.num_inference_steps, panel.guidance_scale) == (3, 4, 8.0)


def test_without_an_export_it_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"python -m lcm_nb\.export"):
        web_panel(tmp_path)


def test_settings_are_checked(built):
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        web_panel(built, num_inference_steps=0)
    panel = web_panel(built)
    with pytest.raises(ValueError, match="seed is -1"):
        panel.seed = -1


def test_a_folder_and_an_address_are_one_too_many(built):
    with pytest.raises(ValueError, match="give one of them"):
        web_panel(built, address="https://example.org/lcm/")


def test_assets_go_out_in_pieces_and_nothing_else_does(built, monkeypatch):
    panel, sent = web_panel(built), []
    monkeypatch.setattr(panel, "send", lambda message, buffers: sent.append((message, buffers[0])))
    for name in ("../secret.txt", "../../secret.txt", str(built.parent / "secret.txt"), None, ""):
        panel._send_asset(panel, {"need": name}, [])
    assert sent == []
    panel._send_asset(panel, {"need": "unet.safetensors", "view": "a"}, [])
    assert [message["done"] for message, _ in sent] == [False, False, True]
    assert b"".join(data for _, data in sent) == bytes(range(256)) * 10_000
