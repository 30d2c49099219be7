"""Optimisers by name, which parameters decay, and setting the rate of a step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from rp_models.settings import OptimizerName


def build_optimizer(
    name: OptimizerName,
    groups: list[dict[str, Any]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """An optimiser by its name.

    Args:
        name: "adam" and "adamw" (torch's), "sgd" or "lion".
        groups: parameter groups, e.g. of `decay_groups`. "adam" adds their weight decay to the gradient, the others
            shrink the weights.
        betas: of Adam; Lion's are those of its paper, (0.9, 0.99).
        momentum, nesterov: of SGD.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    if name == "lion":
        from rp_models.training.lion import Lion

        return Lion(groups, lr=lr)
    return (torch.optim.Adam if name == "adam" else torch.optim.AdamW)(groups, lr=lr, betas=betas)


def decay_groups(
    model: nn.Module, weight_decay: float, *, without_decay: Callable[[str, nn.Parameter], bool]
) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: one with weight decay, and those for which `without_decay` holds."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if without_decay(name, parameter) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def set_rate(optimizer: Optimizer, lr: float, momentum: float | None = None) -> None:
    """Set learning rate, and momentum where given, of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None:
            group["momentum"] = momentum
