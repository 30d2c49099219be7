"""The inner maximisation of adversarial training: the ball, where the ascent starts, and what it raises."""

from typing import Literal

import torch
from rp_attacks.losses import kl_divergence
from rp_attacks.pgd import ascend
from rp_attacks.problem import check_choice, check_positive, check_radius
from torch import Tensor, nn

from rp_dra.objectives.passes import frozen_if_compiled, full_precision

Ball = Literal["linf", "l2"]


def check_attack(norm: str, eps: float, step_size: float, steps: int) -> None:
    """Refuse an attack that makes no sense."""
    check_choice("norm", norm, ("linf", "l2"))
    check_radius(norm, eps)
    check_positive(step_size=step_size, steps=steps)


def check_loss(beta: float, label_smoothing: float) -> None:
    """Refuse a negative weight and a label smoothing outside [0, 1]."""
    if not beta >= 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")


def uniform_start(x: Tensor, noise: Tensor, eps: float) -> Tensor:
    """A uniform point of the Linf ball, clipped to [0, 1], from uniform draws in [0, 1)."""
    return (x + eps * (2.0 * noise - 1.0)).clamp(0.0, 1.0)


def near_start(x: Tensor, noise: Tensor) -> Tensor:
    """The image and a little normal noise, where the KL divergence has a gradient; TRADES does not clip it."""
    return x + 0.001 * noise


def raise_divergence(
    model: nn.Module, x: Tensor, start: Tensor, *, norm: Ball, eps: float, step_size: float, steps: int
) -> Tensor:
    """Images (b, c, h, w) of the ball around x whose predictions diverge from those on x.

    Raises KL(p(x) || p(x')) with p(x) computed once and fixed: published codes compute it again in each step, from the
    same weights. The model's mode is the caller's.
    """
    with torch.no_grad():
        target = full_precision(model(x)).softmax(dim=1)
    with frozen_if_compiled(model):
        return ascend(
            lambda z: kl_divergence(target, full_precision(model(z))),
            x,
            start,
            norm=norm,
            eps=eps,
            step_size=step_size,
            steps=steps,
            box_first=True,  # as published: clip to [0, 1], then project on the L2 ball
        )
