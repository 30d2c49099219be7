"""Networks of full size without values, from the settings that would train them."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import describe
from rp_models.foreign import is_foreign
from rp_models.training.edm import build_edm
from rp_models.training.mae import build_mae
from rp_models.training.maskdit import build_maskdit
from rp_models.training.standard import build_standard
from torch import nn

from rp_experiments.estimate.counting import Sized, on_meta
from rp_experiments.estimate.steps import kind_settings
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.pretrain_settings import (
    Pretrain,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
    PretrainNim,
)

_OF_DATA = ("num_classes", "in_channels", "mean", "std")  # arguments of a classifier that follow from the data set
_OF_EDM = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "dropout")
_BUILD: dict[type[Pretrain], Callable[[Any, Sized], nn.Module]] = {
    PretrainClassifier: build_standard,
    PretrainMae: lambda settings, images: build_mae(settings),
    PretrainNim: lambda settings, images: build_mae(settings),
    PretrainMaskDit: lambda settings, images: build_maskdit(settings),
    PretrainEdm: build_edm,
}


def network_of(config: Pretrain) -> nn.Module:
    """The network that a pre-training would make."""
    return on_meta(lambda: _BUILD[type(config)](kind_settings(config), Sized(describe(config.data), 1)))


def as_given(config: Comparison) -> Comparison:
    """A comparison with the sizes of the networks whose files it names, as far as they are at hand."""
    read: dict[str, Any] = {
        field.name: _of_file(getattr(config, field.name), getattr(config, field.name.removeprefix("pretrain_")))
        for field in fields(config)
        if field.name.startswith("pretrain_")
    }
    return replace(config, **read)


def _of_file(config: Pretrain, file: str) -> Pretrain:
    """The settings of a pre-training with the network of a checkpoint; as they are where it is not there."""
    if not file or is_foreign(file):
        return config
    try:
        header = read_header(file)
    except CheckpointError:  # to be given later: the settings name the same network
        return config
    (name,) = (field.name for field in fields(config) if field.name in ("mae", "edm", "maskdit", "standard"))
    settings = getattr(config, name)
    if hasattr(settings, "sizes"):
        own = {key: value for key, value in header.arguments.items() if key not in _OF_DATA}
        return replace(config, **{name: replace(settings, network=header.architecture, sizes=own)})
    same = {key: header.arguments[key] for key in _OF_EDM if key in header.arguments}
    conditional = bool(header.arguments.get("label_dim", 0))
    return replace(config, **{name: replace(settings, conditional=conditional, **same)})
