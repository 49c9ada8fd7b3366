"""The guide's checkpoints in full size, without weights: their published sizes, and the memory that they need."""

import full_size
import pytest
import torch
from inside import FP16_VAE, PLANS

TAKEN = [source for plans in PLANS.values() for plan in plans.values() for source in plan.sources.values()]
SOURCES = {f"{source.repo} ({len(source.weights)})": source for source in TAKEN}


@pytest.mark.parametrize(("repo", "component", "width", "published"), full_size.PUBLISHED)
def test_configurations_have_the_published_sizes(repo, component, width, published):
    assert width * full_size.parameters(repo, component) == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("repo", full_size.LORAS)
def test_loras_have_the_published_sizes(repo):
    assert 2 * full_size.lora_parameters(repo) == pytest.approx(full_size.LORAS[repo]["bytes"], rel=0.01)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_plans_count_the_parameters_of_the_published_configurations(source):
    for stem, numbers in source.weights.items():
        if source.is_lora:
            assert numbers == full_size.lora_parameters(source.repo)
        else:
            component = stem.partition("/")[0] if "/" in stem else next(iter(full_size.CONFIGS[source.repo]))
            assert numbers == full_size.parameters(source.repo, component)


def test_the_other_vae_has_the_size_of_sdxls():
    (numbers,) = FP16_VAE.weights.values()
    assert numbers == full_size.parameters(full_size.SDXL, "vae")


TRACED = {
    "text-to-image": ("text-to-image", "lcm-sdxl"),
    "text-to-image, LCM-LoRA": ("text-to-image", "lcm-lora-sdxl"),
    "image-to-image": ("image-to-image", "lcm-dreamshaper-v7"),
    "image-to-image, LCM-LoRA": ("image-to-image", "lcm-lora-sdv1-5"),
    "inpainting": ("inpainting", "lcm-lora-sd-inpainting"),
    "controlnet": ("controlnet", "lcm-dreamshaper-v7"),
    "t2i-adapter": ("t2i-adapter", "lcm-sdxl"),
}


@pytest.mark.parametrize("shape", TRACED)
def test_plans_hold_the_traced_memory_of_a_step_and_of_decoding(shape):
    section, model = TRACED[shape]
    traced, plan = full_size.peak_activations(shape), PLANS[section][model]
    assert (plan.step, plan.decode) == pytest.approx((traced["unet step"], traced["vae decode"]), rel=0.05)


@pytest.mark.parametrize("repo", full_size.CONFIGS)
def test_configurations_name_known_fields(repo):
    for component, (name, config) in full_size.CONFIGS[repo].items():
        built = full_size.build(repo, component)
        assert type(built).__name__ == name
        known = built.config if isinstance(built.config, dict) else built.config.to_dict()
        assert config.keys() <= known.keys(), component


def test_peak_counts_what_lives_and_no_weights():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).to("meta")
    # 4 numbers in, and 8 on either side of the ReLU, which do not share memory; then 2 come out and 8 have gone
    assert full_size.peak_bytes(lambda: layers(torch.empty(1, 4, device="meta")), layers) == 4 * (4 + 8 + 8)


def test_peak_counts_neither_views_nor_what_is_gone():
    def run():
        first = torch.empty(100, device="meta")
        first.view(10, 10).add_(1)
        del first
        torch.empty(70, device="meta")

    assert full_size.peak_bytes(run) == 4 * 100


@pytest.mark.parametrize("section", ["text-to-image", "image-to-image", "t2i-adapter"])
def test_guide_fits_a_t4(section):
    assert full_size.needed_bytes(section) < full_size.T4_BYTES


def test_attention_keeps_no_matrix_of_all_tokens():
    tokens, heads = (768 // 8) ** 2, 8
    assert full_size.peak_activations("image-to-image")["unet step"] < 2 * heads * tokens**2


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures for minutes where there is CUDA")
def test_script_needs_cuda(capsys):
    assert full_size.main([]) == 2
    error = capsys.readouterr().err
    assert "--tiny" in error and error.count("\n") == 1
