"""Certificates of smoothing: a radius in L2 within which no image changes the vote of a random classifier.

They hold for the vote of many passes, not for one pass, in L2 alone, and for each image with probability 1 - alpha.

Sources: Cohen et al. 2019, arXiv:1902.02918 (smoothing); Carlini et al. 2022, arXiv:2206.10550 (denoised smoothing).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from rp_attacks.defence import COPY_STRIDE, Classifier, Randomised, query
from rp_attacks.intervals import Interval, clopper_pearson_lower, sign_test, wilson_interval
from rp_attacks.noise import derive_seed

ABSTAINED = -1


@dataclass(frozen=True, slots=True)
class Certificates:
    """What is certified of each of n images.

    Attributes:
        predicted: int64 (n,), the class of the vote, `ABSTAINED` where it is not clear enough.
        radius: float64 (n,), certified radius in L2, in units of [0, 1] pixels; 0 where abstained.
        lower: float64 (n,), the lower bound of the class's probability.
        labels: int64 (n,).
    """

    predicted: Tensor
    radius: Tensor
    lower: Tensor
    labels: Tensor

    def accuracy(self, radius: float) -> Interval:
        """The share of images that are right and certified at this radius, with Wilson's interval over images."""
        right = (self.predicted == self.labels) & (self.radius >= radius)
        return wilson_interval(int(right.sum()), len(right))

    def curve(self, radii: Sequence[float]) -> list[Interval]:
        """Certified accuracy at each radius."""
        return [self.accuracy(radius) for radius in radii]

    @property
    def abstained(self) -> float:
        """The share of images without a vote."""
        return float((self.predicted == ABSTAINED).double().mean())


def certify(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    std: float,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    seed: int,
    index: Tensor | None = None,
    batch_size: int = 1000,
    progress: Callable[[int], None] | None = None,
) -> Certificates:
    """Certify the vote of a classifier that adds Gaussian noise to its images, such as one behind a one-step denoiser.

    The class is picked by `n0` draws and counted in `n` others; the radius is std Phi^-1(p), p being the one-sided
    Clopper-Pearson bound of its share, and no class is named where p is below 1/2 (Algorithm 1 of Cohen et al. 2019).
    With all draws for one class the radius is 3.81 std at n = 100,000, which is as far as it goes.

    Args:
        model: gives logits (b, k) with the noise inside, as a function of `with_noise(seed=, index=)`.
        x: images (m, c, h, w) in [0, 1].
        y: int64 (m,).
        std: of the model's own noise, in units of [0, 1] pixels; half of a level in units of [-1, 1]. Whatever follows
            the noise belongs to the classifier, clipping too.
        alpha: probability, for each image, that its certificate is wrong.
        seed: of the noise; each draw is a function of it, the image's index and the draw's number.
        index: int64 (m,), the images' numbers; by default 0, 1, 2, ...
        batch_size: images and draws of one pass together; changes no count but by rounding.
        progress: called with the number of images that are done.

    Raises:
        TypeError: for a model whose noise cannot be drawn from a seed.
        ValueError: for sizes out of range.
    """
    if not isinstance(model, Randomised):
        raise TypeError(
            "certify needs a random classifier that offers `with_noise(seed=, index=)`, such as rp_purify's "
            f"Defended(GaussianNoise(std), classifier); got {type(model).__name__}"
        )
    if not std > 0 or n0 < 1 or n < 1 or not 0 < alpha < 1 or batch_size < 1:
        raise ValueError(f"expected std > 0, n0, n, batch_size >= 1 and alpha in (0, 1), got {(std, n0, n, alpha)}")
    numbers = torch.arange(len(x), device=x.device) if index is None else index
    found = []
    for row in range(len(x)):
        image, number = x[row : row + 1], numbers[row : row + 1]
        picked = _votes(model, image, number, n0, derive_seed(seed, "certificate, class"), batch_size).argmax()
        votes = _votes(model, image, number, n, derive_seed(seed, "certificate, count"), batch_size)
        lower = clopper_pearson_lower(int(votes[picked]), n, alpha)
        found.append((int(picked) if lower > 0.5 else ABSTAINED, lower))
        if progress is not None:
            progress(row + 1)
    predicted = torch.tensor([name for name, _ in found], dtype=torch.int64)
    bounds = torch.tensor([lower for _, lower in found], dtype=torch.float64)
    return Certificates(predicted, _radii(bounds, std), bounds, y.cpu())


def vote(
    model: Classifier,
    x: Tensor,
    *,
    n: int = 100,
    alpha: float = 0.001,
    seed: int,
    index: Tensor | None = None,
    batch_size: int = 1000,
) -> Tensor:
    """The classes that a random classifier's passes vote for, int64 (m,); `ABSTAINED` where the first two are close.

    They are told apart by a two-sided binomial test (Predict of Cohen et al. 2019); arguments as of `certify`.
    """
    numbers = torch.arange(len(x), device=x.device) if index is None else index
    answers = []
    for row in range(len(x)):
        votes = _votes(model, x[row : row + 1], numbers[row : row + 1], n, derive_seed(seed, "vote"), batch_size)
        first, second = (int(count) for count in votes.sort(descending=True).values[:2])
        answers.append(int(votes.argmax()) if sign_test(first, second) <= alpha else ABSTAINED)
    return torch.tensor(answers, dtype=torch.int64)


@torch.no_grad()
def _votes(model: Classifier, image: Tensor, number: Tensor, draws: int, seed: int, batch_size: int) -> Tensor:
    """How often each class wins, int64 (k,), in so many passes of one image."""
    total: Tensor | None = None
    for copies in torch.arange(draws, device=image.device).split(batch_size):
        several = image.expand(len(copies), *image.shape[1:])
        logits = query(model, several, seed=seed, index=number + copies * COPY_STRIDE)
        if not bool(logits.isfinite().all()):
            raise ValueError("the model gives logits that are not finite, so there is no vote to certify")
        counts = torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1])
        total = counts if total is None else total + counts
    assert total is not None, "draws is at least 1"
    return total.cpu()


def _radii(lower: Tensor, std: float) -> Tensor:
    """Std Phi^-1(p), 0 where p is at most 1/2."""
    normal = NormalDist()
    return torch.tensor([std * normal.inv_cdf(p) if p > 0.5 else 0.0 for p in lower.tolist()], dtype=torch.float64)
