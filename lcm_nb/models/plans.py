"""What the guide profile takes from the Hub, as frozen data: files, sizes, licences, and the memory that they need.

Numbers of parameters are those of the published configurations, counted on torch's meta device; activations
are the peak of live tensors at the guide's picture size, traced in the same way. ``tests/full_size.py`` has
both, and ``tests/test_full_size.py`` compares them with the published file sizes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ..settings import RECIPES, recipe_for

PINS = Path(__file__).with_name("pins.json")  # written by `lcm-nb pin`
MAIN = "main"
PIPELINE = ("model_index.json", "scheduler/*", "tokenizer/*")
VAE, CLIP_L, CLIP_BIG_G = 83_653_863, 123_060_480, 694_659_840


@dataclass(frozen=True)
class Source:
    """What one part of a pipeline takes from one repository of the Hub.

    ``weights`` maps files, without variant and ".safetensors", to the numbers in them;
    ``texts`` are patterns of the small files; ``variant`` is "fp16" only where the
    repository has it; ``unused`` are weights that diffusers' own download takes without need.
    Numbers have two bytes in a variant and in a LoRA's file, else four.
    """

    repo: str
    licence: str
    weights: Mapping[str, int] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    variant: str | None = None
    unused: Mapping[str, int] = field(default_factory=dict)
    is_lora: bool = False
    kind: str = "model"

    def __post_init__(self):
        for name in ("weights", "unused"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of the weight files."""
        ending = f".{self.variant}.safetensors" if self.variant else ".safetensors"
        return tuple(f"{stem}{ending}" for stem in (*self.weights, *self.unused))

    @property
    def patterns(self) -> tuple[str, ...]:
        """Return all that is downloaded; "*" stands for a folder's files."""
        folders = {stem.rpartition("/")[0] for stem in self.weights if not self.is_lora}
        return (*self.files, *sorted(f"{folder}/config.json".lstrip("/") for folder in folders), *self.texts)

    @property
    def size(self) -> int:
        """Return the download in bytes, without the small files."""
        return sum(self.sizes.values())

    @property
    def sizes(self) -> dict[str, int]:
        """Return weight file -> bytes."""
        numbers, width = [*self.weights.values(), *self.unused.values()], 2 if self.variant or self.is_lora else 4
        return {file: width * count for file, count in zip(self.files, numbers, strict=True)}

    @property
    def revision(self) -> str:
        """Return the pinned commit, else "main"."""
        return pins().get(self.repo, MAIN)


@dataclass(frozen=True)
class Plan:
    """What one section runs with one model.

    ``family`` is "xl" or "sd"; ``sources`` maps parts ("base", "unet", "controlnet",
    "adapter", "lcm_lora", "loras", "picture") to what they take; ``step`` and ``decode`` are the
    bytes that a UNet step (in float16) and the decoding hold besides the weights, at the model's picture
    size; ``detect_side`` is the side in pixels at which edges are detected, where it is not the picture's.
    """

    family: str
    sources: Mapping[str, Source]
    step: int
    decode: int
    detect_side: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "sources", MappingProxyType(dict(self.sources)))

    @property
    def embedded_guidance(self) -> bool:
        """Whether guidance is an input of the UNet (a full LCM), or a second run of it (an LCM-LoRA)."""
        return "lcm_lora" not in self.sources

    @property
    def numbers(self) -> dict[str, int]:
        """Return the parameters of each module that takes memory of the device, LoRAs as one."""
        found: dict[str, int] = {}
        for part, source in self.sources.items():
            for stem, count in source.weights.items():
                name = stem.partition("/")[0] if part == "base" else part.replace("lcm_lora", "loras")
                found[name] = found.get(name, 0) + count
        return found


def _base(repo: str, licence: str, more: Mapping[str, int], *, xl: bool, variant: str | None = "fp16") -> Source:
    """Return what a pipeline's repository gives: what all have, and ``more`` weights."""
    numbers = {"vae/diffusion_pytorch_model": VAE, "text_encoder/model": CLIP_L}
    numbers |= {"text_encoder_2/model": CLIP_BIG_G} if xl else {}
    texts = (*PIPELINE, "tokenizer_2/*" if xl else "feature_extractor/*")
    unused = {"vae_1_0/diffusion_pytorch_model": VAE} if repo == _SDXL_REPO else {}
    return Source(repo, licence, {**numbers, **more}, texts, variant, unused)


