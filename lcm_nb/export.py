"""Build a folder of static files with the mini LCM in a web page: ``python -m lcm_nb.export OUT``.

Any web server can serve the folder, e.g. ``python -m http.server --directory OUT``; it asks no other host.
:func:`lcm_nb.web_panel` takes the same folder. Needs the extra ``web`` and npm, which fetches the runtime.
"""

import argparse
import base64
import gzip
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .sections import section_for
from .web import SECTION, built_folder

SOURCE = Path(__file__).parent / "web"
WIDGETS = Path(__file__).parent / "widgets"
DRAWING = "image-to-image"  # the section that starts from what a reader paints
STEPS = range(1, 9)
TOLERANCE = 1e-4  # between a graph and torch
EXAMPLES = (  # the first is the page's own
    "a cute fox in a meadow",
    "a panda in space, cold color palette",
    "pixel art of a robot in a city",
    "an owl in the snow, oil painting",
    "a red dragon on a plain yellow background",
    "a whale on a beach",
    section_for(SECTION).settings["prompt"].default,
)


@dataclass(frozen=True)
class Package:
    """A package on npm: the hash of its archive, and which of its files become which assets."""

    name: str
    version: str
    sha512: str
    files: Mapping[str, str]
    notice: str


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {"dist/ort.wasm.bundle.min.mjs": "ort.mjs", "dist/ort-wasm-simd-threaded.wasm": "ort.wasm"},
        "MIT licence, copyright (c) Microsoft Corporation",
    ),
    Package(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        {"dist/tokenizers.min.mjs": "tokenizers.mjs", "LICENSE": "tokenizers-licence.txt"},
        "Apache-2.0 licence, by Hugging Face; its text: assets/tokenizers-licence.txt",
    ),
)
PAGE = ("index.html", "lcm.js", "lcm.css", "sw.js")


def export(out: str | Path, *, say=print) -> dict:
    """Build the page in ``out`` from the mini family and return its manifest.

    Both sections share runtime and decoder; a reader downloads what the section on screen needs.

    Parameters
    ----------
    out
        A folder; it is made, and files of an earlier export in it are replaced.
    say
        Called with a line a finished part.

    Raises
    ------
    ImportError
        If the extra ``web`` is not installed.
    OSError
        If npm is missing, or a package is not the expected one.
    RuntimeError
        If a graph differs from torch by more than ``TOLERANCE``.
    """
    from .studio import load

    out = Path(out)
    assets = out / "assets"
    if assets.exists():
        shutil.rmtree(assets)
    assets.mkdir(parents=True)
    for name in fetch_packages(assets):
        say(f"{name}: fetched, hash as expected")
    sections = {}
    for name in (SECTION, DRAWING):
        sections[name] = write_section(load(name, profile="mini", device="cpu"), assets, say=say)
    manifest = {"runtime": ["ort.mjs", "ort.wasm.gz"], "tokenizer": "tokenizers.mjs", "sections": sections}
    write_page(out, manifest)
    for name, section in sections.items():
        say(f"{out}: {section['bytes'] / 1e6:.1f} MB to download before the first picture of {name}")
    return manifest


def write_section(studio, assets: Path, *, say=print) -> dict[str, object]:
    """Write all that a section adds to the folder, and return what the page has to know of it."""
    name, pipe = studio.section, studio.pipe
    specs = controls(name)
    prompts = EXAMPLES if name == SECTION else [specs["prompt"].default, *section_for(name).examples[:4]]
    drawn = studio.generate(prompt=prompts[0])
    drawn.image.save(assets / f"{name}.webp", quality=80, method=6)
    about = {
        "latents": list(latent_shape(pipe)),
        "side": drawn.image.width,
        "graphs": write_graphs(studio, assets, say=say),
        "tokenizers": write_tokenizers(studio, assets),
        "schedule": schedule(pipe.scheduler),
        "defaults": {control: spec.default for control, spec in specs.items()} | {"prompt": prompts[0]},
        "limits": {control: limits(spec) for control, spec in specs.items() if spec.low is not None},
        "examples": list(prompts),
        "poster": f"{name}.webp",
        "record": record(studio),
        "notebook": section_for(name).notebook,
    }
    if drawn.source is None:
        return about
    drawn.source.save(assets / f"{name}.png")
    return about | {"start": f"{name}.png"}


def controls(section: str = SECTION) -> dict:
    """Return the settings that the page has of a section, by the page's names."""
    names = {"prompt": "prompt", "steps": "num_inference_steps", "strength": "strength"}
    names |= {"guidance": "guidance_scale", "seed": "seed"}
    settings = section_for(section).settings
    return {name: settings[setting] for name, setting in names.items() if setting in settings}


def limits(spec) -> dict[str, float]:
    """Return range and step of a setting's slider."""
    return {"low": spec.low, "high": spec.slider_high or spec.high, "step": spec.step}


def latent_shape(pipe) -> tuple[int, int, int, int]:
    """Return the shape of one picture's latents."""
    config = pipe.unet.config
    return (1, config.in_channels, config.sample_size, config.sample_size)


