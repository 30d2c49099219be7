"""Python code in which RobustBench builds a network of ours: a class of its own or of timm, and the zoo's entry."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rp_models import zoo
from rp_models.checkpoint import CheckpointError
from rp_models.networks.backbones import Backbone
from rp_models.networks.classifier import BLOCKS
from rp_models.networks.dm_wide_resnet import DMWideResNet, RaWideResNet
from rp_models.networks.preact_resnet import DMPreActResNet, PreActResNet
from rp_models.networks.resnet import CifarResNet
from rp_models.networks.timm_variants import Swin
from rp_models.networks.vit import VisionTransformer
from rp_models.networks.wide_resnet import WideResNet
from torch import nn

from rp_experiments import pages

_LIBRARY = "robustbench.model_zoo.architectures"
_ACTIVATIONS = {"silu": "nn.SiLU", "relu": "nn.ReLU"}


class Code(str):
    """A name in code."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Base(NamedTuple):
    """What builds the network: its name, where it is imported from, its arguments, and whether it normalises itself."""

    name: str
    imports: tuple[str, ...]
    arguments: dict[str, Any]
    normalises: bool = False


def model_code(model: nn.Module, name: str, data: str) -> str:
    """The module's text; for ImageNet the network is another one's attribute `model`, as RobustBench's loader has it.

    Raises CheckpointError for a network that neither RobustBench nor timm has a class for.
    """
    known, base = _arguments(model), _BASES.get(type(model))
    found = None if base is None or known.get("padding") or known.get("in_channels", 3) != 3 else base(known)
    if found is None:
        raise CheckpointError(
            f"no code for this {type(model).__name__} is written here; there is for "
            f"{', '.join(kind.__name__ for kind in _BASES)} with three channels, without padding, and with what "
            "RobustBench's classes have: ResNets of width 64, those with pre-activation of depth 18 or 34, ReLU in the "
            "classic wide ResNet, no MeanSparse"
        )
    normalised = known.get("mean") is not None and not found.normalises
    return pages.render(
        "robustbench_model.txt",
        name=name,
        imports="\n".join(sorted({"from torch import nn", *found.imports}, key=_place)),
        call=f"{found.name}({', '.join(f'{key}={value!r}' for key, value in found.arguments.items())})",
        constants=(tuple(known["mean"]), tuple(known["std"])) if normalised else None,
        imagenet=data == "imagenet",
    )


def _place(line: str) -> tuple[bool, bool, str]:
    """Where an import stands: the standard library, others' packages, RobustBench."""
    return _LIBRARY in line, "functools" not in line, line


def _arguments(model: nn.Module) -> dict[str, Any]:
    """All arguments that the network was built with, the defaults too."""
    recipe: Any = model.recipe  # set by rp_models.load
    defaults = {name: p.default for name, p in inspect.signature(zoo.constructor(recipe.name)).parameters.items()}
    return {**defaults, **zoo.find(recipe.name).arguments, **recipe.arguments}


