"""The training loop that every stage shares: budget, progress, checkpoints, resume."""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from ..models.device import DTYPE_ARGUMENT

# Loading in single precision, whatever the files hold.
FLOAT32 = {DTYPE_ARGUMENT: torch.float32}


@dataclass
class Settings:
    """What the command line sets for a stage.

    ``minutes`` and ``steps`` bound the whole stage, earlier sittings included;
    the learning rate falls along whichever of the two is nearer its end. ``pictures`` leaves teacher,
    distill and the controls the first so many of the data, all where it is None; ``latent_channels``
    are a new autoencoder's.
    """

    work: Path
    minutes: float = math.inf
    steps: int = 10**9
    batch_size: int = 64
    learning_rate: float = 6e-4
    seed: int = 0
    resume: bool = False
    smoke: bool = False
    family: str = "xl"
    pictures: int | None = None
    latent_channels: int = 8


def made_by(stage: str, path: Path) -> Path:
    """Return ``path``, or raise FileNotFoundError naming the stage that makes it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m lcm_nb.training {stage}` first")
    return path


def fingerprint(*modules: nn.Module) -> str:
    """Return 16 hexadecimal digits that stand for the modules' weights."""
    digest = hashlib.sha256()
    for module in modules:
        for tensor in module.state_dict().values():
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def median_seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Return the median wall time of ``work()`` over ``repeats`` calls, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def make_accelerator() -> Accelerator:
    """Return an Accelerator with bf16 autocast, on CUDA where there is one, else on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = True
    return Accelerator(mixed_precision="bf16", cpu=not torch.cuda.is_available())


@dataclass(frozen=True)
class Extras:
    """What a stage may want of :func:`train` besides its loss.

    Parameters
    ----------
    ema_decay
        Decay of the averaged weights. It warms up as (1 + n) / (10 + n), so that short runs are averaged, too.
    after_step
        Called with the module after every update.
    report
        Returns a row for the log, at every checkpoint but the last.
    made_from
        Fingerprint of what the module is made from: no checkpoint of something else is resumed.
    eager
        Parameters that must come far in few updates, see :class:`Optimizer`.
    """

    ema_decay: float = 0.999
    after_step: Callable[[nn.Module], None] | None = None
    report: Callable[[], dict] | None = None
    made_from: str = ""
    eager: Sequence[nn.Parameter] = ()


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that learn: those that are averaged, and that ``EMAModel.copy_to`` is given."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class Optimizer:
    """Muon for the matrices inside a network, AdamW for the rest: embeddings, vectors, first and last layers.

    A convolution counts as a matrix with one row for each output channel; a layer with at most
    ``thin`` inputs or outputs counts as a first or last one. Muon (K. Jordan, 2024) scaled as in
    Liu et al., 2025, arXiv:2502.16982, so that one learning rate serves both. Against AdamW alone
    it reached the teacher's same loss after six tenths of the updates. ``eager`` are parameters
    that must come far in few updates: AdamW with ``EAGER`` times the learning rate.
    """

    EAGER = 10

    def __init__(self, module: nn.Module, learning_rate: float, *, thin: int = 16, eager: Sequence[nn.Parameter] = ()):
        apart = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
        apart |= {id(p) for p in eager}
        self.parameters = trainable(module)
        inner = [p for p in self.parameters if id(p) not in apart and p.ndim > 1 and min(p.shape[:2]) > thin]
        chosen = {id(p) for p in [*inner, *eager]}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self.matrices = [(p, nn.Parameter(_as_matrix(p.detach()))) for p in inner]  # views
        options = dict(lr=learning_rate, weight_decay=1e-3)
        groups = [{"params": rest, "pace": 1}, *([{"params": list(eager), "pace": self.EAGER}] if eager else [])]
        self.parts = [torch.optim.AdamW(groups, betas=(0.9, 0.99), **options)]
        if inner:
            views = [view for _, view in self.matrices]
            self.parts.append(torch.optim.Muon(views, adjust_lr_fn="match_rms_adamw", **options))

    def step(self, learning_rate: float) -> None:
        """Update the parameters by their gradients, then drop these."""
        for parameter, view in self.matrices:
            view.data = _as_matrix(parameter.detach())  # anew: several processes get other memory after the start
            view.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group.get("pace", 1)
            part.step()
        for parameter in self.parameters:
            parameter.grad = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the state, flat, for a checkpoint."""
        states = [part.state_dict()["state"] for part in self.parts]
        slots = {(i, j): slot for i, state in enumerate(states) for j, slot in state.items()}
        return {f"optimizer.{i}.{j}.{k}": v.contiguous() for (i, j), slot in slots.items() for k, v in slot.items()}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the state back from a checkpoint's tensors."""
        states: list[dict] = [{} for _ in self.parts]
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, part, index, slot = key.split(".")
                states[int(part)].setdefault(int(index), {})[slot] = value
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def _as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.ndim == 2 else tensor.permute(0, 2, 3, 1).view(len(tensor), -1)


