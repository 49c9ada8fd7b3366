"""The models that there are, as frozen data: one row each in ``MODELS``, one row a section in ``ADDED``.

What the guide profile takes from the Hub stands here (files, sizes, licences, memory), and where the mini family
has the same parts. A new few-step model is a row of ``MODELS``, its scheduler being data like the rest.

Numbers of parameters are those of the published configurations, counted on torch's meta device; activations
are the peak of live tensors at the guide's picture size, traced in the same way. ``tests/full_size.py`` has
both, and ``tests/test_full_size.py`` compares them with the published file sizes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..sections import SECTIONS, section_for
from ..sections.section import Section
from ..settings import Setting

PINS = Path(__file__).with_name("pins.json")  # written by `lcm-nb pin`
MAIN = "main"
PIPELINE = ("model_index.json", "scheduler/*", "tokenizer/*")
VAE, CLIP_L, CLIP_BIG_G = 83_653_863, 123_060_480, 694_659_840


@dataclass(frozen=True)
class Source:
    """What one part of a pipeline takes from one repository of the Hub.

    ``weights`` maps files, without variant and ".safetensors", to the numbers in them;
    ``texts`` are patterns of the small files; ``variant`` is "fp16" only where the
    repository has it; ``unused`` are weights that diffusers' own download takes without need;
    ``is_picture`` says that it is one file of ``texts`` alone.
    Numbers have two bytes in a variant and in a LoRA's file, else four. ``commit`` is
    loaded instead of the pinned one, or of "main", where it is set.
    """

    repo: str
    licence: str
    weights: Mapping[str, int] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    variant: str | None = None
    unused: Mapping[str, int] = field(default_factory=dict)
    is_lora: bool = False
    is_picture: bool = False
    kind: str = "model"
    commit: str | None = None

    def __post_init__(self) -> None:
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
        """Return the commit asked for, else the pinned one, else "main"."""
        return self.commit or pins().get(self.repo, MAIN)

    @property
    def subfolder(self) -> str:
        """Return where the weights of a part that is loaded on its own lie in its repository, "" for the top."""
        return next(iter(self.weights), "").rpartition("/")[0]


@dataclass(frozen=True)
class Model:
    """A few-step model that sections run with.

    Attributes
    ----------
    name
        As ``lcm_nb.load(model=...)`` takes it.
    family
        "xl" or "sd": the shape of its UNet and text encoders.
    sections
        The sections that it runs.
    sources
        Part ("base", "unet", "lcm_lora") -> what it takes from the Hub.
    instead
        Section -> other sources, where the guide takes others there.
    mini
        Part -> folder of ``lcm_nb/mini``, where the mini family has such a model.
    mini_instead
        Section -> other folders.
    scheduler, scheduler_options
        Name of the diffusers class, and what is set besides the base's own configuration.
    settings
        Settings that are other than the section's; by ``_CLASSIFIER_FREE`` guidance runs the UNet twice.
    """

    name: str
    family: str
    sections: tuple[str, ...]
    sources: Mapping[str, Source]
    instead: Mapping[str, Mapping[str, Source]] = field(default_factory=dict)
    mini: Mapping[str, str] = field(default_factory=dict)
    mini_instead: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    scheduler: str = "LCMScheduler"
    scheduler_options: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("sources", "instead", "mini", "mini_instead", "scheduler_options", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def embedded_guidance(self) -> bool:
        """Whether guidance is an input of the UNet (a full LCM), or a second run of it (an LCM-LoRA)."""
        return "guidance_scale" not in self.settings

    def settings_in(self, section: Section, styles: Sequence[str]) -> dict[str, Setting]:
        """Return a section's settings with this model; of the style LoRAs only those that there are."""
        own = {k: v for k, v in section.settings.items() if v.role != "lora" or k in styles}
        more = {name: setting for name, setting in self.settings.items() if name not in own}
        return {"prompt": own["prompt"]} | more | own | dict(self.settings)


@dataclass(frozen=True)
class Added:
    """What a section adds to the models of one family in the guide profile.

    ``sources`` are parts and the picture; ``step``, ``step_twice`` and ``decode`` the bytes that a UNet step (in
    float16; twice: with classifier-free guidance) and the decoding hold besides the weights, at the family's picture
    size; ``detect_side`` is the side in pixels at which edges are detected, where it is not the picture's.
    """

    step: int
    step_twice: int
    decode: int
    sources: Mapping[str, Source] = field(default_factory=dict)
    detect_side: int | None = None