def _lora(repo: str, name: str, numbers: int, licence: str) -> Source:
    return Source(repo, licence, {name: numbers}, is_lora=True)


_OPENRAIL, _SDXL_REPO, _SD_REPO = (
    "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0",
    "stable-diffusion-v1-5/stable-diffusion-v1-5",
)
_DREAMSHAPER, _UNET, _FLAT = "SimianLuo/LCM_Dreamshaper_v7", "unet/diffusion_pytorch_model", "diffusion_pytorch_model"
_SD_UNET, _SAFETY = {_UNET: 859_520_964}, {"safety_checker/model": 303_981_588}

_SDXL_WITHOUT_UNET = _base(_SDXL_REPO, _OPENRAIL, {}, xl=True)
_SDXL_WHOLE = _base(_SDXL_REPO, _OPENRAIL, {_UNET: 2_567_463_684}, xl=True)
_SSD_WITHOUT_UNET = _base("segmind/SSD-1B", "apache-2.0", {}, xl=True)
_SSD_WHOLE = _base("segmind/SSD-1B", "apache-2.0", {_UNET: 1_331_334_404}, xl=True)
_SD_WHOLE = _base(_SD_REPO, "creativeml-openrail-m", _SD_UNET | _SAFETY, xl=False)
_SD_UNSAFE = _base(_SD_REPO, "creativeml-openrail-m", _SD_UNET, xl=False)
_DREAMSHAPER_BASE = _base("Lykon/dreamshaper-7", "creativeml-openrail-m", _SAFETY, xl=False)
_LCM_DREAMSHAPER_WHOLE = _base(_DREAMSHAPER, "mit", {_UNET: 859_602_884}, xl=False, variant=None)
_LCM_DREAMSHAPER_UNET = Source(_DREAMSHAPER, "mit", {_UNET: 859_602_884})
_LCM_SDXL = Source("latent-consistency/lcm-sdxl", _OPENRAIL, {_FLAT: 2_567_545_604}, variant="fp16")
_LCM_SSD = Source("latent-consistency/lcm-ssd-1b", _OPENRAIL, {_FLAT: 1_331_416_324}, variant="fp16")
_CANNY = Source("lllyasviel/sd-controlnet-canny", "openrail", {_FLAT: 361_279_120})
_ADAPTER = Source("TencentARC/t2i-adapter-canny-sdxl-1.0", "apache-2.0", {_FLAT: 79_028_160}, variant="fp16")
_PAPERCUT = _lora("TheLastBen/Papercut_SDXL", "papercut", 170_229_760, "creativeml-openrail-m")
_LCM_LORA_SDXL, _LCM_LORA_SSD, _LCM_LORA_SD = (
    _lora(f"latent-consistency/lcm-lora-{name}", "pytorch_lora_weights", numbers, "openrail++")
    for name, numbers in (("sdxl", 196_751_360), ("ssd-1b", 104_902_656), ("sdv1-5", 67_252_224))
)
# Decodes in float16, where SDXL's own VAE overflows and must be turned into float32.
FP16_VAE = Source("madebyollin/sdxl-vae-fp16-fix", "mit", {_FLAT: VAE})


def _picture(file: str) -> Source:
    return Source("huggingface/documentation-images", "cc-by-nc-sa-4.0", texts=(file,), kind="dataset")


