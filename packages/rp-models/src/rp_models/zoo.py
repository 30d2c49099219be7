"""Every network by name: `build("wrn-28-10-swish", num_classes=10)`.

An entry names a class and default arguments; building imports only that class's module. A model that was built here
carries its name and arguments as `model.recipe`, which is what a checkpoint's header stores.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from rp_models.foreign import build_foreign, find_factory, is_foreign
from rp_models.networks.normalization import CIFAR10, CIFAR100, IMAGENET, SVHN, TINY_IMAGENET


class Recipe(NamedTuple):
    """How a model was built: its zoo name and all arguments that differ from the entry's own."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A zoo entry: where the class is, its arguments for this size, and where the network comes from."""

    target: str  # "module:Class" inside rp_models
    arguments: dict[str, Any] = field(default_factory=dict)
    paper: str = ""


def _family(target: str, paper: str, members: Mapping[str, Mapping[str, Any]]) -> dict[str, Entry]:
    """Entries of one class: their arguments by name."""
    return {name: Entry(target, dict(arguments), paper) for name, arguments in members.items()}


_EDM: dict[str, Any] = {"img_channels": 3, "model_type": "SongUNet", "augment_dim": 9}
_VE = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}
_SMALL_MAE = {"in_channels": 1, "heads": 4, "decoder_depth": 2, "decoder_heads": 4}
_TRANSFORMERS = {  # width, depth, heads
    "s": {"width": 384, "depth": 12, "heads": 6},
    "b": {"width": 768, "depth": 12, "heads": 12},
    "l": {"width": 1024, "depth": 24, "heads": 16},
    "xl": {"width": 1152, "depth": 28, "heads": 16},
}
_STATISTICS = {
    "": (10, CIFAR10),
    "-cifar100": (100, CIFAR100),
    "-svhn": (10, SVHN),
    "-tiny-imagenet": (200, TINY_IMAGENET),
}