@dataclass(frozen=True)
class Plan:
    """What one section runs with one model: ``sources`` maps parts to what they take from the Hub.

    A section's "picture" and "mask" are among them.
    ``step`` and ``decode`` are bytes as in :class:`Added`, ``mini`` the parts' folders in ``lcm_nb/mini``.
    """

    section: Section
    model: Model
    sources: Mapping[str, Source]
    mini: Mapping[str, str]
    step: int
    decode: int
    detect_side: int | None

    @property
    def family(self) -> str:
        """The model's family, "xl" or "sd"."""
        return self.model.family

    @property
    def numbers(self) -> dict[str, int]:
        """Return the parameters of each module that takes memory of the device, LoRAs as one."""
        found: dict[str, int] = {}
        for part, source in self.sources.items():
            for stem, count in source.weights.items():
                name = stem.partition("/")[0] if part == "base" else part.replace("lcm_lora", "loras")
                found[name] = found.get(name, 0) + count
        return found

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the style LoRAs that the guide profile has."""
        return tuple(self.sources["loras"].weights) if "loras" in self.sources else ()


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
_INPAINTING = "stable-diffusion-v1-5/stable-diffusion-inpainting"
_DREAMSHAPER, _UNET, _FLAT = "SimianLuo/LCM_Dreamshaper_v7", "unet/diffusion_pytorch_model", "diffusion_pytorch_model"
_SD_UNET, _SAFETY = {_UNET: 859_520_964}, {"safety_checker/model": 303_981_588}

_SDXL_WITHOUT_UNET = _base(_SDXL_REPO, _OPENRAIL, {}, xl=True)
_SDXL_WHOLE = _base(_SDXL_REPO, _OPENRAIL, {_UNET: 2_567_463_684}, xl=True)
_SSD_WITHOUT_UNET = _base("segmind/SSD-1B", "apache-2.0", {}, xl=True)
_SSD_WHOLE = _base("segmind/SSD-1B", "apache-2.0", {_UNET: 1_331_334_404}, xl=True)
_SD_WHOLE = _base(_SD_REPO, "creativeml-openrail-m", _SD_UNET | _SAFETY, xl=False)
_SD_UNSAFE = _base(_SD_REPO, "creativeml-openrail-m", _SD_UNET, xl=False)
# 9 channels go into this UNet: the latents' 4, the mask, and the 4 of the picture with a hole.
_SD_INPAINTING = _base(_INPAINTING, "creativeml-openrail-m", {_UNET: 859_535_364} | _SAFETY, xl=False)
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
_LIGHTNING = _lora("ByteDance/SDXL-Lightning", "sdxl_lightning_4step_lora", 196_751_360, _OPENRAIL)
_HYPER = _lora("ByteDance/Hyper-SD", "Hyper-SDXL-4steps-lora", 393_502_720, _OPENRAIL)  # of rank 128, not 64
_TCD = _lora("h1t/TCD-SDXL-LoRA", "pytorch_lora_weights", 196_751_360, "mit")
_DMD2 = _lora("tianweiy/DMD2", "dmd2_sdxl_4step_lora_fp16", 196_751_360, "cc-by-nc-4.0")
# Decodes in float16, where SDXL's own VAE overflows and must be turned into float32.
FP16_VAE = Source("madebyollin/sdxl-vae-fp16-fix", "mit", {_FLAT: VAE})
# A thirtieth of the VAE's size; fine detail is lost.
TINY_VAE = 2_445_063
# What makes a picture faster at a price -> family -> the VAE that is taken instead of the base's own.
VAES: Mapping[str, Mapping[str, Source]] = MappingProxyType(
    {
        "fp16-vae": {"xl": FP16_VAE},
        "tiny-vae": {
            "xl": Source("madebyollin/taesdxl", "mit", {_FLAT: TINY_VAE}),
            "sd": Source("madebyollin/taesd", "mit", {_FLAT: TINY_VAE}),
        },
    }
)


def _picture(file: str) -> Source:
    return Source("huggingface/documentation-images", "cc-by-nc-sa-4.0", texts=(file,), is_picture=True, kind="dataset")


_LANDSCAPE, _VERMEER = _picture("diffusers/img2img-init.png"), _picture("diffusers/input_image_vermeer.png")
_CASTLE, _CASTLE_MASK = _picture("diffusers/inpaint.png"), _picture("diffusers/inpaint_mask.png")
# The guide's T2I-Adapter section starts from a picture that lies in a repository of models.
_MAP = Source("Adapter/t2iadapter", "apache-2.0", texts=("figs_SDXLV1.0/org_canny.jpg",), is_picture=True)

_CLASSIFIER_FREE = {
    "negative_prompt": Setting(
        "", "what to keep away from; acts where guidance is above 1", kind="text", optional=True, label="negative"
    ),
    "guidance_scale": Setting(
        1.0,
        "how strongly the prompt pulls; above 1 every step runs the UNet twice, above 2 colours burn out",
        1.0,
        2.0,
        0.1,
        label="guidance",
    ),
}
# LoRAs that were made for four steps, without guidance.
_FOUR_STEPS = _CLASSIFIER_FREE | {
    "num_inference_steps": Setting(4, "steps of the sampler; this model was made for four", 1, 4, 1, label="steps")
}
_TRAILING = {"timestep_spacing": "trailing"}
_ETA = Setting(
    0.3,
    "how much of each step's end is noise drawn anew: 0 is none, 1 nearly an LCM's; the more steps, the more of it",
    0.0,
    1.0,
    0.1,
)


def _on_sdxl(name: str, lora: Source, settings: Mapping[str, Setting] = _FOUR_STEPS, **scheduler: Any) -> Model:
    """Return a model that a LoRA makes of SDXL, for text alone."""
    return Model(
        name, "xl", ("text-to-image",), {"base": _SDXL_WHOLE, "lcm_lora": lora}, settings=settings, **scheduler
    )


# The first of a section is the guide's own.
MODELS: tuple[Model, ...] = (
    Model(
        "lcm-sdxl",
        "xl",
        ("text-to-image", "style-lora", "t2i-adapter"),
        {"base": _SDXL_WITHOUT_UNET, "unet": _LCM_SDXL},
        mini={"base": "base", "unet": "lcm"},
    ),
    Model("lcm-ssd-1b", "xl", ("text-to-image",), {"base": _SSD_WITHOUT_UNET, "unet": _LCM_SSD}),
    Model(
        "lcm-lora-sdxl",
        "xl",
        ("text-to-image", "style-lora", "t2i-adapter"),
        {"base": _SDXL_WHOLE, "lcm_lora": _LCM_LORA_SDXL},
        settings=_CLASSIFIER_FREE,
    ),
    _on_sdxl("sdxl-lightning", _LIGHTNING, scheduler="EulerDiscreteScheduler", scheduler_options=_TRAILING),
    _on_sdxl("hyper-sd", _HYPER, scheduler="DDIMScheduler", scheduler_options=_TRAILING),
    _on_sdxl("tcd", _TCD, scheduler="TCDScheduler", settings=_CLASSIFIER_FREE | {"eta": _ETA}),
    _on_sdxl("dmd2", _DMD2, scheduler_options={"original_inference_steps": 4}),  # 999, 749, 499, 249: as it was trained
    Model(
        "lcm-lora-ssd-1b",
        "xl",
        ("text-to-image",),
        {"base": _SSD_WHOLE, "lcm_lora": _LCM_LORA_SSD},
        settings=_CLASSIFIER_FREE,
    ),
    Model(
        "lcm-lora-sd-inpainting",
        "sd",
        ("inpainting",),
        {"base": _SD_INPAINTING, "lcm_lora": _LCM_LORA_SD},
        settings=_CLASSIFIER_FREE
        | {
            "guidance_scale": Setting(
                4.0,
                "how strongly the prompt pulls; above 1 every step runs the UNet twice; the guide passes 4 here, and "
                "advises 1 to 2 elsewhere",
                1.0,
                8.0,
                0.5,
                label="guidance",
            )
        },
    ),
    Model(
        "lcm-dreamshaper-v7",
        "sd",
        ("image-to-image", "controlnet", "inpainting"),
        {"base": _DREAMSHAPER_BASE, "unet": _LCM_DREAMSHAPER_UNET},
        instead={"controlnet": {"base": _LCM_DREAMSHAPER_WHOLE}},
        mini={"base": "sd", "unet": "sd-lcm"},
        mini_instead={"controlnet": {"base": "sd-lcm"}},
    ),
    Model(
        "lcm-lora-sdv1-5",
        "sd",
        ("text-to-image", "image-to-image", "controlnet", "inpainting"),
        {"base": _SD_WHOLE, "lcm_lora": _LCM_LORA_SD},
        instead={"controlnet": {"base": _SD_UNSAFE, "lcm_lora": _LCM_LORA_SD}},
        mini={"base": "sd", "lcm_lora": "lcm-lora", "loras": "sd-loras"},  # the style is there for plain code
        settings=_CLASSIFIER_FREE,
    ),
)
# bytes of a UNet step, of one with classifier-free guidance, and of the decoding, which for SDXL is in float32
_AT_1024, _AT_768, _AT_512 = (
    (165_606_036, 331_211_040, 3_221_487_616),
    (153_549_960, 307_098_888, 906_043_392),
    (88_726_664, 177_452_296, 402_685_952),
)
ADDED: Mapping[tuple[str, str], Added] = MappingProxyType(
    {
        ("text-to-image", "xl"): Added(*_AT_1024),
        ("text-to-image", "sd"): Added(*_AT_768),
        ("image-to-image", "sd"): Added(*_AT_768, {"picture": _LANDSCAPE}),
        # the guide's pictures have 512 pixels here, those of lcm-dreamshaper-v7 768
        ("inpainting", "sd"): Added(*_AT_768, {"picture": _CASTLE, "mask": _CASTLE_MASK}),
        ("style-lora", "xl"): Added(*_AT_1024, {"loras": _PAPERCUT}),
        ("controlnet", "sd"): Added(*_AT_512, {"controlnet": _CANNY, "picture": _VERMEER}),
        ("t2i-adapter", "xl"): Added(
            215_274_132, 430_548_264, 3_825_516_544, {"adapter": _ADAPTER, "picture": _MAP}, detect_side=384
        ),
    }
)


def _plan(section: str, model: Model) -> Plan:
    own, added = section_for(section), ADDED[section, model.family]
    return Plan(
        own,
        model,
        MappingProxyType({**model.instead.get(section, model.sources), **added.sources}),
        MappingProxyType({**model.mini_instead.get(section, model.mini), **own.mini} if model.mini else {}),
        added.step if model.embedded_guidance else added.step_twice,
        added.decode,
        added.detect_side,
    )


PLANS: Mapping[str, Mapping[str, Plan]] = MappingProxyType(
    {
        section: MappingProxyType({model.name: _plan(section, model) for model in MODELS if section in model.sections})
        for section in SECTIONS
    }
)


def models(section: str) -> tuple[str, ...]:
    """Return the models that a section runs with; the first is the guide's.

    Raises
    ------
    ValueError
        If there is no such section.
    """
    return tuple(PLANS[section_for(section).name])


def plan_for(section: str, model: str | None = None, profile: str = "guide") -> Plan:
    """Return the plan of a section with a model; if left out, the guide's, or the first that the mini family has.

    Raises
    ------
    ValueError
        For an unknown section or model; the message lists those that there are.
    """
    known = models(section)
    if model is not None and model not in known:
        raise ValueError(f"{section} has no model {model!r}; choose one of: {', '.join(known)}.")
    own = [name for name in known if profile == "guide" or PLANS[section][name].mini]
    return PLANS[section][model or own[0]]


def repositories() -> dict[str, str]:
    """Return every repository of the plans, with its kind, "model" or "dataset"."""
    sources = [source for plans in PLANS.values() for plan in plans.values() for source in plan.sources.values()]
    return {source.repo: source.kind for source in (*sources, *other_vaes().values())}


def other_vaes() -> dict[str, Source]:
    """Return repository -> VAE that can be taken instead of a base's own."""
    return {source.repo: source for families in VAES.values() for source in families.values()}


def pins() -> dict[str, str]:
    """Return repository -> commit, as `lcm-nb pin` wrote them.

    Raises
    ------
    ValueError
        If the file holds something else; with the remedy.
    """
    if not PINS.is_file():
        return {}
    try:
        found = json.loads(PINS.read_text())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(commit, str) for commit in found.values()):
        raise ValueError(f"{PINS} is damaged; delete it, or run `lcm-nb pin` again.")
    return found