def train(
    name: str,
    module: nn.Module,
    loss_of: Callable[[nn.Module, torch.Generator], torch.Tensor],
    settings: Settings,
    accelerator: Accelerator,
    extras: Extras = Extras(),
) -> EMAModel:
    """Minimise ``loss_of(module, generator)`` and return the averaged weights of what is :func:`trainable`.

    A checkpoint (weights, average, optimizer, counters) goes to ``work/name`` every
    two minutes and at the end; ``settings.resume`` continues from it. Lines of
    ``work/name/log.jsonl`` hold step, minutes, samples, the device, and the mean loss
    or what ``extras.report()`` returns.

    Raises
    ------
    ValueError
        If the checkpoint to resume was ``made_from`` something else.
    """
    module = module.to(accelerator.device, memory_format=torch.channels_last)
    sitting = Sitting(settings.work / name, module, settings, accelerator, extras)
    generator = torch.Generator(accelerator.device)
    generator.manual_seed(hash((settings.seed, sitting.state["step"], accelerator.process_index)) % 2**31)
    while (progress := sitting.progress()) < 1:
        with accelerator.autocast():
            loss = loss_of(sitting.network, generator)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(sitting.optimizer.parameters, 1.0)
        sitting.optimizer.step(settings.learning_rate * learning_rate_factor(sitting.state["step"], progress))
        sitting.ema.step(sitting.optimizer.parameters)
        if extras.after_step:
            extras.after_step(module)
        sitting.count(loss.detach())
    sitting.save()
    sitting.bar.close()
    return sitting.ema


class Sitting:
    """What a stage keeps from its start, or from its last checkpoint, to its end; all files lie in ``folder``."""

    LOG_EVERY, SAVE_EVERY = 50, 120  # updates, seconds

    def __init__(self, folder: Path, module: nn.Module, settings: Settings, accelerator: Accelerator, extras: Extras):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.module, self.settings = folder, module, settings
        self.accelerator, self.extras = accelerator, extras
        self.optimizer = Optimizer(module, settings.learning_rate, eager=extras.eager)
        # -1: the first update is averaged, too
        self.ema = EMAModel(self.optimizer.parameters, extras.ema_decay, update_after_step=-1, foreach=True)
        self.state = {"step": 0, "minutes": 0.0, "samples": 0}
        if settings.resume and (folder / "state.json").exists():
            self.restore()
        self.network = accelerator.prepare(module)
        main, step = accelerator.is_main_process, self.state["step"]
        self.bar = tqdm(desc=folder.name, unit="step", initial=step, disable=not main)
        self.losses: list[torch.Tensor] = []
        self.clock = self.saved = time.monotonic()

    def progress(self) -> float:
        """Return the share of the budget that is spent; the furthest process decides, so that all stop together."""
        state, settings = self.state, self.settings
        progress = max(state["minutes"] / settings.minutes, state["step"] / settings.steps)
        if self.accelerator.num_processes == 1:
            return progress
        return float(self.accelerator.gather(torch.tensor([progress], device=self.accelerator.device)).max())

    def count(self, loss: torch.Tensor) -> None:
        """Count an update, and log and save when it is time."""
        now, state = time.monotonic(), self.state
        self.losses.append(loss)
        state["step"] += 1
        state["samples"] += self.settings.batch_size * self.accelerator.num_processes
        state["minutes"] += (now - self.clock) / 60
        self.clock = now
        self.bar.update()
        if state["step"] % self.LOG_EVERY == 0:
            mean = float(torch.stack(self.losses).mean())
            self.losses.clear()
            self.bar.set_postfix(loss=f"{mean:.4f}", minutes=f"{state['minutes']:.1f}")
            self.log({"loss": mean})
        if now - self.saved > self.SAVE_EVERY:
            self.save()
            if self.extras.report:
                self.log(self.extras.report())
            self.saved = time.monotonic()

    def log(self, row: dict) -> None:
        """Append a line to ``log.jsonl``, with the counters and the device."""
        if self.accelerator.is_main_process:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps({**self.state, **row, "device": _device_name()}) + "\n")

    def save(self) -> None:
        """Replace the checkpoint."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"weights.{k}": v.detach().contiguous() for k, v in self.module.state_dict().items()}
        tensors |= {k: v.contiguous() for k, v in self._averages().items()}
        save_file(tensors | self.optimizer.tensors(), self.folder / "state.new")
        (self.folder / "state.new").replace(self.folder / "state.safetensors")
        counters = self.state | {"made_from": self.extras.made_from, "ema_count": self.ema.optimization_step}
        (self.folder / "state.json").write_text(json.dumps(counters))

    @torch.no_grad()
    def restore(self) -> None:
        """Go on from the checkpoint."""
        state = json.loads((self.folder / "state.json").read_text())
        if state.pop("made_from", "") != self.extras.made_from:
            raise ValueError(
                f"{self.folder} was begun with other weights than those there are now; leave out --resume."
            )
        tensors = load_file(self.folder / "state.safetensors")
        self.ema.optimization_step = state.pop("ema_count")
        for name, value in self.module.state_dict().items():
            value.copy_(tensors[f"weights.{name}"])
        for name, value in self._averages().items():
            value.copy_(tensors[name])
        self.optimizer.restore(tensors)
        self.state = state

    def _averages(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights by their names in a checkpoint."""
        names = [f"ema.{name}" for name, parameter in self.module.named_parameters() if parameter.requires_grad]
        return dict(zip(names, self.ema.shadow_params, strict=True))


def learning_rate_factor(step: int, progress: float, *, warmup: int = 100) -> float:
    """Return the learning rate's factor: linear warm-up, constant for a third of the way, then a cosine to 2 %.

    By hand: PyTorch's and diffusers' schedules follow a number of updates, this one a budget of minutes.
    """
    fall = min(max((progress - 0.33) / 0.67, 0.0), 1.0)
    return min((step + 1) / warmup, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fall)))


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"