ENTRIES: dict[str, Entry] = {
    "vp-precond": Entry("diffusion.precondition:VPPrecond", {}, "arXiv:2011.13456"),
    "ve-precond": Entry("diffusion.precondition:VEPrecond", {}, "arXiv:2011.13456"),
    **_family(
        "diffusion.precondition:EDMPrecond",
        "arXiv:2206.00364",
        {
            "edm": {},
            **{
                f"edm-{name}-{kind}": _EDM | size | network
                for name, size in (
                    (
                        "cifar10-cond",
                        {"img_resolution": 32, "label_dim": 10, "channel_mult": [2, 2, 2], "dropout": 0.13},
                    ),
                    ("cifar10-uncond", {"img_resolution": 32, "channel_mult": [2, 2, 2], "dropout": 0.13}),
                    ("ffhq-uncond", {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.05}),
                    ("afhqv2-uncond", {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.25}),
                )
                for kind, network in (("vp", {}), ("ve", _VE | {"resample_filter": [1, 3, 3, 1]}))
            },
            "edm-imagenet64-cond-adm": {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "use_fp16": True}
            | {"model_type": "DhariwalUNet"},
            "edm-digits": {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet"}
            | {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0},
        },
    ),
    "wide-resnet": Entry("networks.wide_resnet:WideResNet", {}, "arXiv:1605.07146"),
    **_family(
        "networks.wide_resnet:WideResNet",
        "arXiv:1605.07146",
        {
            f"wrn-{depth}-{width}": {"depth": depth, "width": width}
            for depth, width in ((16, 4), (40, 2), (28, 10), (34, 10), (34, 20), (70, 16))
        },
    ),
    # WideResNet of DM-AT; CIFAR-10's statistics unless the name says otherwise
    "dm-wide-resnet": Entry("networks.wide_resnet:DMWideResNet", {}, "arXiv:2010.03593"),
    **_family(
        "networks.wide_resnet:DMWideResNet",
        "arXiv:2302.04638",
        {
            f"wrn-{depth}-{width}-swish{suffix}": {"depth": depth, "width": width, "num_classes": classes}
            | statistics._asdict()
            for depth, width in ((16, 4), (28, 10), (34, 10), (34, 20), (70, 16), (82, 8), (94, 16))
            for suffix, (classes, statistics) in _STATISTICS.items()
        },
    ),
    "preact-resnet": Entry("networks.preact_resnet:PreActResNet", {}, "arXiv:1603.05027"),
    "dm-preact-resnet": Entry("networks.preact_resnet:DMPreActResNet", {}, "arXiv:2010.03593"),
    **_family(
        "networks.preact_resnet:PreActResNet",
        "arXiv:1603.05027",
        {f"preact-resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101)},
    ),
    **_family(
        "networks.preact_resnet:DMPreActResNet",
        "arXiv:2010.03593",
        {f"preact-resnet{depth}-swish": {"depth": depth, **CIFAR10._asdict()} for depth in (18, 34)},
    ),
    # post-activation ResNets for small images
    "cifar-resnet": Entry("networks.resnet:CifarResNet", {}, "arXiv:1512.03385"),
    **_family(
        "networks.resnet:CifarResNet",
        "arXiv:1512.03385",
        {f"resnet{depth}-cifar": {"depth": depth} for depth in (18, 34, 50)},
    ),
    # backbones of timm
    "timm": Entry("networks.backbones:Backbone"),
    **{
        name: Entry("networks.backbones:Backbone", {"model": model, **IMAGENET._asdict()}, paper)
        for name, model, paper in (
            ("vit-b16-dinov3", "vit_base_patch16_dinov3", "arXiv:2508.10104"),
            ("convnext-b", "convnext_base", "arXiv:2201.03545"),
            ("resnet50", "resnet50", "arXiv:1512.03385"),
            ("resnet101", "resnet101", "arXiv:1512.03385"),
        )
    },
    # masked autoencoders: the official sizes at 224 pixels, one for 32, and two for small grey images
    **_family(
        "networks.mae:MaskedAutoencoder",
        "arXiv:2111.06377",
        {
            "mae": {},
            "mae-vit-base": _TRANSFORMERS["b"] | IMAGENET._asdict(),
            "mae-vit-large": _TRANSFORMERS["l"] | IMAGENET._asdict(),
            "mae-vit-huge": {"width": 1280, "depth": 32, "heads": 16, "patch_size": 14, **IMAGENET._asdict()},
            "mae-vit-base-p4-32": _TRANSFORMERS["b"] | {"image_size": 32, "patch_size": 4, **IMAGENET._asdict()},
            "mae-digits": _SMALL_MAE | {"image_size": 8, "patch_size": 2, "width": 48, "depth": 3, "decoder_width": 32},
            "mae-fashion-mnist": _SMALL_MAE
            | {"image_size": 28, "patch_size": 4, "width": 128, "depth": 6, "decoder_width": 64},
        },
    ),
    **_family(
        "networks.vit:VisionTransformer",
        "arXiv:2010.11929",
        {
            "vit": {},
            "vit-b2-32": {"image_size": 32, "patch_size": 2, "num_classes": 10, **CIFAR10._asdict()},
            "vit-digits": {"image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10}
            | {"width": 64, "depth": 4, "heads": 4},
        },
    ),
    # MaskDiT: on the 4-channel latents of 256 px images (512 px: image_size=64), then on pixels
    **_family(
        "diffusion.maskdit:MaskDiT",
        "arXiv:2306.09305",
        {
            "maskdit": {},
            **{f"maskdit-{size}-2-256": sizes for size, sizes in _TRANSFORMERS.items()},
            "maskdit-h-2-256": {"width": 1280, "depth": 32, "heads": 16},
            **{
                f"maskdit-{data}": {"image_size": image_size, "in_channels": channels, "patch_size": patch_size}
                | {"width": width, "depth": depth, "heads": 4, "num_classes": 0, "learned_positions": True}
                | {"decoder_width": width, "decoder_depth": decoder_depth, "decoder_heads": 4}
                for data, image_size, channels, patch_size, width, depth, decoder_depth in (
                    ("digits", 8, 1, 2, 64, 3, 2),
                    ("fashion-mnist", 28, 1, 4, 128, 6, 3),
                    ("cifar10", 32, 3, 4, 128, 6, 3),
                )
            },
        },
    ),
    # LightningDiT: on VA-VAE's latents of 256 px images; "lightningdit" takes every flag
    **_family(
        "networks.lightningdit:LightningDiT",
        "arXiv:2501.01423",
        {"lightningdit": {}, **{f"lightningdit-{size}-1": sizes for size, sizes in _TRANSFORMERS.items()}},
    ),
    # SiT with REPA's projector
    **_family("networks.sit:SiT", "arXiv:2410.06940", {"sit": {}, "sit-xl-2-repa": {}}),
    # autoencoders and the normalisation of their latents
    "autoencoder-kl": Entry("networks.vae:AutoencoderKL", {}, "arXiv:2112.10752"),
    "vavae-f16d32": Entry("networks.vae:AutoencoderKL", {}, "arXiv:2501.01423"),
    "sdvae-f8d4": Entry(
        "networks.vae:AutoencoderKL",
        {"multipliers": [1, 2, 4, 4], "attention": [False] * 4, "z_channels": 4},
        "arXiv:2112.10752",
    ),
    "latent-normalization": Entry("networks.vae:LatentNormalization", {}, "arXiv:2501.01423"),
}


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def build(name: str, **arguments: Any) -> nn.Module:
    """Build a network of the zoo with fresh weights, or one of your own code.

    Returns the module in train mode (that of a factory as it comes), with `model.recipe` set. Raises ValueError for an
    unknown name (the message offers the nearest ones), an unknown argument, or a factory that is not there or makes no
    torch module.

    Args:
        name: an entry's name, see `names()`; or `package.module:factory` or `file.py:factory`: this executes that code.
        **arguments: override the entry's arguments, or are those of the factory; JSON values only, so that a checkpoint
            can store them.
    """
    try:
        if is_foreign(name):
            model = build_foreign(name, **arguments)
        else:
            model = constructor(name)(**{**find(name).arguments, **arguments})
    except TypeError as error:
        if "unexpected keyword" not in str(error) and "missing" not in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error
    model.recipe = Recipe(name, arguments)  # type: ignore[assignment]
    return model


def build_entry(name: str, **arguments: Any) -> nn.Module:
    """`build` for a name that a file gives: an entry of the zoo, never code from elsewhere.

    Raises ValueError: as `build`, and for a name of code outside rp-models.
    """
    if is_foreign(name):
        raise ValueError(
            f"the network is made by code outside rp-models ({name}), which no file may start; if you trust it, name "
            "it: rp_models.load(path, code=...)"
        )
    return build(name, **arguments)


def constructor(name: str) -> Any:
    """What `build` calls: the class of an entry, or the factory of a name of other code."""
    if is_foreign(name):
        return find_factory(name)
    module, _, attribute = find(name).target.partition(":")
    return getattr(import_module(f"rp_models.{module}"), attribute)


def names(pattern: str = "") -> list[str]:
    """The names of all entries that contain `pattern`, sorted."""
    return sorted(name for name in ENTRIES if pattern in name)


class Listed(NamedTuple):
    """One line of the zoo's listing; parameters are None for a generic entry whose sizes must be given."""

    name: str
    parameters: int | None
    paper: str


def listing(pattern: str = "") -> list[Listed]:
    """All entries that contain `pattern`, with parameter counts and papers; allocates no weights.

    Entries of optional libraries that are not installed are counted as None.
    """
    lines = []
    for name in names(pattern):
        try:
            parameters = parameter_count(name)
        except (ValueError, ImportError):
            parameters = None
        lines.append(Listed(name, parameters, ENTRIES[name].paper))
    return lines


def find(name: str) -> Entry:
    """The entry of that name. Raises ValueError for an unknown name; the message offers the nearest ones."""
    if name not in ENTRIES:
        near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.4)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "rp_models.names() lists all; your own: file.py:factory"
        )
        raise ValueError(f"unknown network {name!r}; {hint}")
    return ENTRIES[name]


def parameter_count(name: str, **arguments: Any) -> int:
    """The number of parameters of an entry, counted without allocating them (on the meta device)."""
    with torch.device("meta"):
        model = build(name, **arguments)
    return sum(parameter.numel() for parameter in model.parameters())
