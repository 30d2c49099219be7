"""Sigma-zero: as few changed values as possible, by descent on a smooth stand-in for their number."""

from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks.carlini_wagner import Adam
from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import expected_gradient
from rp_attacks.losses import cw_margin
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest, approach, cosine
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm, column, unit
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class SigmaZero(MinimumNorm):
    """Sigma-zero, L0 (Cinà et al. 2025, arXiv:2402.01879).

    L0 counts values, each channel of a pixel for itself; `norms.pixels` counts pixels.
    """

    eps: float = 24.0  # verdict radius, a number of values
    steps: int = 1000
    step_size: float = 1.0  # of Adam; falls to a tenth
    sigma: float = 0.001  # d^2 / (d^2 + sigma) stands for whether a value changes
    threshold: float = 0.3  # the first; smaller changes are taken back
    threshold_step: float = 0.01  # by which it moves, in step sizes
    bisections: int = 10  # over how many of the changes are needed, at the end
    eot: int = 1  # passes whose gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius("l0", self.eps, norms=("l0",))
        check_positive(steps=self.steps, step_size=self.step_size, sigma=self.sigma, eot=self.eot)
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}")

    @property
    def norm(self) -> AnyNorm:
        """L0, always."""
        return "l0"

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model, best, adam = with_gradient(model, self.grad), Best(x, "l0"), Adam(x, self.step_size)
        at = State(best=best, adam=adam, delta=torch.zeros_like(x), threshold=x.new_full((len(x),), self.threshold))
        for step in resumable("steps", self.steps, at):
            delta = at.delta
            sample = expected_gradient(
                model, x + delta, y, _short_of_wrong, seed=derive_seed(seed, "step", step), index=index,
                passes=self.eot, check=step == 0,
            )  # fmt: skip
            wrong = sample.wrong > 0.5
            best.see(x + delta, wrong)
            squares = delta.square() + self.sigma
            grad = 2 * self.sigma * delta / squares.square() / delta[0].numel() - sample.grad
            delta = (x + delta - adam.step(unit(grad, "linf"))).clamp(0, 1) - x
            adam.step_size = cosine(self.step_size, self.step_size / 10, step, self.steps)
            move = self.threshold_step * adam.step_size
            at.threshold = (at.threshold + torch.where(wrong, move, -move)).clamp(0, 1)
            at.delta = torch.where(delta.abs() < column(at.threshold, x), 0.0, delta)
        return approach(model, y, best, steps=self.bisections, seed=seed, index=index, passes=self.eot)


def _short_of_wrong(logits: Tensor, y: Tensor) -> Tensor:
    """The margin as long as the image is classified rightly, then 0."""
    return cw_margin(logits, y).clamp_max(0)
