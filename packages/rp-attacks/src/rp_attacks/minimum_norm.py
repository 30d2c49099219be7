"""Minimum-norm attacks: the nearest adversarial image, and what is common to those who look for it.

An image is adversarial where more than half of the passes misclassify it; of a deterministic model there is one.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace as State
from typing import NamedTuple

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier
from rp_attacks.eot import margins
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm, column, project, size
from rp_attacks.resume import resumable


class Nearest(NamedTuple):
    """The nearest adversarial images that an attack found."""

    images: Tensor
    """Like x; the clean image where none was found."""
    distance: Tensor
    """In the attack's norm, (b,): 0 where the clean image is misclassified, infinite where none was found."""


class MinimumNorm(ImageAttack):
    """The base of attacks that look for the nearest adversarial image; called as attacks they stay in their ball.

    `search` gives the images themselves, `accuracy_curve` the accuracy at every radius from one search.
    """

    __slots__ = ()

    def search(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> Nearest:
        """The nearest adversarial images found, not limited to any ball; arguments as in `__call__`."""
        with self._posed(x, y, index) as (images, labels, rows):
            return self._search(model, images, labels, seed, rows)

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The nearest images, brought into the eps ball where they lie outside."""
        return project(self._search(model, x, y, seed, index).images, x, norm=self.norm, eps=self.eps)

    @abstractmethod
    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Nearest:
        """The nearest adversarial images of a checked problem."""


class Best:
    """The nearest adversarial image of each row so far."""

    def __init__(self, x: Tensor, norm: AnyNorm) -> None:
        self.x, self.norm = x, norm
        self.images, self.distance = x.clone(), x.new_full((len(x),), math.inf)

    @property
    def found(self) -> Tensor:
        """Where an adversarial image was seen, (b,)."""
        return self.distance.isfinite()

    def see(self, x_adv: Tensor, adversarial: Tensor) -> None:
        """Take in images (b, ...) and which of them are adversarial (b,)."""
        distance = size(x_adv - self.x, self.norm)
        nearer = adversarial & (distance < self.distance)
        self.images = torch.where(column(nearer, x_adv), x_adv, self.images)
        self.distance = torch.where(nearer, distance, self.distance)

    def nearest(self) -> Nearest:
        """The result."""
        return Nearest(self.images, self.distance)


def approach(
    model: Classifier, y: Tensor, best: Best, *, steps: int, seed: int, index: Tensor, passes: int = 1
) -> Nearest:
    """Move the images that were found towards the clean ones, by bisection, as long as they stay adversarial.

    On the straight line between the two; in L0 the smaller changes are taken back, as many as possible.

    Args:
        model: classifier or defence.
        y: labels (b,).
        best: what was found.
        steps: bisections; each asks about the images that were found, `passes` times.
        seed: of the passes.
        index: int64 (b,), image indices.
        passes: of a random defence, of which more than half must be wrong.
    """
    rows = best.found.nonzero()[:, 0] if steps else best.found[:0].nonzero()[:, 0]
    if len(rows) == 0:
        return best.nearest()
    x, far, whole = best.x[rows], best.images[rows], best.distance[rows]
    at = State(best=best, low=torch.zeros_like(whole), high=torch.ones_like(whole))
    for step in resumable("bisections", steps, at):
        share = (at.low + at.high) / 2
        between = _between(x, far, share, whole, best.norm)
        _, wrong = margins(
            model, between, y[rows], seed=derive_seed(seed, "bisection", step), index=index[rows], passes=passes
        )
        adversarial = wrong > 0.5
        at.high, at.low = torch.where(adversarial, share, at.high), torch.where(adversarial, at.low, share)
        seen = best.x.clone()
        seen[rows] = between
        best.see(seen, torch.zeros_like(best.found).index_put((rows,), adversarial))
    return best.nearest()


def _between(x: Tensor, far: Tensor, share: Tensor, whole: Tensor, norm: AnyNorm) -> Tensor:
    if norm == "l0":
        return project(far, x, norm="l0", eps=(share * whole).floor())
    return torch.lerp(x, far, column(share, x)).clamp(0, 1)


def cosine(first: float, last: float, step: int, steps: int) -> float:
    """A setting that falls from `first` towards `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def local_optimality(distances: Mapping[str, Tensor | Sequence[float]]) -> dict[str, float]:
    """How near each attack comes to the best of all, image by image: 1 is the best, 0 is no attack at all.

    1 - (A - A*) / (A0 - A*), where A is the area under the robust accuracy over the distance, up to the largest
    distance at which all attacks together still break an image, A* that of the nearest image found by any, and A0 that
    of a model which no attack breaks. Source: Cinà et al. 2025, "AttackBench", arXiv:2404.19460.

    Args:
        distances: by attack, (n,) each, of the same images in the same order: 0 where the clean image is misclassified,
            infinite where nothing was found.

    Raises:
        ValueError: attacks saw different numbers of images, a distance is not a number from 0 on, or none is finite.
    """
    rows = {name: torch.as_tensor(row, dtype=torch.float64).cpu() for name, row in distances.items()}
    counts = {name: tuple(row.shape) for name, row in rows.items()}
    if len(set(counts.values())) != 1 or any(row.dim() != 1 for row in rows.values()):
        raise ValueError(f"each attack needs one distance for each of the same images, got shapes {counts}")
    if any(not (row >= 0).all() for row in rows.values()):
        raise ValueError("distances must be numbers from 0 on, infinite where no adversarial image was found")
    best = torch.stack([*rows.values()]).amin(dim=0)
    if not (found := best[best.isfinite()]).numel():
        raise ValueError("no attack found any adversarial image: there is nothing to compare with")
    limit = found.max().item()
    areas = {name: row.clamp_max(limit).mean().item() for name, row in rows.items()}
    least, most = best.clamp_max(limit).mean().item(), (best > 0).double().mean().item() * limit
    room = most - least
    return {name: 1 - (area - least) / room if area > least else 1.0 for name, area in areas.items()}
