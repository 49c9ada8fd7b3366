"""The SHA-256 of the weights that made a picture."""

import hashlib
from pathlib import Path

from .checkpoints import Checkpoints
from .hub import weight_hashes
from .plans import FP16_VAE, Source, plan_for


def checkpoint_hashes(section: str, names: Checkpoints) -> dict[str, dict[str, str]]:
    """Return by part the name, the SHA-256 of the weights, and for the Hub's parts the commit."""
    if names.profile == "mini":
        return {part: _of_folder(Path(place)) for part, place in names.parts.items()}
    sources = {**plan_for(section, names.model).sources, "vae": FP16_VAE}
    return {part: _of_source(sources[part], names.revisions[part]) for part in names.parts}


def _of_folder(folder: Path) -> dict[str, str]:
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    return {"name": f"lcm_nb mini {folder.name}", "sha256": digest.hexdigest()}


def _of_source(source: Source, commit: str) -> dict[str, str]:
    hashes = weight_hashes(source, commit)
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return {"name": source.repo, "revision": commit, "sha256": whole}
