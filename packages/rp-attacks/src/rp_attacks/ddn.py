"""DDN: the direction of a perturbation and its length are sought apart."""

from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks import noise
from rp_attacks.deepfool import DeepFool
from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.losses import cross_entropy
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest, approach, cosine
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm, column, size, unit
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class DDN(MinimumNorm):
    """Decoupled direction and norm, L2 (Rony et al. 2019, arXiv:1811.09600).

    The length shrinks by a fixed share in each step, so that no image nearer than (1 - gamma)^steps of the first length
    can be found: by default that is DeepFool's distance and not the paper's 1.
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels
    steps: int = 100
    gamma: float = 0.05  # share by which the length shrinks and grows
    first_length: float | None = None  # None: DeepFool's distance of each image
    step_size: float = 1.0  # the first, in units of the first length; falls to a hundredth
    levels: int | None = None  # values that a pixel may have, e.g. 256; None: any
    bisections: int = 10  # towards the clean image at the end; none where pixels have levels
    eot: int = 1  # passes whose gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius("l2", self.eps)
        check_positive(steps=self.steps, step_size=self.step_size, eot=self.eot, first_length=self.first_length or 1.0)
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must lie between 0 and 1, got {self.gamma}")
        if self.levels is not None and self.levels < 2:
            raise ValueError(f"levels must be at least 2, got {self.levels}")

    @property
    def norm(self) -> AnyNorm:
        """L2, always."""
        return "l2"

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model, best = with_gradient(model, self.grad), Best(x, "l2")
        widest = size(torch.maximum(x, 1 - x), "l2")
        first = self._first(model, y, best, seed, index).minimum(widest)
        at = State(best=best, x_adv=x.clone(), length=first)
        for step in resumable("steps", self.steps, at):
            x_adv = at.x_adv
            sample = expected_gradient(
                model, x_adv, y, cross_entropy, seed=derive_seed(seed, "step", step), index=index, passes=self.eot,
                check=step == 0,
            )  # fmt: skip
            wrong = sample.wrong > 0.5
            best.see(x_adv, wrong)
            flat = (sample.grad == 0).flatten(1).all(dim=1)
            draws = noise.normal(x.shape[1:], seed=seed, purpose=f"direction/{step}", index=index, like=x)
            direction = torch.where(column(flat, x), draws, unit(sample.grad, "l2"))
            reach = cosine(self.step_size, self.step_size / 100, step, self.steps) * first
            at.length = torch.minimum(torch.where(wrong, 1 - self.gamma, 1 + self.gamma) * at.length, widest)
            delta = unit(x_adv - x + column(reach, x) * direction, "l2") * column(at.length, x)
            at.x_adv = self._valid(x + delta)
        steps = 0 if self.levels else self.bisections
        return approach(model, y, best, steps=steps, seed=seed, index=index, passes=self.eot)

    def _first(self, model: Classifier, y: Tensor, best: Best, seed: int, index: Tensor) -> Tensor:
        """The first length of each image, (b,); DeepFool's images count as seen."""
        if self.first_length is not None:
            return best.x.new_full((len(y),), self.first_length)
        near = DeepFool(eot=self.eot).search(model, best.x, y, seed=derive_seed(seed, "first length"), index=index)
        length, near = size(near - best.x, "l2"), self._valid(near)
        _, wrong = margins(model, near, y, seed=derive_seed(seed, "first"), index=index, passes=self.eot)
        best.see(near, wrong > 0.5)
        return length.clamp_min(1e-6)  # of an image at the boundary itself any will do

    def _valid(self, x_adv: Tensor) -> Tensor:
        x_adv = x_adv.clamp(0, 1)
        return x_adv if self.levels is None else (x_adv * (self.levels - 1)).round() / (self.levels - 1)
