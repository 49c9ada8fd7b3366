"""The numbers behind an LCM's four steps, in NumPy.

Source: Luo et al., "Latent Consistency Models", 2023, arXiv:2310.04378; "Eq." means its
equations. diffusers' ``LCMScheduler`` computes the same.
"""

from typing import Any

import numpy as np

TRAIN_TIMESTEPS = 1000
SOLVER_POINTS = 50  # to which the distillation's solver kept, 20 timesteps apart
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def solver_points(*, skip: int = TRAIN_TIMESTEPS // SOLVER_POINTS) -> np.ndarray:
    """Return the training timesteps on which the student was taught, from noise to clean: 999, 979, ..., 19."""
    return np.arange(TRAIN_TIMESTEPS - 1, -1, -skip)


def timesteps(num_inference_steps: int) -> np.ndarray:
    """Return the timesteps that an LCM visits: ``num_inference_steps`` of the 50 points, evenly spread.

    Raises
    ------
    ValueError
        If there are no such steps; the message gives the number.
    """
    if not 1 <= num_inference_steps <= SOLVER_POINTS:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; the schedule has 1 to {SOLVER_POINTS} steps.")
    chosen = np.arange(num_inference_steps) * SOLVER_POINTS // num_inference_steps
    return solver_points()[chosen]


def boundary_scalings(timestep: Any) -> tuple[Any, Any]:
    """Return the weights with which an LCM mixes its input and its prediction (Eq. 9).

    Parameters
    ----------
    timestep
        Training timestep, 0 (clean) to 999 (noise): a number, a NumPy array or a tensor of floats.

    Returns
    -------
    c_skip, c_out
        Unitless weights of the noisy latent and of the predicted clean latent; 1 and 0 at timestep 0.
    """
    scaled = TIMESTEP_SCALING * timestep
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total**0.5


def alphas_cumprod(
    beta_start: float = 0.00085, beta_end: float = 0.012, *, zero_terminal_snr: bool = False
) -> np.ndarray:
    """Return alpha_t^2, the share of the picture's variance at each training timestep, (1000,).

    The betas are "scaled_linear": their roots are evenly spaced, as in Stable Diffusion and SDXL.
    With ``zero_terminal_snr`` nothing of the picture is left at timestep 999, as in the mini family
    (Lin et al., 2023, arXiv:2305.08891, algorithm 1).
    """
    betas = np.linspace(beta_start**0.5, beta_end**0.5, TRAIN_TIMESTEPS) ** 2
    alphas = np.cumprod(1 - betas)
    if not zero_terminal_snr:
        return alphas
    roots = np.sqrt(alphas)
    return (roots[0] * (roots - roots[-1]) / (roots[0] - roots[-1])) ** 2
