"""The classifier to train: a network of the zoo for a data set's images, fresh or with pre-trained weights."""

import inspect
from pathlib import Path
from typing import Any

import rp_models
from rp_models import zoo
from rp_models.checkpoint import CheckpointError, load_state, read_tensors
from rp_models.data import DatasetInfo
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights
from rp_models.networks.backbones import Backbone
from torch import Tensor, nn

from rp_dra.settings import ClassifierSettings


def build_classifier(settings: ClassifierSettings, info: DatasetInfo, *, pretrained: bool = True) -> nn.Module:
    """The classifier of a data set's images and classes, with its input normalisation inside.

    Args:
        pretrained: whether to fill in the weights that the settings name.

    Returns:
        The module in train mode; `forward_features` and `head` are there, and rp_models.save can store it.

    Raises:
        ValueError: if there is no such network, or it takes no such argument.
        CheckpointError: if the pre-trained weights are missing or do not fit.
    """
    own = {name: getattr(settings, name) for name in ("depth", "width", "activation", "bn_momentum")}
    arguments: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    arguments |= settings.arguments | _fitting(settings.network, info, normalize=settings.normalize)
    model = rp_models.build(settings.network, **arguments)
    if not hasattr(model, "forward_features") or not hasattr(model, "head"):
        raise ValueError(f"classifier.network: {settings.network} is no classifier; wrn-28-10-swish is one")
    if pretrained and settings.pretrained is not None:
        fill_pretrained(model, settings.pretrained)
    return model


def feature_width(model: nn.Module) -> int:
    """The number of penultimate features d of a classifier."""
    return int(model.head.in_features)  # type: ignore[union-attr, arg-type]


def fill_pretrained(model: nn.Module, source: str) -> None:
    """Fill everything but the last layer.

    Args:
        source: a safetensors or torch file with the keys of the network, perhaps behind prefixes such as `module.` and
            inside dictionaries; or "timm" for timm's own download.

    Raises:
        CheckpointError: if the weights cannot be had, or do not fit.
    """
    own = model.state_dict(keep_vars=True)
    last = {id(parameter) for parameter in model.head.parameters()}  # type: ignore[union-attr]
    head = {key: value.detach() for key, value in own.items() if id(value) in last}
    anchor = next(key for key in own if key not in head)
    state = _timm_weights(model) if source == "timm" else _read(source, anchor, type(model).__name__)
    body = {key: value for key, value in state.items() if key not in head and not key.startswith(("head.fc.", "fc."))}
    load_state(model, {**body, **head}, origin=source)


def _fitting(network: str, info: DatasetInfo, *, normalize: bool) -> dict[str, Any]:
    """The arguments by which a network fits a data set, as far as it takes them."""
    taken = inspect.signature(zoo.constructor(network)).parameters
    fitting = {
        "num_classes": info.num_classes,
        "in_channels": info.channels,
        "image_size": info.image_size,
        "mean": list(info.mean) if normalize else None,
        "std": list(info.std) if normalize else None,
    }
    return {name: value for name, value in fitting.items() if name in taken}


def _read(source: str, anchor: str, kind: str) -> dict[str, Tensor]:
    if not Path(source).is_file():
        raise CheckpointError(f"classifier.pretrained: no file {source}")
    named = source.endswith(".safetensors")
    content = read_tensors(source) if named else read_torch_file(source, allow_namespace=True)
    return find_weights(content, (anchor,), f"a {kind}", source).state


def _timm_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that timm's hub has for a backbone, without a head."""
    if not isinstance(model, Backbone):
        raise CheckpointError(f'classifier.pretrained "timm" is for timm\'s networks, not for a {type(model).__name__}')
    import timm

    found = model.network.pretrained_cfg
    name = ".".join(part for part in (found["architecture"], found.get("tag")) if part)
    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # the hub's client raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"timm's weights of {name} cannot be downloaded ({reason}); "
            "download model.safetensors elsewhere and give its path as classifier.pretrained"
        ) from error
