"""Input normalisation inside a model, so that every model takes images in [0, 1], and the statistics of data sets."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Statistics(NamedTuple):
    """Per-channel mean and standard deviation of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# The values of DM-AT's networks (Wang et al. 2023, arXiv:2302.04638); the literature has others for CIFAR-10's std.
CIFAR10 = Statistics((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
CIFAR100 = Statistics((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
SVHN = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TINY_IMAGENET = Statistics((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation per channel; the identity without them.

    The first layer of every network here, hence also the place where an image batch is checked. Its constants move with
    the model but are not in the state dict, which keeps the keys those of the references.

    Args:
        channels: of the images.
        mean: one value per channel, in the images' units ([0, 1]).
        std: one positive value per channel.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std, or neither of them")
        self.channels = channels
        self.register_buffer("mean", _per_channel("mean", mean, channels), persistent=False)
        self.register_buffer("std", _per_channel("std", std, channels), persistent=False)
        if std is not None and min(std) <= 0:
            raise ValueError(f"every std must be positive, got {tuple(std)}")

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to images of the same shape, normalised.

        Raises:
            ValueError: if `x` is no image batch of the right number of channels.
        """
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"expected images (batch, {self.channels}, height, width), got {tuple(x.shape)}; "
                f"build the model with in_channels={x.shape[1] if x.dim() == 4 else '...'} for other images"
            )
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    def invert(self, x: Tensor) -> Tensor:
        """Normalised images (b, c, h, w) back to the units of the input."""
        return x if self.mean is None or self.std is None else x * self.std + self.mean


class Standardize(Normalize):
    """Each image minus its own mean, over its own deviation, both over all its values and not per channel.

    The deviation is the unbiased one and at least 1 / sqrt(values), as in the networks of Ding et al. 2020,
    arXiv:1812.02637.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to images of the same shape; errors as in `Normalize`."""
        x = super().forward(x)
        mean, deviation = x.mean(dim=(1, 2, 3), keepdim=True), x.std(dim=(1, 2, 3), keepdim=True)
        return (x - mean) / deviation.clamp(min=x[0].numel() ** -0.5)


def _per_channel(name: str, values: Sequence[float] | None, channels: int) -> Tensor | None:
    """The values as a (c, 1, 1) tensor."""
    if values is None:
        return None
    if len(values) != channels:
        raise ValueError(
            f"{name} has {len(values)} values for {channels} channels; give one value per channel, or None"
        )
    return torch.tensor(values, dtype=torch.float32).reshape(channels, 1, 1)
