"""What every purifier is: a module from images to images whose noise and whose backward pass the caller chooses.

Axes: b batch, c channels, h w image.
"""

import copy
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, Self

import torch
from rp_models import noise
from torch import Tensor, nn

_TOLERANCE = 1e-6  # rounding of an attack's projection
_LOCK = threading.Lock()
_FROZEN: dict[int, int] = {}  # by the id of a parameter, in how many blocks of `frozen` it is


def _eager(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method that `torch.compile` runs as it is; it does not load the compiler, which takes a second."""
    disabled: list[Callable[..., Tensor]] = []

    @functools.wraps(method)
    def call(*args: Any) -> Tensor:
        if "torch._dynamo" not in sys.modules:
            return method(*args)
        if not disabled:
            disabled.append(torch.compiler.disable(method))
        return disabled[0](*args)

    return call


class Purifier(nn.Module):
    """Base of all purifiers; a subclass writes `differentiable`, or `purify` if it has a backward pass of its own.

    The noise of an image is a function of (seed, index): the same image comes out in a batch of 1 or 512. A call
    without a seed draws fresh noise, or always the same with `fresh=False`. Without indices the rows are images
    0, 1, 2, ..., or with `fresh=False` each image's index is a hash of its pixels. Global generators are never used.

    All settings are plain attributes, which `repr` shows. `torch.compile` leaves a purifier to eager execution.

    Args:
        seed: of the noise in calls that name none. None: fresh noise comes from the system's entropy, which nobody can
            predict; noise that is not fresh has seed 0.
        grad: the backward rule, one of `gradients`; the images are the same with each.

    Attributes:
        gradients: "exact" is the derivative of what is computed, "identity" the one of doing nothing (BPDA).
    """

    gradients: tuple[str, ...] = ("exact", "identity")

    def __init__(self, *, seed: int | None = None, fresh: bool = True, grad: str = "exact") -> None:
        super().__init__()
        self.seed, self.fresh, self.grad = seed, fresh, self._checked_rule(grad)
        self._seeds = noise.CallSeeds(seed)

    def forward(self, x: Tensor, *, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """The purified images.

        Raises:
            ValueError: for anything but an image batch in [0, 1], or indices that do not fit it.
            FloatingPointError: if a purified value is not finite.
        """
        if torch.jit.is_tracing() or torch.compiler.is_exporting():  # type: ignore[attr-defined]
            self.__prepare_scriptable__()
        return self._forward(x, seed, index)

    @_eager
    def _forward(self, x: Tensor, seed: int | None, index: Tensor | None) -> Tensor:
        check_images(x)
        index = content_indices(x) if index is None and not self.fresh else image_indices(x, index)
        if seed is None:
            seed = self._seeds.next() if self.fresh else self.seed or 0
        if self.grad == "identity":
            with torch.no_grad():
                purified = self.purify(x.detach(), seed=seed, index=index)
            purified = follow(x, purified)
        else:
            purified = self.purify(x, seed=seed, index=index)
        if not bool(purified.isfinite().all()):
            raise FloatingPointError(
                f"{type(self).__name__} made pixels that are not finite: so is what its network predicts, or the "
                "gradient of its loss; check the network's weights, and compute in float32"
            )
        return purified

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The purified images, arguments checked, with a graph to `x` as `grad` says and none to the weights."""
        with frozen(self):
            return self.differentiable(x, seed=seed, index=index)

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The purified images with a graph to `x` and to the weights, which is what fine-tuning trains through."""
        raise NotImplementedError

    def with_noise(self, *, seed: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """This purifier with the noise that belongs to (seed, index of each row)."""
        return functools.partial(self, seed=seed, index=index)

    def with_gradient(self, name: str) -> Self:
        """The same purifier (weights, settings, call counter) with another backward rule."""
        other = copy.copy(self)
        other.grad = self._checked_rule(name)
        return other

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        settings = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())

    def __prepare_scriptable__(self) -> NoReturn:
        raise RuntimeError(
            f"{type(self).__name__} cannot be scripted, traced or exported: it draws its noise in Python at every "
            "call, and most purifiers differentiate a loss; torch.compile works, and the classifier alone exports"
        )

    def _checked_rule(self, name: str) -> str:
        if name not in self.gradients:
            raise ValueError(f"{type(self).__name__} has the gradients {', '.join(self.gradients)}, got {name!r}")
        return name


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
        follows: bool, where the gradient passes; None for everywhere.
    """
    result: Tensor = _Follow.apply(x, values, follows)
    return result


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of the model takes part in gradients; after the last such block all are as before.

    Raises:
        ValueError: if gradients are on and cannot pass the weights because they were made in inference mode.
    """
    if torch.is_grad_enabled() and any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        raise ValueError(
            f"the weights of {type(model).__name__} were made under torch.inference_mode(), and nothing can be "
            "differentiated through them; build and load it outside of that block, or under torch.no_grad()"
        )
    with _LOCK:  # threads may share the model
        held = [p for p in model.parameters() if (p.requires_grad or id(p) in _FROZEN) and not p.is_inference()]
        for parameter in held:
            _FROZEN[id(parameter)] = _FROZEN.get(id(parameter), 0) + 1
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        with _LOCK:
            for parameter in held:
                _FROZEN[id(parameter)] -= 1
                if not _FROZEN[id(parameter)]:
                    del _FROZEN[id(parameter)]
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
    index = torch.as_tensor(index)
    if index.dtype != torch.int64 or index.shape != x.shape[:1]:
        raise ValueError(
            f"index must hold one int64 image index for each of {len(x)} images, got {index.dtype} {tuple(index.shape)}"
        )
    return index.to(x.device)


def content_indices(x: Tensor) -> Tensor:
    """An index (b,) for each image that depends on its pixels alone, in float32."""
    bits = x.detach().float().contiguous().flatten(1).view(torch.int32).long()
    one = torch.zeros(1, dtype=torch.int64, device=x.device)
    factors = 2 * noise.integers(2**31, bits.shape[1:], seed=0, purpose="content", index=one) + 1
    return (bits * factors).sum(dim=1)  # int64 wraps around: a universal hash, exact in any order of summation
