"""The gradient of a reverse SDE by the adjoint method, which DiffPure is published with.

The backward pass keeps the result alone. It solves for the states backwards with the same noise, and for the gradient
beside them, evaluating the drift at the other end of each step than the forward pass did; so it is not the exact
gradient of the images that were computed.

Source: Li et al. 2020, arXiv:2001.01328; section 3.3 of Nie et al. 2022, arXiv:2205.07460.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from rp_models.precision import present_autocast
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rp_purify.purifier import frozen
from rp_purify.reverse import Shift
from rp_purify.vp_steps import EulerMaruyama


def solved_back(
    state: Tensor, model: nn.Module, steps: Sequence[EulerMaruyama], unit: Callable[[int], Tensor], shift: Shift
) -> Tensor:
    """The state after the steps, differentiated by the adjoint method.

    Args:
        unit: the unit normal noise of each step by its number.
        shift: guidance, of which the backward pass takes no derivative.
    """
    result: Tensor = _Adjoint.apply(state, model, steps, unit, shift)
    return result


class _Adjoint(torch.autograd.Function):
    """See `solved_back`."""

    @staticmethod
    def forward(
        ctx: Any,
        state: Tensor,
        model: nn.Module,
        steps: Sequence[EulerMaruyama],
        unit: Callable[[int], Tensor],
        shift: Shift,
    ) -> Tensor:
        for number, step in enumerate(steps):
            state = step(model, state, unit(number), shift)
        ctx.save_for_backward(state)
        ctx.solve, ctx.autocast = (model, steps, unit, shift), present_autocast(state.device)
        return state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        model, steps, unit, shift = ctx.solve
        (state,) = ctx.saved_tensors
        for number in range(len(steps) - 1, -1, -1):
            end = replace(steps[number], t=steps[number].t - steps[number].dt)
            with torch.enable_grad(), ctx.autocast, frozen(model):
                leaf = state.detach().requires_grad_()
                drift = end.drift(model, leaf, shift)
                (through,) = torch.autograd.grad(drift, leaf, grad)
            state = state - drift.detach() * end.dt - end.diffusion * unit(number)
            grad = grad + through * end.dt
        return grad, None, None, None, None
