"""What the tests take from behind the public names, in one place; nothing is imported before it is asked for."""

from importlib import import_module

_HOME = {
    # sections and settings
    "SECTIONS": "sections",
    "section_for": "sections",
    "planned_timesteps": "settings",
    # models
    "DTYPE_ARGUMENT": "models.checkpoints",
    "checkpoints": "models.checkpoints",
    "FP16_VAE": "models.plans",
    "MINI": "models.checkpoints",
    "PLANS": "models.plans",
    "bring": "models.hub",
    "example_mask": "models.examples",
    "fit": "models.doctor",
    "models": "models.plans",
    "pin": "models.hub",
    "plan_for": "models.plans",
    "weight_hashes": "models.hub",
    "with_vae": "models.doctor",
    # runtimes
    "load_pipeline": "runtimes.diffusers",
}
ROOMS = {name: f"lcm_nb.{home}" for name, home in _HOME.items()}


def __getattr__(name: str):
    if name not in ROOMS:
        raise AttributeError(name)
    return getattr(import_module(ROOMS[name]), name)
