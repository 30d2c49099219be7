"""The problem that an attack is given (images, labels, radius), checked once at the boundary."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from rp_attacks.defence import Classifier
from rp_attacks.radii import NORMS, AnyNorm
from rp_attacks.radii import check_radius as check_radius


class Attack(Protocol):
    """A frozen set of hyper-parameters; calling it gives adversarial images in the ball of radius eps."""

    @property
    def norm(self) -> AnyNorm:
        """Norm of the ball."""
        ...

    @property
    def eps(self) -> float:
        """Radius of the ball in units of [0, 1] pixels."""
        ...

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> Tensor:
        """Adversarial images for (x, y), the same shape as x."""
        ...


@contextmanager
def differentiating() -> Iterator[None]:
    """Gradients are recorded inside, whatever mode the caller is in.

    Raises:
        ValueError: the model holds tensors that were made in inference mode, which torch cannot differentiate through.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ValueError(
            "the model holds tensors that were made under torch.inference_mode(), through which torch cannot "
            "differentiate: build and load the model outside that mode, or clone its tensors there"
        ) from error


def without_inference(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, those that were made in inference mode as copies that autograd can use; call it outside the mode."""
    return tuple(tensor.clone() if tensor.is_inference() else tensor for tensor in tensors)


def check_problem(
    x: Tensor, y: Tensor, *, norm: AnyNorm, eps: float, index: Tensor | None = None, soft: bool = False
) -> Tensor:
    """Check images, labels and radius against one another, and give the image indices.

    Args:
        x: images (b, c, h, w), floating, in [0, 1].
        y: labels (b,) of int64.
        norm: of the ball.
        eps: its radius.
        index: int64 (b,) image indices; by default 0, 1, 2, ...
        soft: allow probabilities (b, k) as labels, as training with soft labels needs.

    Returns:
        The indices on x's device.

    Raises:
        ValueError: a value is out of range or shapes disagree; the message says the fix.
        TypeError: a tensor has the wrong kind of numbers.
    """
    check_images(x)
    check_labels(x, y, soft=soft)
    check_radius(norm, eps, shape=tuple(x.shape[1:]), norms=(*NORMS, "l0"))
    if index is not None and not isinstance(index, Tensor):
        raise TypeError(f"index must be a torch tensor of int64, got {_kind(index)}; convert it with torch.as_tensor")
    if index is None:
        return torch.arange(len(x), device=x.device)
    if index.shape != (len(x),) or index.dtype != torch.int64:
        raise ValueError(
            f"index must be int64 of shape ({len(x)},), one number per image, got {index.dtype} {tuple(index.shape)}"
        )
    return index.to(x.device)


def check_images(x: Tensor) -> None:
    """Refuse anything but a batch of floating images in [0, 1]."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch tensor (b, c, h, w), got {_kind(x)}; convert it with torch.as_tensor")
    if x.dim() != 4 or len(x) == 0:
        raise ValueError(f"x must be a batch of images (b, c, h, w) with b >= 1, got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating images in [0, 1], got {x.dtype}; divide bytes by 255")
    low, high = (value.item() for value in torch.aminmax(x.detach()))
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"x must lie in [0, 1], got {low:.3g} to {high:.3g}; "
            "leave normalisation to the model, and divide bytes by 255"
        )


def check_labels(x: Tensor, y: Tensor, *, soft: bool = False) -> None:
    """Refuse labels of the wrong type, shape, device or sign."""
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a torch tensor of int64 labels, got {_kind(y)}; convert it with torch.as_tensor")
    if y.device != x.device:
        raise ValueError(f"x is on {x.device} and y on {y.device}; move them to one device")
    if soft and y.is_floating_point():
        if y.dim() != 2 or len(y) != len(x):
            raise ValueError(
                f"soft labels must be probabilities ({len(x)}, classes), got shape {tuple(y.shape)}; "
                "use int64 for hard ones"
            )
        return
    if y.dtype != torch.int64:
        raise TypeError(f"y must be int64 labels, got {y.dtype}")
    if y.shape != (len(x),):
        raise ValueError(f"y must hold one label per image, shape ({len(x)},), got {tuple(y.shape)}")
    if y.min() < 0:
        raise ValueError(f"labels start at 0, got {y.min().item()}")


def check_logits(logits: Tensor, y: Tensor) -> None:
    """Refuse outputs that are not one row of finite logits per image, wide enough for the labels."""
    if logits.dim() != 2 or len(logits) != len(y):
        raise ValueError(f"the model must give logits ({len(y)}, classes), got shape {tuple(logits.shape)}")
    if logits.shape[1] < 2:
        raise ValueError(
            "the model gives one logit, and a classifier needs at least two classes; for a binary one "
            "use `lambda x: torch.cat([-model(x), model(x)], dim=1)`"
        )
    if y.dim() == 1 and y.max() >= logits.shape[1]:
        raise ValueError(f"label {y.max().item()} is out of range: the model has {logits.shape[1]} classes")
    if not torch.isfinite(logits).all():
        bad = (~torch.isfinite(logits)).any(dim=1).sum().item()
        raise ValueError(
            f"the model gives NaN or infinite logits for {bad} of {len(y)} images; "
            "an accuracy from them would mean nothing"
        )


def check_positive(**values: float) -> None:
    """Refuse the first named value that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
