"""The schedule's maths against diffusers' own scheduler."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from inside import plan_for

from lcm_nb import schedule
from lcm_nb.models.checkpoints import checkpoints


@pytest.mark.parametrize("steps", range(1, 51))
def test_timesteps_are_the_schedulers(steps):
    scheduler = LCMScheduler()
    scheduler.set_timesteps(steps)
    np.testing.assert_array_equal(schedule.timesteps(steps), scheduler.timesteps.numpy())


@pytest.mark.parametrize("steps", (0, 51, -1))
def test_there_are_1_to_50_steps(steps):
    with pytest.raises(ValueError, match=f"num_inference_steps is {steps}; .* 1 to 50"):
        schedule.timesteps(steps)


@pytest.mark.parametrize("steps", range(1, 51))
def test_boundary_scalings_are_the_schedulers(steps):
    """At every timestep of every step count, whatever the kind of number."""
    scheduler = LCMScheduler()
    visited = schedule.timesteps(steps)
    expected = [scheduler.get_scalings_for_boundary_condition_discrete(int(t)) for t in visited]
    np.testing.assert_allclose(np.array(schedule.boundary_scalings(visited)).T, expected, rtol=0, atol=1e-6)
    tensors = schedule.boundary_scalings(torch.tensor(visited).float())
    np.testing.assert_allclose(torch.stack(tensors, 1).numpy(), expected, rtol=0, atol=1e-6)


def test_at_timestep_zero_the_input_stays():
    assert schedule.boundary_scalings(0) == (1.0, 0.0)


@pytest.mark.parametrize("zero_terminal_snr", (False, True))
def test_alphas_are_the_schedulers(zero_terminal_snr):
    scheduler = LCMScheduler(rescale_betas_zero_snr=zero_terminal_snr)
    mine = schedule.alphas_cumprod(zero_terminal_snr=zero_terminal_snr)
    np.testing.assert_allclose(mine, scheduler.alphas_cumprod.numpy(), rtol=0, atol=1e-6)


def test_the_mini_family_has_zero_terminal_snr():
    names = checkpoints("text-to-image", "mini", "cpu")
    scheduler = LCMScheduler.from_pretrained(names.base, subfolder="scheduler")
    mine = schedule.alphas_cumprod(zero_terminal_snr=True)
    np.testing.assert_allclose(mine, scheduler.alphas_cumprod.numpy(), rtol=0, atol=1e-6)


def test_one_step_of_the_scheduler_is_the_formula():
    """A v-prediction at t: clean = alpha z - sigma v; the step returns c_skip z + c_out clean."""
    scheduler = LCMScheduler(prediction_type="v_prediction")
    scheduler.set_timesteps(4)
    z, v = torch.randn(2, 1, 4, 8, 8, generator=torch.manual_seed(0))
    for t in schedule.timesteps(4):
        alpha = schedule.alphas_cumprod()[t]
        c_skip, c_out = schedule.boundary_scalings(t)
        mine = c_skip * z + c_out * (alpha**0.5 * z - (1 - alpha) ** 0.5 * v)
        theirs = scheduler.step(v, torch.tensor(int(t)), z, generator=torch.manual_seed(0)).denoised
        torch.testing.assert_close(mine.float(), theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["sdxl-lightning", "hyper-sd", "dmd2"])
def test_models_for_four_steps_visit_what_they_were_trained_on(model):
    planned = plan_for("text-to-image", model).model
    scheduler = getattr(diffusers, planned.scheduler)(**planned.scheduler_options)
    scheduler.set_timesteps(planned.settings["num_inference_steps"].high)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
