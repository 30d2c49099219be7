"""A purifier whose network takes images of another size."""

from typing import Self

from torch import Tensor
from torch.nn import functional as F

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier


def resized(x: Tensor, size: int) -> Tensor:
    """Square images of that size, bilinear without aligned corners; as they are if they have it."""
    if x.shape[2] == x.shape[3] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class Resized(Purifier):
    """Brings square images to another size, purifies them there, and brings them back.

    DiffPure does so on ImageNet, with a network for 256 pixels and a classifier for 224. Backward rules are those of
    the purifier inside, with the derivative of the resizing around them.

    Raises:
        ValueError: unless the size is positive.
    """

    def __init__(self, purifier: Purifier, size: int) -> None:
        if size < 1:
            raise ValueError(f"the size must be positive, got {size}")
        super().__init__(seed=purifier.seed, fresh=purifier.fresh)
        self.purifier, self.size = purifier, size
        self.grad = purifier.grad

    @property
    def gradients(self) -> tuple[str, ...]:  # type: ignore[override]
        """The backward rules of the purifier inside."""
        return self.purifier.gradients if "purifier" in self._modules else Purifier.gradients

    def with_gradient(self, name: str) -> Self:
        """The same purifier with another backward rule."""
        other = super().with_gradient(name)
        other._modules = {**self._modules, "purifier": self.purifier.with_gradient(name)}
        return other

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The purified images in their own size."""
        return self._back(self.purifier.purify(resized(x, self.size), seed=seed, index=index), x)

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The same with a graph to the weights."""
        return self._back(self.purifier.differentiable(resized(x, self.size), seed=seed, index=index), x)

    def _back(self, purified: Tensor, x: Tensor) -> Tensor:
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"only square images are resized, got {tuple(x.shape[2:])} pixels")
        return clip_to_image(resized(purified, x.shape[2]))
