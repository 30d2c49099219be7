"""The common ResNet for 32x32 images: post-activation blocks after a 3x3 stem without pooling.

The layout of many public CIFAR networks (keys `conv1, bn1, layer1.0.conv1, ..., linear`), DM-AT's and pyautoattack's
example among them. For ImageNet's ResNets see `backbones`.

Source: He et al. 2016, arXiv:1512.03385.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.normalization import Normalize

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class CifarResNet(nn.Module):
    """A ResNet for small images of any size; at 32x32 the pooling equals the 4x4 window of the public code.

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        num_classes: number of logits.
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none, as in the public code.
        std: per-channel standard deviation; None with `mean=None`.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"the depth of a ResNet is one of {', '.join(map(str, _BLOCKS))}, got {depth}")
        kernels, expansion = ((3, 3), 1) if depth < 50 else ((1, 3, 1), 4)
        self.normalize = Normalize(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        groups, width = [], 64
        for count, channels in zip(_BLOCKS[depth], (64, 128, 256, 512), strict=True):
            out_channels = channels * expansion
            first = _Block(width, channels, out_channels, 1 if channels == 64 else 2, kernels)
            rest = (_Block(out_channels, channels, out_channels, 1, kernels) for _ in range(count - 1))
            groups.append(nn.Sequential(first, *rest))
            width = out_channels
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.linear = nn.Linear(width, num_classes)

    @property
    def head(self) -> nn.Linear:
        """The last layer, from features to logits."""
        return self.linear

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 512), or (b, 2048) with bottlenecks."""
        x = F.relu(self.bn1(self.conv1(self.normalize(x))), inplace=True)
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.linear(self.forward_features(x))


class _Block(nn.Module):
    """Convolutions of the given kernel sizes, each with a batch norm; the 3x3 one that comes first has the stride."""

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, stride: int, kernels: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.depth = len(kernels)
        strided = kernels.index(3)
        widths = [in_channels, *[channels] * (self.depth - 1), out_channels]
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(
                widths[i], widths[i + 1], kernel, stride if i == strided else 1, padding=kernel // 2, bias=False
            )
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i in range(1, self.depth + 1):
            out = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(out))
            if i < self.depth:
                out = F.relu(out, inplace=True)
        return F.relu(out + self.shortcut(x), inplace=True)
