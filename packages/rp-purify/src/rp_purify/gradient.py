"""The step of sign descent, and how gradients pass through many of them.

The update x - lambda sign(g(x)) has the derivative 1 almost everywhere, whatever g does: the exact gradient of such a
purifier says nothing about how it reacts. The curved rules here replace the derivative of sign(g), never its value, by
that of a smooth function of g, so that an attack sees the loss's curvature at the iterates that really occur.

Source of the idea: backward pass differentiable approximation, Athalye et al. 2018, arXiv:1802.00420, section 4.1.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from rp_models.precision import present_autocast
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rp_purify.purifier import frozen


def ste_tanh(g: Tensor) -> Tensor:
    """sign(g), differentiated as tanh(g / tau); tau is the image's mean |g|, taken as a constant."""
    unit = _scaled(g)
    return straight_through(g.sign(), (unit / _mean_size(unit.detach())).tanh())


def normalised(g: Tensor) -> Tensor:
    """sign(g), differentiated as g / mean |g| of the image; arguments as in `ste_tanh`."""
    unit = _scaled(g)
    return straight_through(g.sign(), unit / _mean_size(unit))


CURVED: dict[str, Callable[[Tensor], Tensor]] = {"ste-tanh": ste_tanh, "normalised": normalised}
"""The backward rules that need second derivatives of the loss."""


def clip_to_ball(x: Tensor, center: Tensor, eta: float | None) -> Tensor:
    """`x` with each value at most `eta` from `center`; a clipped value has the derivative of the center.

    Args:
        eta: radius in pixel units, or None for no limit.
    """
    if eta is None:
        return x
    low, high = center - eta, center + eta
    return torch.where(x < low, low, torch.where(x > high, high, x))


def clip_to_image(x: Tensor) -> Tensor:
    """`x` limited to [0, 1], with derivative 1 on the closed interval (torch's clamp has 0 at its bounds)."""
    return torch.where(x < 0, torch.zeros_like(x), torch.where(x > 1, torch.ones_like(x), x))


class Descends(Protocol):
    """What `replay` differentiates: a purifier with a loss, a step size per step, and a radius."""

    model: nn.Module
    steps: int
    eta: float | None

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The loss of each image (b,), with the noise of one step."""
        ...

    def rate(self, step: int) -> float:
        """The step size of step 1..steps."""
        ...

    def trajectory(self, x: Tensor, *, seed: int, index: Tensor) -> Iterator[Tensor]:
        """The images x_0, ..., x_S."""
        ...


def replay(purifier: Descends, x: Tensor, rule: str, *, seed: int, index: Tensor) -> Tensor:
    """The purified images, with a curved backward rule at constant graph memory.

    The forward pass keeps one image per step. The backward pass goes through the steps in reverse, rebuilds the noise
    of each from (seed, index, step), and differentiates it twice with torch's plain attention.
    """
    result: Tensor = _Replay.apply(x, index, purifier, rule, seed)
    return result


class _Replay(torch.autograd.Function):
    """See `replay`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, purifier: Descends, rule: str, seed: int) -> Tensor:
        *iterates, purified = purifier.trajectory(x, seed=seed, index=index)
        ctx.save_for_backward(index, *iterates)
        ctx.purifier, ctx.rule, ctx.seed, ctx.autocast = purifier, rule, seed, present_autocast(x.device)
        return purified.clone()  # without steps it is the input, which a Function must not return

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        purifier, seed = ctx.purifier, ctx.seed
        index, *iterates = ctx.saved_tensors
        through_center = torch.zeros_like(grad)
        for step in range(len(iterates), 0, -1):
            with torch.enable_grad(), ctx.autocast, frozen(purifier.model):
                x, center = (image.detach().requires_grad_() for image in (iterates[step - 1], iterates[0]))
                after = smooth_step(purifier, x, center, ctx.rule, seed=seed, index=index, step=step)
                grad, part = torch.autograd.grad(after, (x, center), grad, materialize_grads=True)
            through_center += part
        return grad + through_center, None, None, None, None


def smooth_step(
    purifier: Descends, x: Tensor, center: Tensor, rule: str, *, seed: int, index: Tensor, step: int
) -> Tensor:
    """One true step of sign descent with a graph through a curved rule: to `x`, to the center, and to the weights.

    Args:
        center: the images that came in, around which the result is clipped.
    """
    with plain_attention():
        loss = purifier.loss(x, seed=seed, index=index, step=step)
        (g,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    return clip_to_image(clip_to_ball(x - purifier.rate(step) * CURVED[rule](g), center, purifier.eta))


class plain_attention(TorchFunctionMode):
    """Inside the block attention is computed by plain operations, since the fused kernels have no second derivative.

    It concerns this thread alone, where `torch.nn.attention.sdpa_kernel` turns a switch of the whole process.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's result, from plain operations if it is attention."""
        if func is F.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_attention_math(*args, **(kwargs or {}))[0]
        if func is F.multi_head_attention_forward:  # inside it this mode is off; asked for weights, it spells them out
            return func(*args, **{**(kwargs or {}), "need_weights": True})
        return func(*args, **(kwargs or {}))


def _scaled(g: Tensor) -> Tensor:
    """`g` over its largest size in each image, a constant, so that the smallest gradients do not underflow."""
    largest = g.detach().abs().amax(dim=(1, 2, 3), keepdim=True)
    return g / torch.where(largest > 0, largest, torch.ones_like(largest))


def _mean_size(g: Tensor) -> Tensor:
    """The mean |g| of each image; 1 where the image has no gradient."""
    mean = g.abs().mean(dim=(1, 2, 3), keepdim=True)
    return torch.where(mean > 0, mean, torch.ones_like(mean))


def straight_through(value: Tensor, smooth: Tensor) -> Tensor:
    """`value` with the derivative of `smooth`."""
    return value.detach() + (smooth - smooth.detach())
