"""ADP: a noisy image moved along a score network's direction, in steps whose size is told by its change.

Source: Yoon et al. 2021, "Adversarial Purification with Score-based Generative Models", arXiv:2106.06041.
"""

from collections.abc import Callable, Iterator
from typing import get_args

import torch
from rp_models import noise
from rp_models.settings import at_least, check_choice, within
from torch import Tensor, nn

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier
from rp_purify.reverse import recomputed
from rp_purify.settings import Per

_PROBE = 1e-3  # how far along the direction the change is measured
_SMALLEST, _LARGEST = 1e-5, 0.1  # step sizes in [0, 1] pixel units


class ADP(Purifier):
    """Adds noise of std `sigma`, then takes up to `steps` adaptive steps along the direction of the score.

    The direction is that of a denoiser at one low level, g = (D(x; level) - x) / level, of about unit size like the
    published network's score without its division by sigma. The published verdict is a mean over ten purified copies,
    which is the evaluation's affair: ask for ten passes. The published backward rule is "identity"; "exact"
    differentiates through the adaptive steps.

    Args:
        denoiser: an unconditional denoiser D(x; sigma) of images in [-1, 1].
        sigma: of the noise, in [0, 1] pixel units.
        lam: lambda, the wanted relative change of the direction.
        stop: an image stops for good when its step is at most so large.
        level: noise level of the direction, in the units of [-1, 1].
        per: "image", or "batch" for the published way: the way back from the grid is applied to images that have
            stopped too, for as long as any of the batch goes on.

    Raises:
        ValueError: for a setting out of range.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        sigma: float = 0.25,
        steps: int = 10,
        lam: float = 0.05,
        stop: float = 1e-3,
        level: float = 0.1,
        per: Per = "image",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model, self.sigma, self.steps, self.lam, self.stop = denoiser, sigma, steps, lam, stop
        self.level, self.per = level, per
        at_least(self, steps=0)
        within(self, sigma="not negative", lam="positive", stop="not negative", level="positive")
        check_choice("per", self.per, get_args(Per))

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images after all steps."""
        unit = noise.normal(x.shape[1:], seed=seed, purpose="noise", index=index, dtype=x.dtype)
        image = x
        for image, _ in self.trajectory(x, unit):  # noqa: B007 (the last one is wanted)
            pass
        return clip_to_image(image)

    def trajectory(self, x: Tensor, unit: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The images after each step and the step sizes (b,), first the noisy images and 0, with given unit normals."""
        image, size = to_grid(clip_to_image(x + self.sigma * unit)), x.new_zeros(len(x))
        going = torch.ones_like(size, dtype=torch.bool)
        for _ in range(self.steps):
            yield image, size
            image, size, going = recomputed(self, self._step, image, going)
        yield image, size

    def _step(self, image: Tensor, going: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, step sizes, and which images have not stopped, after one step."""
        g = self.direction(image)
        size = adaptive_size(image, g, self.direction, lam=self.lam)
        going = going & (size > self.stop)
        size = size * going
        ahead = from_grid(image + size.view(-1, 1, 1, 1) * g)
        moves = going if self.per == "image" else going.any().expand_as(going)
        return torch.where(moves.view(-1, 1, 1, 1), ahead, image), size, going

    def direction(self, x: Tensor) -> Tensor:
        """The direction g at images in [0, 1]."""
        scaled = 2 * x - 1
        level = torch.full((len(x),), self.level, device=x.device, dtype=x.dtype)
        return (self.model(scaled, level).to(x.dtype) - scaled) / self.level


def to_grid(x: Tensor) -> Tensor:
    """Images on the middles of 256 equal cells of [0, 1], where the published network expects them."""
    return x * (255 / 256) + 1 / 512


def from_grid(x: Tensor) -> Tensor:
    """The way back, limited to [0, 1]."""
    return clip_to_image(x * (256 / 255) - 1 / 510)


def adaptive_size(x: Tensor, g: Tensor, direction: Callable[[Tensor], Tensor], *, lam: float = 0.05) -> Tensor:
    """The size of each image's step along g = direction(x) (b,).

    It is lam times the distance over which the direction is expected to turn, 1e-3 / (1 - <g, g'> / <g, g>) with g' a
    little further on, between 1e-5 and 0.1.
    """
    further = direction(x + _PROBE * g)
    square = (g * g).flatten(1).sum(dim=1)
    kept = (g * further).flatten(1).sum(dim=1) / torch.where(square > 0, square, torch.ones_like(square))
    turned = 1 - kept
    turned = torch.where(turned == 0, torch.full_like(turned, lam * _PROBE / _LARGEST), turned)  # not at all: the bound
    return (lam * _PROBE / turned).clamp(_SMALLEST, _LARGEST)
