"""Adam on images, written out so that it can be differentiated: what purifiers that optimise a loss have in common.

Source: Kingma and Ba 2015, arXiv:1412.6980.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rp_purify.gradient import plain_attention
from rp_purify.reverse import recomputed

_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8

Objective = Callable[[Tensor, int], Tensor]
"""objective(x, step): the loss of step 0, 1, ..., a scalar or one value an image."""


class _State(NamedTuple):
    x: Tensor
    mean: Tensor
    square: Tensor


def adam(model: nn.Module, x: Tensor, objective: Objective, *, steps: int, lr: float, exact: bool) -> Tensor:
    """The images after `steps` steps of Adam on the sum of the objective, whose model is `model`.

    With `exact` the result has a graph to `x` through every step, which is recomputed in the backward pass and needs
    the model's second derivatives; otherwise it has none.
    """
    if not (exact and x.requires_grad and torch.is_grad_enabled()):
        x, exact = x.detach(), False
    state = _State(x, torch.zeros_like(x), torch.zeros_like(x))
    for step in range(steps):

        def move(x: Tensor, mean: Tensor, square: Tensor, step: int = step) -> _State:
            return _step(_State(x, mean, square), objective, step, lr=lr, exact=exact)

        state = recomputed(model, move, *state) if exact else move(*state)
    return state.x


def _step(state: _State, objective: Objective, step: int, *, lr: float, exact: bool) -> _State:
    """One step, with the bias corrections of step number `step` + 1."""
    with torch.inference_mode(False), torch.enable_grad(), plain_attention():
        # a copy, so that the derivative is not also that of whatever else the objective has from the same images
        x = state.x.clone() if exact else state.x.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad(objective(x, step).sum(), x, create_graph=exact)
    mean = _BETA1 * state.mean + (1 - _BETA1) * g
    square = _BETA2 * state.square + (1 - _BETA2) * g.square()
    size = _root(square) / (1 - _BETA2 ** (step + 1)) ** 0.5 + _EPS
    return _State(state.x - lr / (1 - _BETA1 ** (step + 1)) * mean / size, mean, square)


def _root(square: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), 0.0)
