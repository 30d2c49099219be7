"""Carlini & Wagner's L2 attack: the smallest perturbation by penalised descent and a search over the penalty."""

from dataclasses import dataclass
from types import SimpleNamespace as State

import torch
from torch import Tensor

from rp_attacks.defence import Classifier, query, with_gradient
from rp_attacks.eot import input_gradient
from rp_attacks.losses import cw_margin, misclassified
from rp_attacks.minimum_norm import Best, MinimumNorm, Nearest
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, repaired
from rp_attacks.problem import check_logits, check_positive, check_radius
from rp_attacks.resume import resumable

_INSIDE = 0.999999  # of (-1, 1), where arctanh is finite


@dataclass(frozen=True, kw_only=True, slots=True)
class CarliniWagner(MinimumNorm):
    """C&W L2 (Carlini & Wagner 2017, arXiv:1608.04644): min |x' - x|^2 + c max(kappa - margin, 0) over x' in the box.

    x' = (tanh(w) + 1) / 2 and Adam on w; c is searched for each image, up tenfold and then by halves. For random
    defences use confidence 1 and several passes, and take the result as a supplement.
    """

    eps: float = 0.5  # verdict radius in units of [0, 1] pixels
    search_steps: int = 5  # values of c
    steps: int = 200  # of Adam for each; the paper has 9 searches of 10,000
    step_size: float = 0.01
    initial_c: float = 0.1
    confidence: float = 0.0  # kappa, the margin to be reached
    eot: int = 1  # passes whose losses are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius("l2", self.eps)
        check_positive(
            search_steps=self.search_steps,
            steps=self.steps,
            step_size=self.step_size,
            initial_c=self.initial_c,
            eot=self.eot,
        )

    @property
    def norm(self) -> Norm:
        """L2, always."""
        return "l2"

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        model = with_gradient(model, self.grad)
        with torch.no_grad():
            logits = query(model, x, seed=derive_seed(seed, "first"), index=index)
        check_logits(logits, y)
        spread = (logits.amax(dim=1) - logits.amin(dim=1)).to(x)
        c = self.initial_c / spread.clamp(torch.finfo(x.dtype).tiny, 1.0)  # small logits weigh as much as others
        far = torch.full_like(c, float("inf"))
        at = State(c=c, low=torch.zeros_like(c), high=far, best=Best(x, "l2"))
        for number in resumable("searches", self.search_steps, at):
            found = self._descend(model, x, y, at.c, at.best, derive_seed(seed, "search", number), index)
            at.high, at.low = torch.where(found, at.c, at.high), torch.where(found, at.low, at.c)
            at.c = torch.where(at.high.isinf(), 10 * at.c, (at.low + at.high) / 2)
        nearest: Nearest = at.best.nearest()
        return nearest

    def _descend(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        best: Best,
        seed: int,
        index: Tensor,
    ) -> Tensor:
        """Adam for one value of c; notes the best, and says where anything adversarial was found."""
        w_clean = torch.atanh((2 * x - 1) * _INSIDE)
        origin = _to_image(w_clean)
        at = State(best=best, w=w_clean, adam=Adam(x, self.step_size), found=torch.zeros_like(y, dtype=torch.bool))
        for step in resumable("steps", self.steps, at):
            step_seed = derive_seed(seed, "step", step)
            x_adv, margin, fooled, grad = self._look(model, at.w, origin, y, c, step_seed, index)
            at.w = at.w - at.adam.step(grad)
            # a margin of 0 is a tie, which most passes must lose
            wrong = (margin >= self.confidence) & ((margin > 0) | (fooled > 0.5))
            at.found = at.found | wrong
            best.see(x_adv, wrong)
        found: Tensor = at.found
        return found

    def _look(
        self, model: Classifier, w: Tensor, origin: Tensor, y: Tensor, c: Tensor, seed: int, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The present images, their mean margins, shares of wrong passes, and the objective's mean gradient at w."""
        grads, margins, wrong = torch.zeros_like(w), torch.zeros_like(c), torch.zeros_like(c)
        for number in range(self.eot):
            leaf = w.detach().requires_grad_()
            x_adv = _to_image(leaf)
            logits = query(model, x_adv, seed=derive_seed(seed, "pass", number), index=index)
            margin = cw_margin(logits, y)
            # apart, so that a model without a gradient is noticed
            shorter = input_gradient((x_adv - origin).square().flatten(1).sum(dim=1), leaf, keep_graph=True)
            wronger = input_gradient(c * (self.confidence - margin).clamp_min(0), leaf, index=index)
            grads += (shorter + repaired(wronger)[0]) / self.eot
            margins += margin.detach() / self.eot
            wrong += misclassified(logits, y) / self.eot
        return x_adv.detach(), margins, wrong, grads


class Adam:
    """Adam's step (Kingma & Ba 2015, arXiv:1412.6980); torch's own optimiser takes seconds to import."""

    def __init__(self, like: Tensor, step_size: float, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.step_size, self.beta1, self.beta2 = step_size, beta1, beta2
        self.mean, self.square, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def step(self, grad: Tensor) -> Tensor:
        """What to subtract."""
        self.count += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * grad
        self.square = self.beta2 * self.square + (1 - self.beta2) * grad**2
        mean = self.mean / (1 - self.beta1**self.count)
        square = self.square / (1 - self.beta2**self.count)
        return self.step_size * mean / (square.sqrt() + 1e-8)


def _to_image(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2
