"""FMN: steps towards the boundary within a ball that shrinks as long as the image stays adversarial."""

import math
from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import Sample, expected_gradient
from rp_attacks.losses import cw_margin
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest, approach, cosine
from rp_attacks.noise import derive_seed
from rp_attacks.norms import NORMS, AnyNorm, column, project, size, unit
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable

_STEP: dict[AnyNorm, float] = {"linf": 10.0, "l2": 1.0, "l1": 1.0, "l0": 1.0}
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


@dataclass(frozen=True, kw_only=True, slots=True)
class FMN(MinimumNorm):
    """Fast minimum-norm attack in Linf, L2, L1 and L0 (Pintor et al. 2021, arXiv:2102.12827).

    The paper's ball may stop growing just before the boundary, where the box cuts the perturbation, and a step that is
    long against the ball jumps to and fro: some images are never found. Here the ball grows until an image is found,
    `reach` limits steps, and bisections end at the boundary (`reach=None, bisections=0` is the paper's attack).
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels; in L0 a number of values
    norm: AnyNorm = "l2"
    steps: int = 100
    step_size: float | None = None  # the first, in L2; falls to a hundredth. None: 10 in Linf, else 1
    gamma: float = 0.05  # the first share by which the ball shrinks and grows
    final_gamma: float = 0.001
    reach: float | None = 2.0  # the longest step, in radii of the ball; None: any, and the ball as in the paper
    lengthen: bool = False  # L2 perturbations also grow to the ball's radius, as in the library adversarial-library
    bisections: int = 10  # towards the clean image at the end
    eot: int = 1  # passes whose gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps, norms=(*NORMS, "l0"))
        check_positive(steps=self.steps, eot=self.eot, step_size=self.step_size or 1, reach=self.reach or 1)
        if not 0 <= self.final_gamma <= self.gamma < 1:
            raise ValueError(f"gamma must lie between final_gamma and 1, got {self.gamma} and {self.final_gamma}")

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model, best = with_gradient(model, self.grad), Best(x, self.norm)
        widest = size(torch.maximum(x, 1 - x), self.norm)
        eps = torch.ones_like(widest) if self.norm == "l0" else torch.full_like(widest, math.inf)
        at = State(best=best, x_adv=x.clone(), eps=eps)
        for step in resumable("steps", self.steps, at):
            x_adv = at.x_adv
            sample = expected_gradient(
                model, x_adv, y, cw_margin, seed=derive_seed(seed, "step", step), index=index, passes=self.eot,
                check=step == 0,
            )  # fmt: skip
            best.see(x_adv, sample.wrong > 0.5)
            gamma = cosine(self.gamma, self.final_gamma, step, self.steps)
            radius = self._radius(sample, size(x_adv - x, self.norm), best, at.eps, gamma)
            at.eps = torch.minimum(radius, widest)
            delta = x_adv - x + self._length(step, at.eps, x) * unit(sample.grad, "l2")
            if self.lengthen and self.norm == "l2":
                delta = unit(delta, "l2") * column(at.eps, x)
            at.x_adv = project(x + delta, x, norm=self.norm, eps=at.eps)
        return approach(model, y, best, steps=self.bisections, seed=seed, index=index, passes=self.eot)

    def _radius(self, sample: Sample, distance: Tensor, best: Best, eps: Tensor, gamma: float) -> Tensor:
        """The next radius (b,): less where the image is adversarial, else more, or to the linearised boundary."""
        wrong = sample.wrong > 0.5
        if self.norm == "l0":
            less = torch.minimum(eps - 1, (eps * (1 - gamma)).floor())
            more = torch.maximum(eps + 1, (eps * (1 + gamma)).floor())
            return torch.where(wrong, torch.minimum(less, best.distance), more).clamp_min(0)
        slope = torch.linalg.vector_norm(sample.grad.flatten(1), ord=_DUAL[self.norm], dim=1)
        boundary = distance + sample.margin.abs() / slope.clamp_min(torch.finfo(slope.dtype).tiny)
        if self.reach is not None:
            boundary = torch.where(eps.isfinite(), torch.maximum(boundary, eps * (1 + gamma)), boundary)
        shrunk = torch.minimum(eps * (1 - gamma), best.distance)
        return torch.where(wrong, shrunk, torch.where(best.found, eps * (1 + gamma), boundary))

    def _length(self, step: int, eps: Tensor, x: Tensor) -> Tensor:
        """The step's length in L2, (b, 1, 1, 1)."""
        length = torch.full_like(eps, _STEP[self.norm] if self.step_size is None else self.step_size)
        if self.reach is not None and self.norm != "l0":
            across = math.sqrt(x[0].numel()) if self.norm == "linf" else 1.0
            length = torch.minimum(length, self.reach * across * eps)
        return column(length * cosine(1.0, 0.01, step, self.steps), x)
