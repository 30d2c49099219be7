"""Small things about optimisers: which parameters decay, and setting the rate of a step."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer


def decay_groups(
    model: nn.Module, weight_decay: float, *, without_decay: Callable[[str, nn.Parameter], bool]
) -> list[dict[str, Any]]:
    """Two parameter groups: one that decays, one that does not.

    Args:
        model: whose trainable parameters are grouped.
        weight_decay: of the first group.
        without_decay: tells from name and parameter which ones go to the second.
    """
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
