"""What every purifier is: a module from images to images whose noise and whose backward pass the caller chooses.

Axes: b batch, c channels, h w image.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from rp_models.noise import derive_seed
from torch import Tensor, nn

_TOLERANCE = 1e-6  # rounding of an attack's projection


class Purifier(nn.Module):
    """Base of all purifiers; a subclass writes `differentiable`, or `purify` if it has a backward pass of its own.

    The noise of an image is a function of (seed, index): the same image comes out in a batch of 1 or 512. A call
    without a seed draws fresh noise, from the purifier's own seed and the number of such calls so far, or always the
    same noise with `fresh=False`; without indices the rows are images 0, 1, 2, ... Global generators are never used.

    Args:
        seed: of the noise in calls that name none.
        fresh: whether each such call draws other noise.
        grad: the backward rule, one of `gradients`; the images are the same with each.

    Attributes:
        gradients: "exact" is the derivative of what is computed, "identity" the one of doing nothing (BPDA).
    """

    gradients: tuple[str, ...] = ("exact", "identity")

    def __init__(self, *, seed: int = 0, fresh: bool = True, grad: str = "exact") -> None:
        super().__init__()
        self.seed, self.fresh, self.grad = seed, fresh, self._checked_rule(grad)
        self._calls = _CallCounter()

    def forward(self, x: Tensor, *, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """The purified images.

        Args:
            x: images (b, c, h, w) in [0, 1].
            seed: of this call's noise; None: see the class.
            index: int64 (b,), image indices; None for 0, 1, 2, ...

        Returns:
            Tensor of the shape of `x`, in [0, 1].

        Raises:
            ValueError: for anything but an image batch in [0, 1], or indices that do not fit it.
        """
        check_images(x)
        index = image_indices(x, index)
        if seed is None:
            seed = derive_seed(self.seed, "call", self._calls.next()) if self.fresh else self.seed
        if self.grad == "identity":
            with torch.no_grad():
                purified = self.purify(x.detach(), seed=seed, index=index)
            return follow(x, purified)
        return self.purify(x, seed=seed, index=index)

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The purified images, arguments checked, with a graph to `x` as `grad` says and none to the weights."""
        with frozen(self):
            return self.differentiable(x, seed=seed, index=index)

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The purified images with a graph to `x` and to the weights, which is what fine-tuning trains through.

        Args:
            x: images (b, c, h, w) in [0, 1].
            seed: of the noise.
            index: int64 (b,), image indices.
        """
        raise NotImplementedError

    def with_noise(self, *, seed: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """This purifier with the noise that belongs to (seed, index of each row)."""
        return functools.partial(self, seed=seed, index=index)

    def with_gradient(self, name: str) -> Self:
        """The same purifier (weights, settings, call counter) with another backward rule."""
        other = copy.copy(self)
        other.grad = self._checked_rule(name)
        return other

    def _checked_rule(self, name: str) -> str:
        if name not in self.gradients:
            raise ValueError(f"{type(self).__name__} has the gradients {', '.join(self.gradients)}, got {name!r}")
        return name


class _CallCounter:
    """Counts calls, for a purifier and its shallow copies together, so that no two of them draw the same noise."""

    def __init__(self) -> None:
        self.calls = 0

    def next(self) -> int:
        self.calls += 1
        return self.calls


class _Follow(torch.autograd.Function):
    """Given values, with the derivative of the identity where a pixel follows the input and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, follows: Tensor | None) -> Tensor:
        ctx.follows = follows
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grad_outputs
        return (grad if ctx.follows is None else grad * ctx.follows), None, None


def follow(x: Tensor, values: Tensor, follows: Tensor | None = None) -> Tensor:
    """`values`, differentiated as if they were `x`.

    Args:
        x: what gets the gradient.
        values: what is returned, of the same shape.
        follows: bool, where the gradient passes; None for everywhere.
    """
    result: Tensor = _Follow.apply(x, values, follows)
    return result


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of the model takes part in gradients; afterwards all are as before."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def check_images(x: Tensor) -> None:
    """Raise ValueError unless `x` is a floating-point image batch (b, c, h, w) in [0, 1]."""
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"expected float images (batch, channels, height, width), got {x.dtype} {tuple(x.shape)}")
    if x.numel() == 0:
        return
    low, high = torch.stack(x.detach().aminmax()).tolist()
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:.3g} to {high:.3g}; "
            "purifiers normalise inside, so pass images as they are"
        )


def image_indices(x: Tensor, index: Tensor | None) -> Tensor:
    """The checked indices on the images' device; 0, 1, 2, ... if None."""
    if index is None:
        return torch.arange(len(x), device=x.device)
    if index.dtype != torch.int64 or index.shape != x.shape[:1]:
        raise ValueError(
            f"index must hold one int64 image index for each of {len(x)} images, got {index.dtype} {tuple(index.shape)}"
        )
    return index.to(x.device)