def schedule(scheduler) -> dict[str, object]:
    """Return what the page's sampler needs of diffusers' ``LCMScheduler``.

    Raises
    ------
    ValueError
        If the scheduler does something that the page's sampler does not.
    """
    config = scheduler.config
    if config.clip_sample or config.thresholding:
        raise ValueError("The page's sampler neither clips nor thresholds; this family's scheduler does.")
    scheduler.set_timesteps(config.original_inference_steps)
    points = scheduler.timesteps.tolist()
    for steps in STEPS:
        scheduler.set_timesteps(steps)
        chosen = [points[i * len(points) // steps] for i in range(steps)]
        if scheduler.timesteps.tolist() != chosen:
            raise ValueError(f"At {steps} steps diffusers visits {scheduler.timesteps.tolist()}, the page {chosen}.")
    return {
        "points": points,
        "alphas_cumprod": {point: scheduler.alphas_cumprod[point].item() for point in points},
        "prediction_type": config.prediction_type,
        "timestep_scaling": config.timestep_scaling,
        "sigma_data": scheduler.sigma_data if hasattr(scheduler, "sigma_data") else 0.5,
    }


def record(studio) -> dict[str, object]:
    """Return what a picture saved from the page says of its making, as ``Result.save`` does."""
    from .models.hashes import checkpoint_hashes

    names = studio.checkpoints
    return {
        "section": studio.section,
        "profile": names.profile,
        "model": names.model,
        "device": names.device,
        "checkpoints": checkpoint_hashes(studio.section, names),
        "versions": {package.name: package.version for package in PACKAGES},
    }


def fetch_packages(assets: Path) -> list[str]:
    """Fetch the runtime and the tokenizer with npm, check them, and return what they are.

    Raises
    ------
    OSError
        If npm is missing or fails, or an archive has another hash.
    """
    if not shutil.which("npm"):
        raise OSError("npm is not installed; it fetches the page's runtime: install Node.js, which brings it.")
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            _unpack(package, _packed(package, Path(folder)), assets)
    binary = assets / "ort.wasm"
    # mtime=0: the same bytes at every export. Hosts that compress by themselves are few for this type.
    (assets / "ort.wasm.gz").write_bytes(gzip.compress(binary.read_bytes(), compresslevel=9, mtime=0))
    binary.unlink()
    return [f"{package.name} {package.version}" for package in PACKAGES]


def _packed(package: Package, folder: Path) -> Path:
    """Return npm's archive of a package."""
    command = ["npm", "pack", "--silent", "--prefer-offline", f"{package.name}@{package.version}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"npm could not fetch {package.name} {package.version}: {done.stderr.strip()[-300:]}")
    archive = folder / done.stdout.split()[-1]
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise OSError(f"npm's {package.name} {package.version} is not the expected file: its sha512 is {found}.")
    return archive


def _unpack(package: Package, archive: Path, assets: Path) -> None:
    with tarfile.open(archive) as members:
        for path, name in package.files.items():
            (assets / name).write_bytes(members.extractfile(f"package/{path}").read())


def write_graphs(studio, assets: Path, *, say=print) -> dict[str, list[str]]:
    """Write a section's graphs and the weights beside them; return graph -> its file and those of its weights.

    Raises
    ------
    ImportError
        If the extra ``web`` is not installed.
    RuntimeError
        If onnxruntime's result differs from torch's by more than ``TOLERANCE``.
    """
    try:
        import onnxruntime

        from .web import graphs
    except ImportError as error:
        raise ImportError(f"{error}; the export needs the extra web: pip install 'lcm_nb[web]'") from None
    import torch

    files = {}
    with torch.no_grad():
        for name, (module, inputs, outputs) in _parts(studio.pipe).items():
            path, sources = assets / _file(studio, name, "onnx"), _sources(studio, name)
            if not path.exists():  # the families' decoder is one
                with _quiet():
                    graphs.write_graph(path, module, inputs, outputs)
                for file, last in graphs.point_into(path, _copied(sources, name, assets)).items():
                    os.truncate(assets / file, last)  # what the graph does not read comes after, and stays away
            files[name] = [path.name, *sources]
            difference = _difference(onnxruntime, path, module, inputs)
            say(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, differs from torch by at most {difference:.0e}")
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{path.name} differs from torch by {difference:.0e}, more than {TOLERANCE:.0e}.")
    return files


def _file(studio, part: str, ending: str) -> str:
    """Return the name of a part's file: the families have the autoencoder in common, and nothing else."""
    common = part in ("encoder", "decoder")
    return f"{part}.{ending}" if common else f"{studio.checkpoints.family}-{part}.{ending}"


def _sources(studio, graph: str) -> dict[str, Path]:
    """Return name of a file of weights -> the family's safetensors that it comes from, for what a graph reads."""
    base = Path(studio.checkpoints.base)
    folders = {graph: base / "vae"}
    if graph == "unet":
        folders = {graph: Path(studio.checkpoints.unet) / studio.checkpoints.options(graph).get("subfolder", "")}
    elif graph == "text":
        folders = {folder.name: folder for folder in sorted(base.glob("text_encoder*"))}
    return {_file(studio, part, "safetensors"): next(folder.glob("*.safetensors")) for part, folder in folders.items()}


def _copied(sources: Mapping[str, Path], graph: str, assets: Path) -> list[Path]:
    """Write the weights beside the graphs, of an autoencoder the half that the graph is, and return the files."""
    from safetensors.torch import load_file, save

    for name, source in sources.items():
        tensors = load_file(source)
        half = {key: tensor for key, tensor in tensors.items() if key.startswith(f"{graph}.layers")}
        (assets / name).write_bytes(save(half or tensors))
    return [assets / name for name in sources]


def _parts(pipe) -> dict[str, tuple]:
    """Return graph -> module, example inputs, names of its outputs."""
    import torch

    from .web.parts import Decoder, Encoder, Text, UNet

    latents = torch.randn(latent_shape(pipe), generator=torch.Generator().manual_seed(0))
    ids = {"ids": _ids(pipe.tokenizer)}
    if second := getattr(pipe, "tokenizer_2", None):
        ids["ids_2"] = _ids(second)
    text = Text(pipe)
    encoded = dict(zip(["embeddings", "pooled"], text(*ids.values())))
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    inputs = {"latents": latents, "timestep": torch.tensor([999.0]), "guidance": torch.tensor([8.0]), **encoded}
    parts = {  # in the order of the download: the UNet takes longest to start, which the others' download hides
        "unet": (UNet(pipe, float(side)), inputs, ["output"]),
        "decoder": (Decoder(pipe.vae), {"latents": latents}, ["picture"]),
        "text": (text, ids, list(encoded)),
    }
    if "Img2Img" in type(pipe).__name__:
        parts["encoder"] = (Encoder(pipe.vae), {"picture": torch.rand(1, 3, side, side)}, ["latents"])
    return parts


def _ids(tokenizer):
    options = dict(padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
    return tokenizer(EXAMPLES[0], return_tensors="pt", **options).input_ids.int()


def _difference(onnxruntime, path: Path, module, inputs: Mapping) -> float:
    """Return the largest difference between onnxruntime and the module."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    wanted = module(*inputs.values())
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    return max(float(abs(a - b.numpy()).max()) for a, b in zip(found, wanted))


class _quiet(warnings.catch_warnings):
    """Hide what the exporter says of itself and of libraries that are not installed."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(self, *error):
        logging.disable(logging.NOTSET)
        super().__exit__(*error)


def write_tokenizers(studio, assets: Path) -> list[dict[str, object]]:
    """Write the pipeline's tokenizers, equal ones once, and return how to use each."""
    written, used = {}, []
    for name in ("tokenizer", "tokenizer_2"):
        if not (tokenizer := getattr(studio.pipe, name, None)):
            continue
        text = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
        file = written.setdefault(text, _file(studio, name, "json"))
        (assets / file).write_text(text, encoding="utf-8")
        ends = {"pad": tokenizer.pad_token_id, "end": tokenizer.eos_token_id}
        used.append({"file": file, "length": tokenizer.model_max_length, **ends})
    return used


def write_page(out: Path, manifest: dict) -> None:
    """Write page, worker, manifest and licences; add to the manifest what each file weighs."""
    assets = out / "assets"
    common, files = [*manifest["runtime"], manifest["tokenizer"]], {}
    for section in manifest["sections"].values():
        needed = [*common, *(entry["file"] for entry in section["tokenizers"])]
        needed += [name for names in section["graphs"].values() for name in names]
        section["needs"] = list(dict.fromkeys(needed))
        files |= {name: _weight(assets / name) for name in section["needs"] if name not in files}
        section["bytes"] = sum(files[name]["bytes"] for name in section["needs"])
    manifest["files"] = files
    for name in PAGE:
        shutil.copyfile(SOURCE / name, out / name)
    shutil.copyfile(SOURCE / "worker.js", assets / "worker.js")
    painter = (WIDGETS / "paint.js").read_text(encoding="utf-8")
    (assets / "paint.js").write_text(f"{painter}export {{ painter }};\n", encoding="utf-8")
    shutil.copyfile(WIDGETS / "inputs.css", assets / "paint.css")
    manifest["version"] = _weight(assets / "worker.js")["sha256"][:12]
    (assets / "manifest.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    (out / "third-party.txt").write_text(third_party(), encoding="utf-8")


def _weight(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def third_party() -> str:
    """Return the notices of the software that the page contains."""
    notices = [f"{package.name} {package.version}: {package.notice}" for package in PACKAGES]
    mit = (SOURCE / "MIT.txt").read_text(encoding="utf-8")  # the package comes without it
    return "\n\n".join([*notices, f"The MIT licence\n\n{mit}"])


def main(argv: list[str] | None = None) -> int:
    """Build the page; return 0, or 2 after a one-line error."""
    parser = argparse.ArgumentParser(prog="python -m lcm_nb.export", description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", type=Path, default=built_folder(), metavar="OUT", help="the folder")
    given = parser.parse_args(argv)
    try:
        export(given.out)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"export: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