_LANDSCAPE, _VERMEER = _picture("diffusers/img2img-init.png"), _picture("diffusers/input_image_vermeer.png")
_XL_LCM = {"base": _SDXL_WITHOUT_UNET, "unet": _LCM_SDXL}
_XL_LORA = {"base": _SDXL_WHOLE, "lcm_lora": _LCM_LORA_SDXL}
# bytes of a UNet step and of the decoding, which for SDXL is in float32
_STEP_XL, _STEP_XL_TWICE, _STEP_XL_ADAPTER, _STEP_XL_ADAPTER_TWICE = 165_606_036, 331_211_040, 215_274_132, 430_548_264
_AT_1024, _AT_1216 = 3_221_487_616, 3_825_516_544
_SD_768, _SD_768_TWICE = (153_549_960, 906_043_392), (307_098_888, 906_043_392)
_SD_CONTROL, _SD_CONTROL_TWICE = (88_726_664, 402_685_952), (177_452_296, 402_685_952)
_PLAN = {
    "text-to-image": {
        "lcm-sdxl": Plan("xl", _XL_LCM, _STEP_XL, _AT_1024),
        "lcm-ssd-1b": Plan("xl", {"base": _SSD_WITHOUT_UNET, "unet": _LCM_SSD}, _STEP_XL, _AT_1024),
        "lcm-lora-sdxl": Plan("xl", _XL_LORA, _STEP_XL_TWICE, _AT_1024),
        "lcm-lora-ssd-1b": Plan("xl", {"base": _SSD_WHOLE, "lcm_lora": _LCM_LORA_SSD}, _STEP_XL_TWICE, _AT_1024),
        "lcm-lora-sdv1-5": Plan("sd", {"base": _SD_WHOLE, "lcm_lora": _LCM_LORA_SD}, *_SD_768_TWICE),
    },
    "image-to-image": {
        "lcm-dreamshaper-v7": Plan(
            "sd", {"base": _DREAMSHAPER_BASE, "unet": _LCM_DREAMSHAPER_UNET, "picture": _LANDSCAPE}, *_SD_768
        ),
        "lcm-lora-sdv1-5": Plan(
            "sd", {"base": _SD_WHOLE, "lcm_lora": _LCM_LORA_SD, "picture": _LANDSCAPE}, *_SD_768_TWICE
        ),
    },
    "style-lora": {
        "lcm-sdxl": Plan("xl", _XL_LCM | {"loras": _PAPERCUT}, _STEP_XL, _AT_1024),
        "lcm-lora-sdxl": Plan("xl", _XL_LORA | {"loras": _PAPERCUT}, _STEP_XL_TWICE, _AT_1024),
    },
    "controlnet": {
        "lcm-dreamshaper-v7": Plan(
            "sd", {"base": _LCM_DREAMSHAPER_WHOLE, "controlnet": _CANNY, "picture": _VERMEER}, *_SD_CONTROL
        ),
        "lcm-lora-sdv1-5": Plan(
            "sd",
            {"base": _SD_UNSAFE, "controlnet": _CANNY, "lcm_lora": _LCM_LORA_SD, "picture": _VERMEER},
            *_SD_CONTROL_TWICE,
        ),
    },
    "t2i-adapter": {
        "lcm-sdxl": Plan(
            "xl", _XL_LCM | {"adapter": _ADAPTER, "picture": _VERMEER}, _STEP_XL_ADAPTER, _AT_1216, detect_side=384
        ),
        "lcm-lora-sdxl": Plan(
            "xl",
            _XL_LORA | {"adapter": _ADAPTER, "picture": _VERMEER},
            _STEP_XL_ADAPTER_TWICE,
            _AT_1216,
            detect_side=384,
        ),
    },
}
PLANS: Mapping[str, Mapping[str, Plan]] = MappingProxyType({k: MappingProxyType(v) for k, v in _PLAN.items()})


def models(section: str) -> tuple[str, ...]:
    """Return the models that a section runs with; the first is the guide's.

    Raises
    ------
    ValueError
        If there is no such section.
    """
    recipe_for(section)
    return tuple(PLANS[section])


def plan_for(section: str, model: str | None = None) -> Plan:
    """Return the plan of a section with a model, the guide's if left out.

    Raises
    ------
    ValueError
        For an unknown section or model; the message lists those that there are.
    """
    known = models(section)
    if model is not None and model not in known:
        raise ValueError(f"{section} has no model {model!r}; choose one of: {', '.join(known)}.")
    return PLANS[section][model or known[0]]


def repositories() -> dict[str, str]:
    """Return every repository of the plans, with its kind, "model" or "dataset"."""
    sources = [source for section in RECIPES for plan in PLANS[section].values() for source in plan.sources.values()]
    return {source.repo: source.kind for source in (*sources, FP16_VAE)}


def pins() -> dict[str, str]:
    """Return repository -> commit, as `lcm-nb pin` wrote them."""
    return json.loads(PINS.read_text()) if PINS.is_file() else {}
