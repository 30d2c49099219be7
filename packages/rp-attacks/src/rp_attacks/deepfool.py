"""DeepFool: steps to the nearest linearised class boundary."""

import math
from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import input_gradient
from rp_attacks.losses import misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, project, repaired
from rp_attacks.problem import check_logits, check_positive, check_radius
from rp_attacks.resume import resumable


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepFool(ImageAttack):
    """DeepFool in L2 or Linf (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599).

    It stops at the boundary, where a random defence is right about half of the time: for those use a larger overshoot,
    several passes, and take the result as a supplement.
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels
    norm: Norm = "l2"
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 10  # likeliest classes that are considered
    eot: int = 1  # passes whose logits and gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_positive(steps=self.steps, eot=self.eot)
        if self.candidates < 2:
            raise ValueError(f"candidates must be at least 2 (the true class and another), got {self.candidates}")
        if self.norm == "l1":
            raise ValueError("DeepFool is for norm 'l2' or 'linf'; for L1 use FAB")

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The images just beyond a boundary, brought into the eps ball where that lies outside."""
        return project(self._search(model, x, y, seed, index), x, norm=self.norm, eps=self.eps)

    def search(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> Tensor:
        """Images just beyond the nearest boundary found, not limited to any ball."""
        with self._posed(x, y, index) as (images, labels, rows):
            return self._search(model, images, labels, seed, rows)

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        model = with_gradient(model, self.grad)
        with torch.no_grad():
            logits = query(model, x, seed=derive_seed(seed, "classes"), index=index)
        check_logits(logits, y)
        others = logits.scatter(1, y[:, None], float("-inf")).argsort(dim=1, descending=True)
        others = others[:, : min(self.candidates, logits.shape[1]) - 1]
        at = State(x_adv=x.clone(), moved=torch.zeros_like(x), rows=torch.arange(len(x), device=x.device))
        for step in resumable("steps", self.steps, at):
            x_adv, moved, rows = at.x_adv, at.moved, at.rows
            gaps, grads, wrong = self._linearise(
                model, x_adv[rows], y[rows], others[rows], derive_seed(seed, "step", step), index[rows]
            )
            standing = ~wrong
            at.rows, gaps, grads = rows[standing], gaps[standing], grads[standing]
            rows = at.rows
            if len(rows) == 0:
                break
            moved[rows] += self._step(gaps, grads)
            x_adv[rows] = (x[rows] + (1 + self.overshoot) * moved[rows]).clamp(0, 1)
        found: Tensor = at.x_adv
        return found

    def _linearise(
        self, model: Classifier, x: Tensor, y: Tensor, others: Tensor, seed: int, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean gaps (b, t) from each other class to the true one, their gradients (b, t, ...), and who is wrong."""
        gaps, grads = x.new_zeros(others.shape), x.new_zeros(*others.shape, *x.shape[1:])
        mean_logits: Tensor | None = None
        for number in range(self.eot):
            leaf = x.detach().requires_grad_()
            logits = query(model, leaf, seed=derive_seed(seed, "pass", number), index=index)
            gap = logits.gather(1, others) - logits.gather(1, y[:, None])
            for column in range(others.shape[1]):
                keep = column + 1 < others.shape[1]
                grad, _ = repaired(input_gradient(gap[:, column], leaf, keep_graph=keep, index=index))
                grads[:, column] += grad / self.eot
            gaps += gap.detach() / self.eot
            mean_logits = logits.detach() + (0 if mean_logits is None else mean_logits)
        assert mean_logits is not None
        return gaps, grads, misclassified(mean_logits, y)

    def _step(self, gaps: Tensor, grads: Tensor) -> Tensor:
        """The smallest move to the nearest of the linearised boundaries."""
        order = 2 if self.norm == "l2" else 1  # the dual norm of the ball's
        # logits of any scale: gaps and gradients are both reckoned in units of the steepest slope
        unit = grads.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(grads.dtype).tiny)
        gaps, grads = gaps / unit[:, None], grads / unit.reshape(-1, 1, 1, 1, 1)
        lengths = torch.linalg.vector_norm(grads.flatten(2), ord=order, dim=2) + 1e-8
        distance, nearest = (gaps.abs() / lengths).min(dim=1)
        row = torch.arange(len(gaps), device=gaps.device)
        grad = grads[row, nearest]
        # so that a step never stops short of its boundary; no distance is worth more than the box is wide
        distance = (distance + 1e-4).clamp_max(math.sqrt(grad[0].numel())).reshape(-1, 1, 1, 1)
        if self.norm == "linf":
            return distance * grad.sign()
        return distance * grad / lengths[row, nearest].reshape(-1, 1, 1, 1)
