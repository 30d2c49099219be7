"""Square attack: random search with no gradients, here with margins averaged over passes for random defences."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier
from rp_attacks.eot import margins
from rp_attacks.noise import derive_seed, uniform
from rp_attacks.norms import Norm, size
from rp_attacks.pgd import Best
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable
from rp_attacks.watch import is_watched, tell

# p is halved after these of 10,000 queries (section 3 of the paper)
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Square(ImageAttack):
    """Square attack in the Linf ball (Andriushchenko et al. 2020, arXiv:1912.00049).

    Each image has its own squares and signs, so that results do not depend on the batch. With `passes` above 1 a
    proposal is accepted on its mean margin, and no image stops early: one lucky pass is no success.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels
    queries: int = 5000  # points tried; each takes `passes` model calls
    passes: int = 1
    p_init: float = 0.8  # share of the image that the first squares cover
    race: bool = False  # give a proposal up whose mean margin after half of its passes is below the best one's
    rescale_schedule: bool = False  # stretch the halvings of p to `queries`; AutoAttack does not

    def __post_init__(self) -> None:
        check_radius("linf", self.eps)
        check_positive(queries=self.queries, passes=self.passes, p_init=self.p_init)

    @property
    def norm(self) -> Norm:
        """Linf, always."""
        return "linf"

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        draws = uniform((self.queries, 2 + x.shape[1]), seed=seed, purpose="squares", index=index, like=x)
        stripes = uniform((x.shape[1], 1, x.shape[3]), seed=seed, purpose="stripes", index=index, like=x)
        best = (x + self.eps * _sign(stripes)).clamp(0, 1)
        state = Best(best)
        for query in resumable("queries", self.queries, state):
            rows = torch.arange(len(x), device=x.device)
            if self.passes == 1:
                rows = rows[state.wrong < 1]
            if len(rows) == 0:
                break
            tried = best
            if query:
                tried = self._propose(state.images[rows], x[rows], draws[rows, query], query)
            pass_seed, at = derive_seed(seed, "query", query), index[rows]
            new, fooled = self._margins(model, tried, y[rows], state.score[rows], pass_seed, at, check=query == 0)
            state.offer(rows, tried, new, fooled)
            if is_watched():
                self._tell(query, state, x, index)
        return state.images

    def _margins(
        self, model: Classifier, x: Tensor, y: Tensor, best: Tensor, seed: int, index: Tensor, *, check: bool
    ) -> tuple[Tensor, Tensor]:
        """Mean margins of proposals, and shares of wrong passes; those that fall behind at half time are given up."""
        half = (self.passes + 1) // 2 if self.race and not check else self.passes
        score, wrong = margins(model, x, y, seed=seed, index=index, passes=half, check=check)
        rest = self.passes - half
        rows = (score > best).nonzero().flatten() if rest else index[:0]
        if len(rows):
            more = derive_seed(seed, "second half")
            later, fooled = margins(model, x[rows], y[rows], seed=more, index=index[rows], passes=rest)
            score[rows] = (half * score[rows] + rest * later) / self.passes
            wrong[rows] = (half * wrong[rows] + rest * fooled) / self.passes
        return score, wrong

    def _tell(self, query: int, state: Best, x: Tensor, index: Tensor) -> None:
        tell(
            self, query, index=index, loss=state.score, wrong=state.wrong, gradient=None,
            distance=lambda: size(state.images - x, "linf"),
        )  # fmt: skip

    def _propose(self, best: Tensor, x: Tensor, draws: Tensor, query: int) -> Tensor:
        """The best points with one square each moved to a corner of the ball, channel by channel."""
        _, channels, height, width = x.shape
        side = self._side(query, height, width)
        top = (draws[:, 0] * (height - side + 1)).floor()[:, None]
        left = (draws[:, 1] * (width - side + 1)).floor()[:, None]
        row, column = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        inside_rows = (row >= top) & (row < top + side)
        inside_columns = (column >= left) & (column < left + side)
        square = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]).to(x.dtype)
        signs = _sign(draws[:, 2:]).reshape(-1, channels, 1, 1)
        moved = best + 2 * self.eps * signs * square
        return torch.minimum(torch.maximum(moved, x - self.eps), x + self.eps).clamp(0, 1)

    def _side(self, query: int, height: int, width: int) -> int:
        position = int(query / self.queries * 10_000) if self.rescale_schedule else query
        p = self.p_init / 2 ** sum(position > halving for halving in _HALVINGS)
        return min(max(round(math.sqrt(p * height * width)), 1), height, width)


def _sign(u: Tensor) -> Tensor:
    """Signs of equal chance from uniform draws."""
    return torch.where(u < 0.5, -1.0, 1.0).to(u.dtype)
