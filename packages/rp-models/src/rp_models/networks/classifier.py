"""What the convolutional classifiers share: normalisation first, pooled features, a linear head, groups of blocks."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from rp_models.networks.normalization import Normalize

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # by depth


class Classifier(nn.Module):
    """Images (b, c, h, w) in [0, 1] to logits; a subclass defines `forward_features` and the layer `head_name`.

    Args:
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    head_name: ClassVar[str]

    def __init__(self, in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        self.normalize = Normalize(in_channels, mean, std)

    @property
    def head(self) -> nn.Linear:
        """The last layer, from features to logits."""
        head: nn.Linear = getattr(self, self.head_name)
        return head

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.head(self.forward_features(x))


def residual_group(
    block: Callable[[int, int, int], nn.Module], n: int, incoming: int, channels: int, stride: int, expansion: int = 1
) -> nn.Sequential:
    """A group of `n` blocks, of which the first changes channels and resolution.

    `block` makes one from its incoming channels, its own channels, of which `expansion` times as many come out, and its
    stride.
    """
    sizes = [(incoming, stride), *[(expansion * channels, 1)] * (n - 1)]
    return nn.Sequential(*(block(before, channels, step) for before, step in sizes))


def residual_groups(
    block: Callable[[int, int, int], nn.Module],
    depth: int,
    depths: Sequence[int] = tuple(BLOCKS),
    expansion: int = 1,
    width: int = 64,
) -> tuple[list[nn.Sequential], int]:
    """The four groups of a ResNet for small images, of 1, 2, 4 and 8 times `width` channels, and what comes out.

    Arguments as of `residual_group`; `width` channels enter, and the number of those that come out is the second
    result. Raises ValueError if the depth is not among `depths`.
    """
    if depth not in depths:
        raise ValueError(f"the depth of this network is one of {', '.join(map(str, depths))}, got {depth}")
    groups, incoming = [], width
    for count, (multiple, stride) in zip(BLOCKS[depth], ((1, 1), (2, 2), (4, 2), (8, 2)), strict=True):
        groups.append(residual_group(block, count, incoming, multiple * width, stride, expansion))
        incoming = expansion * multiple * width
    return groups, incoming
