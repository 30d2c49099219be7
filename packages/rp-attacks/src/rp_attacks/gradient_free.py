"""Ascent on a gradient estimated from losses alone: SPSA and NES, the check on whether gradients are masked."""

from dataclasses import dataclass
from types import SimpleNamespace as State
from typing import Literal

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier
from rp_attacks.eot import margins
from rp_attacks.noise import derive_seed, normal, uniform
from rp_attacks.norms import Norm, ascent_step, project
from rp_attacks.pgd import Best
from rp_attacks.problem import check_choice, check_positive, check_radius
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class SPSA(ImageAttack):
    """Projected ascent on finite differences of the margin along random directions.

    Directions of random signs give SPSA (Uesato et al. 2018, arXiv:1802.05666), Gaussian ones NES (Ilyas et al. 2018,
    arXiv:1804.08598). Keeps the best iterate. Takes steps * (2 * samples + 1) queries an image.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    step_size: float = 1 / 255
    steps: int = 50
    samples: int = 64  # pairs of queries for each estimate
    delta: float = 0.01  # length of a difference in each pixel
    directions: Literal["sign", "gaussian"] = "sign"

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_positive(steps=self.steps, samples=self.samples, delta=self.delta, step_size=self.step_size)
        check_choice("directions", self.directions, ("sign", "gaussian"))

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        best = Best(x)
        at = State(best=best, x_adv=x.clone())
        for step in resumable("steps", self.steps + 1, at):
            x_adv = at.x_adv
            step_seed = derive_seed(seed, "step", step)
            score, wrong = margins(model, x_adv, y, seed=step_seed, index=index, check=step == 0)
            best.offer(slice(None), x_adv, score, wrong)
            if step < self.steps:
                grad = self._estimate(model, x_adv, y, step_seed, index)
                moved = x_adv + ascent_step(grad, x_adv, norm=self.norm, step_size=self.step_size)
                at.x_adv = project(moved, x, norm=self.norm, eps=self.eps)
        return best.images

    def _estimate(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for sample in range(self.samples):
            draw_seed = derive_seed(seed, "direction", sample)
            direction = self._direction(x, draw_seed, index)
            # one noise for both ends: the difference is that of the images alone; no query leaves the box
            ends = torch.cat([x + self.delta * direction, x - self.delta * direction]).clamp(0, 1)
            margin, _ = margins(model, ends, y.repeat(2), seed=draw_seed, index=index.repeat(2))
            up, down = margin.chunk(2)
            total += (up - down).reshape(-1, 1, 1, 1) * direction
        return total / (2 * self.delta * self.samples)

    def _direction(self, x: Tensor, seed: int, index: Tensor) -> Tensor:
        if self.directions == "gaussian":
            return normal(x.shape[1:], seed=seed, purpose="direction", index=index, like=x)
        u = uniform(x.shape[1:], seed=seed, purpose="direction", index=index, like=x)
        return torch.where(u < 0.5, -1.0, 1.0).to(x.dtype)
