"""ALMA: a distance is descended under the constraint that the image is adversarial, by an augmented Lagrangian."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rp_attacks import noise
from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import expected_gradient
from rp_attacks.losses import cw_margin
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest, approach
from rp_attacks.noise import derive_seed
from rp_attacks.norms import column, size, unit
from rp_attacks.problem import check_logits, check_positive, check_radius
from rp_attacks.resume import resumable

_FIRST = {"l2": 0.1, "l1": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class ALMA(MinimumNorm):
    """Augmented Lagrangian attack in L2 and L1 (Rony et al. 2021, arXiv:2011.11857).

    min |d| subject to r(x + d) < 0 with the logit ratio r = (z_y - max other + tolerance) / (z_1st - z_3rd), by the
    penalty P2 and RMSProp with momentum.
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels
    norm: Literal["l2", "l1"] = "l2"
    steps: int = 1000
    first_distance: float | None = None  # of the first step, from which each image's rate comes; None: 0.1, 0.5 in L1
    final_rate: float = 0.01  # share of the first rate that is left at the end, falling from the first success on
    momentum: float = 0.9  # also that of squares and of multipliers
    multiplier: float = 1.0  # mu, the first
    penalty: float = 1.0  # rho, the first
    check_every: int = 10  # steps after which rho grows unless the constraint came nearer
    improvement: float = 0.95  # tau: the least progress, as a share of the former ratio
    growth: float = 1.2  # gamma, of rho
    tolerance: float = 1e-4  # added to the difference of logits, less where all logits lie within 0.1
    bisections: int = 10  # towards the clean image at the end
    eot: int = 1  # passes whose ratios and gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps, norms=("l2", "l1"))
        check_positive(
            steps=self.steps, first_distance=self.first_distance or 1.0, final_rate=self.final_rate,
            multiplier=self.multiplier, penalty=self.penalty, check_every=self.check_every, growth=self.growth,
            eot=self.eot,
        )  # fmt: skip
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model, best = with_gradient(model, self.grad), Best(x, self.norm)
        state = _State(x, best, self)
        tolerance = self._tolerance(model, x, y, seed, index)
        for step in resumable("steps", self.steps, state):
            # the ratio's sign is turned, since a mean gradient is that of an objective to be raised
            sample = expected_gradient(
                model, x + state.delta, y, _Ratio(tolerance), seed=derive_seed(seed, "step", step), index=index,
                passes=self.eot, check=step == 0,
            )  # fmt: skip
            ratio = -sample.loss
            wrong = (ratio < 0) & (sample.wrong > 0.5)
            state.adapt(self, step, ratio, best.found | wrong)
            best.see(x + state.delta, wrong)
            state.found_at = torch.where(best.found & (state.found_at > self.steps), float(step), state.found_at)
            grad = column(slope(ratio, state.rho, state.mu), x) * -sample.grad
            if step == 0:
                state.rate = self._rates(x, grad, seed, index, state)
            else:
                grad = grad + (unit(state.delta, "l2") if self.norm == "l2" else state.delta.sign())
            state.move(self, step, x, grad)
        return approach(model, y, best, steps=self.bisections, seed=seed, index=index, passes=self.eot)

    def _tolerance(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        with torch.no_grad():
            logits = query(model, x, seed=derive_seed(seed, "first"), index=index)
        check_logits(logits, y)
        return self.tolerance * (10 * (logits.amax(dim=1) - logits.amin(dim=1))).clamp_max(1.0)

    def _rates(self, x: Tensor, grad: Tensor, seed: int, index: Tensor, state: "_State") -> Tensor:
        """Each image's step size (b,), with which a plain first step goes the first distance."""
        target = _FIRST[self.norm] if self.first_distance is None else self.first_distance
        draws = unit(noise.normal(x.shape[1:], seed=seed, purpose="direction", index=index, like=x), "l2")
        flat = size(grad, "l2") <= 1e-6
        grad = torch.where(column(flat, x), draws, grad)

        def short(rate: Tensor) -> Tensor:
            return size((x - column(rate, x) * grad).clamp(0, 1) - x, self.norm) <= target

        low, high = torch.zeros_like(state.rate), torch.ones_like(state.rate)
        for _ in range(60):  # where the box ends before, the widest step will do
            more = short(high)
            low, high = torch.where(more, high, low), torch.where(more, 2 * high, high)
        for _ in range(20):
            middle = (low + high) / 2
            more = short(middle)
            low, high = torch.where(more, middle, low), torch.where(more, high, middle)
        return (low + high) / 2


class _State:
    """Where ALMA stands with each image."""

    def __init__(self, x: Tensor, best: Best, attack: ALMA) -> None:
        self.best = best
        self.delta, self.squares, self.velocity = torch.zeros_like(x), torch.ones_like(x), torch.zeros_like(x)
        one = x.new_ones(len(x))
        self.mu, self.rho, self.rate = attack.multiplier * one, attack.penalty * one, one
        self.found_at, self.former = (attack.steps + 1.0) * one, one

    def adapt(self, a: ALMA, step: int, ratio: Tensor, found: Tensor) -> None:
        """The penalty and the multiplier of this step of the attack."""
        if step == 0:
            self.former = ratio
            return
        if (step + 1) % a.check_every == 0:
            stuck = ~(found | (ratio < a.improvement * self.former))
            self.rho, self.former = torch.where(stuck, a.growth * self.rho, self.rho), ratio
        self.mu = self.mu.lerp(slope(ratio, self.rho, self.mu), 1 - a.momentum).clamp(1e-6, 1e12)

    def move(self, a: ALMA, step: int, x: Tensor, grad: Tensor) -> None:
        """A step of the attack against the gradient."""
        share = (step - self.found_at).clamp_min(0) / (a.steps - self.found_at)
        rate = self.rate * a.final_rate**share
        self.squares = a.momentum * self.squares + (1 - a.momentum) * grad**2
        self.velocity = a.momentum * self.velocity + grad / (self.squares.sqrt() + 1e-8)
        self.delta = (x + (self.delta - column(rate, grad) * self.velocity)).clamp(0, 1) - x


class _Ratio:
    """The logit ratio with its sign turned: negative as long as the image is classified rightly."""

    def __init__(self, tolerance: Tensor) -> None:
        self.tolerance = tolerance

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        top = logits.topk(min(3, logits.shape[1]), dim=1).values
        spread = top[:, 0] - top[:, 2] if top.shape[1] == 3 else torch.ones_like(top[:, 0])  # of two classes: no scale
        return (cw_margin(logits, y) - self.tolerance) / (spread + 1e-8)


def slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative in y of the penalty P2: mu y + mu rho y^2 + rho^2 y^3 / 6 from 0 on, mu y / (1 - rho y) below."""
    above = mu + 2 * mu * rho * y + rho**2 * y**2 / 2
    return torch.where(y >= 0, above, mu / (1 - rho * y.clamp_max(0)) ** 2)
