"""Networks of the kind that a job needs, tried on one image before any work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rp_models import checkpoint, zoo
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo
from rp_models.data.datasets import DataError
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.foreign import is_foreign
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.robustbench.entries import is_spec
from rp_models.robustbench.loading import load_spec

Network = TypeVar("Network", bound=nn.Module)


def load(path: str | Path, *, device: torch.device | str = "cpu", code: str | None = None) -> nn.Module:
    """Rebuild the model of a checkpoint and fill it, strictly; returned in eval mode, on `device`.

    `path` is a file written by `rp_models.save`, the name of a checkpoint, e.g. "mae-digits", or an entry of
    RobustBench, `robustbench:[DATASET/][THREAT/]NAME`, whose file lies where RobustBench puts it. A network of code
    outside rp-models is built only if the caller names it too: `code="file.py:factory"`. Raises CheckpointError if the
    file is missing, damaged or of another format, its tensors do not fit, or its network is of code outside rp-models
    that the caller has not named.
    """
    if is_spec(str(path)):
        return load_spec(str(path)).to(device)
    return checkpoint.load(path, device=device, code=code)


def load_network(name: str, dataset: str | None = None) -> nn.Module:
    """A network by name, in eval mode.

    `name`: a checkpoint file; the name of a checkpoint that comes with rp-models; an entry of RobustBench,
    `robustbench:[DATASET/][THREAT/]NAME`; or code of your own that makes a network with its weights:
    `package.module:factory` or `file.py:factory`, which is executed. `dataset`: of the images at hand, for a name of
    RobustBench that leaves it open. Raises CheckpointError if the file cannot be read, or the code makes no network.
    """
    if is_spec(name):
        return load_spec(name, dataset)
    if not is_foreign(name) or Path(name).is_file():
        return checkpoint.load(name)
    try:
        return zoo.build(name).eval()
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load_classifier(name: str, info: DatasetInfo) -> nn.Module:
    """A classifier of this data set's images.

    `name`: see `load_network`. Raises CheckpointError if the file cannot be read; DataError if the network does not
    take the images, or gives something else than logits for the classes.
    """
    classifier = load_network(name, info.name)
    logits = _answer(lambda: classifier(_black(info)), name, info)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (1, info.num_classes):
        raise DataError(f"{name} gives no logits for the {info.num_classes} classes of {info.name}")
    return classifier


def load_mae(name: str, info: DatasetInfo) -> MaskedAutoencoder:
    """A masked autoencoder of this data set's images; arguments and errors as in `load_classifier`."""
    mae = _of_kind(MaskedAutoencoder, name, "a masked autoencoder")
    _answer(lambda: mae.encode(_black(info)), name, info)
    return mae


def load_maskdit(name: str, info: DatasetInfo) -> MaskDiT:
    """A MaskDiT of this data set's images; arguments and errors as in `load_classifier`."""
    maskdit = _of_kind(MaskDiT, name, "a MaskDiT")
    _try_denoiser(maskdit, name, info)
    return maskdit


def load_denoiser(name: str, info: DatasetInfo) -> nn.Module:
    """A denoiser D(x; sigma) of this data set's images; arguments and errors as in `load_classifier`."""
    denoiser = load_network(name)
    _try_denoiser(denoiser, name, info)
    return denoiser


@torch.no_grad()
def pooled_features(classifier: nn.Module, x: Tensor) -> Tensor:
    """A classifier's penultimate features (b, d) of images."""
    features: Tensor = classifier.forward_features(x)  # type: ignore[operator]
    return features


def _of_kind(kind: type[Network], name: str, description: str) -> Network:
    model = load_network(name)
    if not isinstance(model, kind):
        raise CheckpointError(f"{name}: expected {description}, this is a {type(model).__name__}")
    return model


def _try_denoiser(denoiser: nn.Module, name: str, info: DatasetInfo) -> None:
    x = _black(info)
    try:
        denoised = _answer(lambda: denoiser(x, torch.ones(1)), name, info)
    except DataError as error:
        reason = error.__cause__
        if isinstance(reason, (TypeError, AttributeError)):  # it takes no noise level
            found = f"{type(denoiser).__name__} ({reason})"
            raise CheckpointError(f"{name}: expected a denoiser D(x; sigma), this is a {found}") from error
        raise
    if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
        raise DataError(f"{name} is no denoiser of the images of {info.name}")


def _black(info: DatasetInfo) -> Tensor:
    """One black image of the data set's size."""
    return torch.zeros(1, info.channels, info.image_size, info.image_size)


def _answer(ask: Callable[[], Any], name: str, info: DatasetInfo) -> Any:
    """What a network answers on trial, without gradients."""
    try:
        with torch.no_grad():
            return ask()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name} does not take the images of {info.name} ({reason})") from error