def _constants(known: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std of a class that always normalises."""
    mean, std = known["mean"], known["std"]
    return {"mean": tuple(mean or (0.0, 0.0, 0.0)), "std": tuple(std or (1.0, 1.0, 1.0))}


def _dm(name: str, known: Mapping[str, Any]) -> Base:
    """DeepMind's networks."""
    activation = {"silu": "Swish", "relu": "nn.ReLU"}[known["activation"]]
    given = {key: known[key] for key in ("num_classes", "depth", "width") if key in known}
    imports = (f"from {_LIBRARY}.dm_wide_resnet import {name}, Swish",)
    return Base(name, imports, {**given, "activation_fn": Code(activation), **_constants(known)}, normalises=True)


def _wide(known: Mapping[str, Any]) -> Base | None:
    if known["activation"] != "relu":
        return None
    given = {"num_classes": known["num_classes"], "depth": known["depth"], "widen_factor": known["width"]}
    given |= {"sub_block1": known["sub_block"], "bias_last": known["head_bias"]}
    return Base("WideResNet", (f"from {_LIBRARY}.wide_resnet import WideResNet",), given)


def _resnet(name: str, block: str, known: Mapping[str, Any], **switches: Any) -> Base | None:
    """A ResNet of RobustBench with one kind of block."""
    given = {"block": Code(block), "num_blocks": BLOCKS[known["depth"]], "num_classes": known["num_classes"]}
    imports = (f"from {_LIBRARY}.resnet import {', '.join(sorted((name, block)))}",)
    return Base(name, imports, given | switches) if known.get("width", 64) == 64 else None


def _cifar(known: Mapping[str, Any]) -> Base | None:
    return _resnet("ResNet", "BasicBlock" if known["depth"] < 50 else "Bottleneck", known)


def _preact(known: Mapping[str, Any]) -> Base | None:
    block = "PreActBlock" if known["raw_shortcut"] else "PreActBlockV2"
    found = _resnet("PreActResNet", block, known, bn_before_fc=known["final_norm"])
    return found if known["depth"] < 50 else None  # its PreActBottleneck does not fit into its PreActResNet


def _ra_wide(known: Mapping[str, Any]) -> Base | None:
    if known["mean_sparse"] or known["activation"] not in _ACTIVATIONS:
        return None
    given = {**_constants(known), "stem_width": known["stem_channels"], "depth": tuple(known["blocks"])}
    given |= {"stage_width": tuple(known["channels"]), "groups": (1, 1, 1)}
    given |= {"activation_fn": Code(_ACTIVATIONS[known["activation"]]), "se_ratio": known["se_ratio"]}
    given |= {"se_activation": Code("nn.ReLU"), "se_order": 2, "num_classes": known["num_classes"]}
    imports = (f"from {_LIBRARY}.robustarch_wide_resnet import NormalizedWideResNet",)
    return Base("NormalizedWideResNet", imports, given, normalises=True)


def _vit(known: Mapping[str, Any]) -> Base:
    names = {"image_size": "img_size", "in_channels": "in_chans", "width": "embed_dim", "heads": "num_heads"}
    names |= {"pool": "global_pool"}
    names |= {name: name for name in ("patch_size", "num_classes", "depth", "mlp_ratio", "class_token")}
    given = {theirs: known[ours] for ours, theirs in names.items()}
    return Base("VisionTransformer", ("from timm.models.vision_transformer import VisionTransformer",), given)


def _timm(known: Mapping[str, Any]) -> Base:
    given = {"model_name": known["model"], "num_classes": known["num_classes"], **(known["options"] or {})}
    return Base("timm.create_model", ("import timm",), given)


def _swin(known: Mapping[str, Any]) -> Base | None:
    names = {"image_size": "img_size", "width": "embed_dim", "depths": "depths", "heads": "num_heads"}
    given: dict[str, Any] = {"model_name": "swin_base_patch4_window7_224", "num_classes": known["num_classes"]}
    given |= {theirs: known[ours] for ours, theirs in names.items()} | {"window_size": known["window"]}
    given |= {"norm_layer": Code(f"partial(nn.LayerNorm, eps={known['norm_eps']!r})")}
    found = Base("timm.create_model", ("from functools import partial", "import timm"), given)
    return None if known["mean_sparse"] else found


_BASES: dict[type[nn.Module], Callable[[Mapping[str, Any]], Base | None]] = {
    DMWideResNet: lambda known: None if known["mean_sparse"] else _dm("DMWideResNet", known),
    DMPreActResNet: lambda known: _dm("DMPreActResNet", known),
    WideResNet: _wide,
    PreActResNet: _preact,
    CifarResNet: _cifar,
    RaWideResNet: _ra_wide,
    VisionTransformer: _vit,
    Backbone: _timm,
    Swin: _swin,
}
