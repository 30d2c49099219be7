"""RayS: a search over sign vectors that sees nothing but labels."""

import math
from dataclasses import dataclass
from types import SimpleNamespace as State
from typing import NamedTuple

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import COPY_STRIDE, Classifier, query
from rp_attacks.devices import send
from rp_attacks.losses import misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, project, size
from rp_attacks.problem import check_logits, check_positive, check_radius
from rp_attacks.resume import resumable


class RaySResult(NamedTuple):
    """What the search found for each image."""

    images: Tensor
    """Nearest adversarial images found, (b, c, h, w), not limited to any ball."""
    distance: Tensor
    """Their Linf distance, (b,)."""
    radius: Tensor
    """Their L2 radius along the sign ray, before clipping to [0, 1], (b,)."""
    queries: Tensor
    """Queries until the distance first was within eps, or all, (b,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RayS(ImageAttack):
    """Ray search (Chen & Gu 2020, arXiv:2006.12792): hard labels only, deterministic, Linf.

    Flips blocks of a sign vector, halving the blocks when all were tried, and keeps a flip where the ray meets the
    boundary nearer. For random defences a label is the majority of `passes`.
    """

    eps: float = 8 / 255  # verdict radius in units of [0, 1] pixels
    queries: int = 10_000  # for each image
    tolerance: float = 1e-3  # of the binary search, in L2 units
    passes: int = 1  # asked for each label

    def __post_init__(self) -> None:
        check_radius("linf", self.eps)
        check_positive(queries=self.queries, tolerance=self.tolerance, passes=self.passes)

    @property
    def norm(self) -> Norm:
        """Linf, always."""
        return "linf"

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The nearest images, brought into the eps ball where the search ended outside."""
        return project(self._search(model, x, y, seed, index).images, x, norm="linf", eps=self.eps)

    def search(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> RaySResult:
        """The nearest adversarial images within the queries; goes on shrinking after success."""
        with self._posed(x, y, index) as (images, labels, rows):
            return self._search(model, images, labels, seed, rows)

    def _search(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> RaySResult:
        ray = _Ray(self, model, x, y, seed, index)
        at, pixels = ray.state, x[0].numel()
        for _ in resumable("flips", self.queries, at):  # each asks at least once
            if not bool((at.used < self.queries).any()):
                break
            length = math.ceil(pixels / 2**at.level)
            first, last = at.block * length, min((at.block + 1) * length, pixels)
            ray.try_flip(first, last)
            at.block += 1
            if at.block == 2**at.level or last == pixels:
                at.level, at.block = at.level + 1, 0
        radius, solved = (send(values, x.device) for values in (at.radius, at.solved.clamp_max(self.queries)))
        return RaySResult(at.images, ray.distance(), radius, solved)


class _Ray:
    """The state of the search: one sign vector and the radius at which it meets the boundary, for each image.

    Images and signs are on the device; radii and counts are on the CPU, where the search decides what to ask next. So a
    GPU is waited for once a query, for its answers.
    """

    def __init__(self, attack: RayS, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> None:
        self.attack, self.model, self.x, self.y, self.index = attack, model, x, y, index.cpu()
        self.seed = derive_seed(seed, "label")
        used = torch.zeros(len(x), dtype=torch.int64)
        self.state = State(
            signs=torch.ones_like(x), radius=torch.full((len(x),), float("inf"), dtype=x.dtype),
            images=torch.ones_like(x),  # the end of a ray of infinite radius
            used=used, solved=used.clone(), level=0, block=0,
        )  # fmt: skip
        self.longest = math.sqrt(x[0].numel())  # a unit vector times this reaches a corner of the box

    def distance(self) -> Tensor:
        """Linf distance of the images found."""
        return size(self.state.images - self.x, "linf")

    def try_flip(self, first: int, last: int) -> None:
        """Flip one block of signs; keep it where the boundary is nearer that way."""
        at = self.state
        still, unsolved = at.used < self.attack.queries, self.distance().cpu() > self.attack.eps
        signs = at.signs.clone().flatten(1)
        signs[:, first:last] *= self._sent(torch.where(still, -1.0, 1.0).to(signs.dtype))[:, None]
        signs = signs.reshape(self.x.shape)
        far = self._bisect(signs, still.nonzero().flatten())
        better = still & (far < at.radius)
        if bool(better.any()):
            chosen = self._sent(better)[:, None, None, None]
            at.images = torch.where(chosen, self._at(signs, self._sent(far), self.x), at.images)
            at.signs = torch.where(chosen, signs, at.signs)
            at.radius = torch.where(better, far, at.radius)
        at.solved[unsolved] = at.used[unsolved]

    def _bisect(self, signs: Tensor, rows: Tensor) -> Tensor:
        """Radius at which the rays are adversarial, next to the boundary; the present radius where they are not."""
        near, far = torch.zeros_like(self.state.radius), self.state.radius.clone()
        rows = rows[self._is_adversarial(signs, self.state.radius, rows)]
        far[rows] = far[rows].clamp_max(self.longest)
        while len(rows):
            middle = (near + far) / 2
            adversarial = self._is_adversarial(signs, middle, rows)
            far[rows[adversarial]] = middle[rows[adversarial]]
            near[rows[~adversarial]] = middle[rows[~adversarial]]
            rows = rows[(far - near)[rows] > self.attack.tolerance]
        return far

    def _at(self, signs: Tensor, radius: Tensor, x: Tensor) -> Tensor:
        unit = signs / self.longest
        return (x + radius.reshape(-1, 1, 1, 1) * unit).clamp(0, 1)

    def _is_adversarial(self, signs: Tensor, radius: Tensor, rows: Tensor) -> Tensor:
        """Whether most passes misclassify the points at this radius; counts one query a pass."""
        chosen, used = self._sent(rows), self.state.used
        images, labels = self._at(signs[chosen], self._sent(radius[rows]), self.x[chosen]), self.y[chosen]
        votes = torch.zeros(len(rows), device=images.device)
        with torch.no_grad():
            for number in range(self.attack.passes):
                # other noise for each of an image's own queries, whatever the rest of the batch does
                place = self._sent(self.index[rows] + COPY_STRIDE * (used[rows] + number))
                logits = query(self.model, images, seed=self.seed, index=place)
                if not used.any():
                    check_logits(logits, labels)
                votes += misclassified(logits, labels)
        used[rows] += self.attack.passes
        return (votes * 2 > self.attack.passes).cpu()

    def _sent(self, values: Tensor) -> Tensor:
        return send(values, self.x.device)
