"""The guide's sections as data, and the checks on what users set."""

import numpy as np
import pytest

import lcm_nb
from lcm_nb import settings
from lcm_nb.sections import BY_NAME, SECTIONS, section_for
from lcm_nb.settings import planned_timesteps

GUIDE = {
    "prompt": "Self-portrait oil painting, a beautiful cyborg with golden hair, 8k",
    "num_inference_steps": 4,
    "guidance_scale": 8.0,
    "num_images": 1,
    "seed": 0,
}


def complete(section: str, given: dict) -> dict:
    """The section's settings, completed."""
    return settings.complete(section_for(section).settings, given, owner=section)


REFUSED = [
    # setting, value, what the message must say besides name and value
    ("num_inference_steps", 0, "whole number from 1 to 50"),
    ("num_inference_steps", 51, "whole number from 1 to 50"),
    ("num_inference_steps", 2.5, "whole number from 1 to 50"),
    ("num_inference_steps", "4", "whole number from 1 to 50"),
    ("num_inference_steps", True, "whole number from 1 to 50"),
    ("num_inference_steps", None, "whole number from 1 to 50"),
    ("num_inference_steps", float("inf"), "whole number from 1 to 50"),
    ("num_inference_steps", [1, 2], "whole number from 1 to 50"),
    ("guidance_scale", 0.5, "number from 1 to 14"),
    ("guidance_scale", 14.5, "number from 1 to 14"),
    ("guidance_scale", float("nan"), "number from 1 to 14"),
    ("guidance_scale", "strong", "number from 1 to 14"),
    ("seed", -1, "whole number from 0 to 4294967295"),
    ("seed", 2**32, "whole number from 0 to 4294967295"),
    ("seed", 10**400, "whole number from 0 to 4294967295"),
    ("prompt", "", "a text with at least one word"),
    ("prompt", "  \n", "a text with at least one word"),
    ("prompt", 7, "a text with at least one word"),
    ("prompt", ["a cat", "a dog"], "a text with at least one word"),
]


def test_what_is_left_out_comes_from_the_guide():
    assert complete("text-to-image", {}) == GUIDE


def test_what_is_given_stays():
    given = {"prompt": "a cute fox", "num_inference_steps": 2, "guidance_scale": 3.5, "num_images": 2, "seed": 9}
    assert complete("text-to-image", given) == given


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("num_inference_steps", np.int64(8), 8),
        ("num_inference_steps", 8.0, 8),
        ("guidance_scale", 3, 3.0),
        ("guidance_scale", np.float32(2.5), 2.5),
        ("seed", 2**32 - 1, 2**32 - 1),
    ],
)
def test_numbers_of_other_kinds_become_plain_python_ones(name, value, kept):
    found = complete("text-to-image", {name: value})[name]
    assert found == kept
    assert type(found) is type(GUIDE[name])


@pytest.mark.parametrize(("name", "value", "remedy"), REFUSED)
def test_a_refusal_names_setting_value_and_remedy(name, value, remedy):
    with pytest.raises(ValueError) as refusal:
        complete("text-to-image", {name: value})
    message = str(refusal.value)
    assert message.startswith(f"{name} is {value!r};")
    assert f"give {'' if name == 'prompt' else 'a '}{remedy}" in message


def test_an_unknown_setting_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no setting 'steps'.*prompt, num_inference_steps, .*, num_images, seed"):
        complete("text-to-image", {"steps": 4})


def test_an_unknown_section_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"no section 'image-to-video'.*text-to-image"):
        section_for("image-to-video")


def test_sections_are_public_and_in_the_order_of_their_notebooks(root):
    assert "text-to-image" in lcm_nb.SECTIONS
    assert lcm_nb.SECTIONS == SECTIONS
    stems = [path.stem for path in sorted((root / "notebooks").glob("*.ipynb"))]
    notebooks = [section_for(section).notebook for section in SECTIONS]
    assert notebooks == [stem for stem in stems if stem in notebooks]


def test_defaults_and_slider_ends_lie_in_range():
    for section in lcm_nb.SECTIONS:
        for spec in section_for(section).settings.values():
            if spec.kind == "number":
                assert spec.low <= spec.default <= (spec.slider_high or spec.high) <= spec.high


def test_nothing_can_change_a_section():
    section = section_for("text-to-image")
    with pytest.raises(TypeError):
        BY_NAME["mine"] = section
    with pytest.raises(TypeError):
        section.settings["seed"] = None
    with pytest.raises(TypeError):
        section.mini["unet"] = "elsewhere"
    with pytest.raises(AttributeError):
        section.title = "Mine"
    with pytest.raises(AttributeError):
        section.settings["seed"].default = 1


# -- which steps will run --------------------------------------------------------------


@pytest.mark.parametrize("steps", range(1, 51))
def test_planned_timesteps_are_the_scheduler_s(steps):
    from diffusers import LCMScheduler

    scheduler = LCMScheduler()
    scheduler.set_timesteps(steps)
    assert planned_timesteps({"num_inference_steps": steps}) == scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    ("steps", "strength"), [(4, 0.5), (4, 1.0), (10, 0.3), (7, 0.29), (50, 0.58), (3, 0.34), (1, 1.0)]
)
def test_strength_drops_the_first_steps_as_the_pipeline_does(steps, strength):
    from types import SimpleNamespace

    from diffusers import LCMScheduler, StableDiffusionImg2ImgPipeline

    scheduler = LCMScheduler()
    scheduler.set_timesteps(steps)
    pipe = SimpleNamespace(scheduler=scheduler)
    expected, count = StableDiffusionImg2ImgPipeline.get_timesteps(pipe, steps, strength, "cpu")
    found = planned_timesteps({"num_inference_steps": steps, "strength": strength})
    assert found == expected.tolist() and len(found) == count


def test_no_step_at_all_is_refused_with_both_remedies():
    with pytest.raises(ValueError, match=r"4 steps at strength 0.2 run no UNet step; .* at least 0.25, or 5 steps"):
        complete("image-to-image", {"num_inference_steps": 4, "strength": 0.2})


def test_thresholds_that_cross_are_refused():
    with pytest.raises(ValueError, match="low_threshold is 300 and high_threshold 200"):
        complete("controlnet", {"low_threshold": 300})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_s_own_settings_are_accepted(section):
    defaults = {name: spec.default for name, spec in section_for(section).settings.items()}
    assert complete(section, {}) == complete(section, defaults) == defaults
