"""SuperDeepFool: DeepFool, then a projection on the boundary's normal, in turn."""

from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks.deepfool import DeepFool
from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.losses import cw_margin
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest, approach
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm, column, unit
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperDeepFool(MinimumNorm):
    """SuperDeepFool, L2 (Abdolahpourrostam et al. 2024, arXiv:2303.12481).

    A step goes from x_i to DeepFool's image x~ and from there w, the unit gradient of the margin: x_{i+1} = x_i +
    <x~ - x_0, w> w. It ends once x_{i+1} is adversarial, and bisections lead back to the boundary.
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels
    steps: int = 100
    deepfool_steps: int = 100
    overshoot: float = 0.02
    candidates: int = 10  # likeliest classes that are considered
    bisections: int = 10  # towards the clean image at the end
    eot: int = 1  # passes whose logits and gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius("l2", self.eps)
        check_positive(steps=self.steps)
        self._deepfool()

    @property
    def norm(self) -> AnyNorm:
        """L2, always."""
        return "l2"

    def _deepfool(self) -> DeepFool:
        return DeepFool(steps=self.deepfool_steps, overshoot=self.overshoot, candidates=self.candidates, eot=self.eot)

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model, best = with_gradient(model, self.grad), Best(x, "l2")
        at = State(best=best, x_adv=x.clone(), rows=torch.arange(len(x), device=x.device))
        for step in resumable("steps", self.steps, at):
            x_adv, rows = at.x_adv, at.rows
            step_seed = derive_seed(seed, "step", step)
            _, wrong = margins(
                model, x_adv[rows], y[rows], seed=step_seed, index=index[rows], passes=self.eot, check=step == 0
            )
            best.see(x_adv, torch.zeros_like(best.found).index_put((rows,), wrong > 0.5))
            at.rows = rows = rows[wrong <= 0.5]
            if len(rows) == 0:
                break
            x_adv[rows] = self._step(model, x_adv[rows], x[rows], y[rows], derive_seed(step_seed, "move"), index[rows])
        return approach(model, y, best, steps=self.bisections, seed=seed, index=index, passes=self.eot)

    def _step(self, model: Classifier, x_adv: Tensor, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The next iterate of each image."""
        beyond = self._deepfool().search(model, x_adv, y, seed=seed, index=index)
        sample = expected_gradient(
            model, beyond, y, cw_margin, seed=derive_seed(seed, "normal"), index=index, passes=self.eot
        )
        normal = unit(sample.grad, "l2")
        length = ((beyond - x) * normal).flatten(1).sum(dim=1)
        return (x_adv + column(length, x) * normal).clamp(0, 1)
