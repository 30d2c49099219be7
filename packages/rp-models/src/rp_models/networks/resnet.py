"""The common ResNet for 32x32 images: post-activation blocks after a 3x3 stem without pooling.

The layout of many public CIFAR networks (keys `conv1, bn1, layer1.0.conv1, ..., linear`), DM-AT's and pyautoattack's
example among them. For ImageNet's ResNets see `backbones`.

Source: He et al. 2016, arXiv:1512.03385.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from rp_models.networks.classifier import Classifier, residual_groups
from rp_models.networks.wide_resnet import relu


class CifarResNet(Classifier):
    """A ResNet for small images of any size; at 32x32 the pooling equals the 4x4 window of the public code.

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        width: channels of the stem and of the first group.
        others: see `WideResNet`.
    """

    head_name = "linear"

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        width: int = 64,
    ) -> None:
        super().__init__(in_channels, mean, std)
        block = _BasicBlock if depth < 50 else _Bottleneck
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        groups, features = residual_groups(block, depth, expansion=block.expansion, width=width)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.linear = nn.Linear(features, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 8 * width), four times that with bottlenecks."""
        x = relu(self.bn1(self.conv1(self.normalize(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last four times as wide."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.shortcut = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = relu(self.bn1(self.conv1(x)))
        hidden = relu(self.bn2(self.conv2(hidden)))
        return relu(self.bn3(self.conv3(hidden)) + self.shortcut(x))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """A strided 1x1 convolution with its batch norm if shapes change, else nothing."""
    if stride == 1 and in_channels == channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
