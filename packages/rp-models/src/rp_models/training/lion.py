"""Lion, the optimiser of the vision transformers in the DRA paper."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lion(Optimizer):
    """Steps of equal size in the direction of the sign of an averaged gradient, with decoupled weight decay.

    One step: w <- (1 - lr * weight_decay) w - lr * sign(beta1 m + (1 - beta1) g), then m <- beta2 m + (1 - beta2) g.
    There is no bias correction, m starts at 0 and sign(0) is 0. Groups are updated by a few kernels each. Raises
    ValueError if a number is out of range. Source: Algorithm 2 of Chen et al. 2023, arXiv:2302.06675.

    Args:
        params: parameters, or groups of them.
        lr: size of a step; a tenth to a third of AdamW's.
        betas: beta1 of the direction, beta2 of the average.
        weight_decay: times lr; three to ten times AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; `closure` recomputes the loss, which is then returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group["lr"], group["betas"], group["weight_decay"])
        return loss

    def _update(self, params: list[Tensor], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p]["exp_avg"] = torch.zeros_like(p)
        grads = [p.grad for p in params if p.grad is not None]
        averages = [self.state[p]["exp_avg"] for p in params]
        direction = torch._foreach_lerp(averages, grads, 1.0 - betas[0])
        torch._foreach_sign_(direction)
        torch._foreach_mul_(params, 1.0 - lr * weight_decay)
        torch._foreach_add_(params, direction, alpha=-lr)
        torch._foreach_lerp_(averages, grads, 1.0 - betas[1])
