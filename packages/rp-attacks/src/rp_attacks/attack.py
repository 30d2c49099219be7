"""What all attacks share: the check of their problem, the mode and precision of their work, and a full result."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from rp_attacks.defence import Classifier, OffersGradients, Randomised, counted_passes, query
from rp_attacks.losses import misclassified
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm, size
from rp_attacks.problem import check_problem, differentiating, without_inference

_start: ContextVar[Tensor | None] = ContextVar("where an attack may begin", default=None)


@contextmanager
def starting_at(images: Tensor | None) -> Iterator[None]:
    """Attacks inside may begin at these images, one for each that they are given (`PGD(start="worst")`)."""
    token = _start.set(images)
    try:
        yield
    finally:
        _start.reset(token)


def given_start(x: Tensor) -> Tensor | None:
    """The images of `starting_at` where there are any and they fit."""
    start = _start.get()
    return None if start is None or start.shape != x.shape else start.to(x)


class AttackResult(NamedTuple):
    """What an attack made of a batch."""

    images: Tensor
    """Adversarial images, like x."""
    success: Tensor
    """Whether a fresh pass of the model misclassifies each image, (b,)."""
    distance: Tensor
    """Size of each perturbation in the attack's norm, (b,)."""
    passes: float
    """Forward passes that the attack made for an image, on average over the batch."""


class ImageAttack(ABC):
    """The base of this package's attacks; whatever satisfies the protocol `Attack` is as good.

    An attack works in any mode of the caller, also in inference mode, and leaves it alone. Images of half precision are
    attacked in float32; the result is rounded towards the clean images and so stays in its ball.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def norm(self) -> AnyNorm:
        """Norm of the ball."""

    @property
    @abstractmethod
    def eps(self) -> float:
        """Radius of the ball in units of [0, 1] pixels."""

    @property
    def takes_soft_labels(self) -> bool:
        """Whether y may be probabilities."""
        return False

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> Tensor:
        """Adversarial images for a batch.

        Args:
            model: images to logits, in the mode that the caller wants.
            x: clean images (b, c, h, w) in [0, 1].
            y: labels (b,); `PGD` takes probabilities (b, k) where nothing has to be judged.
            seed: of all random numbers.
            index: int64 (b,), which image each row is; by default 0, 1, 2, ...

        Returns:
            Images like x, detached, within eps and [0, 1].

        Raises:
            ValueError: a bad problem or model; the message says the fix. `NoGradientError` where a gradient attack
                meets a model without a gradient.
            TypeError: images, labels or the model's answer are of the wrong type.
        """
        with self._posed(x, y, index) as (images, labels, rows):
            made = self._perturb(_fed_with(model, x.dtype), images, labels, seed, rows)
            return _towards(made.detach(), x.detach())

    def run(self, model: Classifier, x: Tensor, y: Tensor, *, seed: int, index: Tensor | None = None) -> AttackResult:
        """The images with what an attack knows of them beside; arguments as in `__call__`."""
        with counted_passes() as count:
            images = self(model, x, y, seed=seed, index=index)
            passes = count() / len(x)
        rows = torch.arange(len(x), device=x.device) if index is None else index.to(x.device)
        with torch.no_grad():
            logits = query(model, images, seed=derive_seed(seed, "result"), index=rows)
            labels = y.argmax(dim=1) if y.is_floating_point() else y
            return AttackResult(images, misclassified(logits, labels), self._distance(images, x), passes)

    def _distance(self, images: Tensor, x: Tensor) -> Tensor:
        return size(images.double() - x.double(), self.norm).to(torch.promote_types(x.dtype, torch.float32))

    @abstractmethod
    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """Adversarial images of a checked problem, in float32 or float64 and outside inference mode."""

    @contextmanager
    def _posed(self, x: Tensor, y: Tensor, index: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The checked problem, in a mode and a precision in which gradients can be reckoned."""
        index = check_problem(x, y, norm=self.norm, eps=self.eps, index=index, soft=self.takes_soft_labels)
        with differentiating():
            images, labels, rows = without_inference(x.detach(), y, index)
            yield images.to(torch.promote_types(x.dtype, torch.float32)), labels, rows


def _fed_with(model: Classifier, precision: torch.dtype) -> Classifier:
    """A plain function asked in the precision of the caller's images; `query` sees to modules and defences itself."""
    plain = not isinstance(model, torch.nn.Module | Randomised | OffersGradients)
    return (lambda x: model(x.to(precision))) if plain and precision.itemsize < 4 else model


def _towards(made: Tensor, x: Tensor) -> Tensor:
    """The images in x's precision; where that is half, rounded so that no pixel lies farther from x's than before."""
    if x.dtype.itemsize >= 4:
        return made.to(x.dtype)
    rounded = made.to(x.dtype).abs()
    farther = (rounded.float() - x.float()).abs() > (made - x.float()).abs()
    bits = rounded.view(torch.int16)  # of numbers from 0 on, which are ordered as their bits are
    back = (x.abs().view(torch.int16) - bits).sign()
    return torch.where(farther, bits + back, bits).view(x.dtype)
