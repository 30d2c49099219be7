"""Two pre-activation ResNets of RobustBench: one with a norm after the stem, and one without learned scales."""

from collections.abc import Sequence

from torch import Tensor, nn

from rp_models.networks.classifier import Classifier, residual_group, residual_groups
from rp_models.networks.wide_resnet import initialize, relu


class StemNormResNet(Classifier):
    """A pre-activation ResNet-50 with a batch norm after the stem and none at the end, for small images.

    Keys `conv1, bn1, layer1.0.bn0, ..., linear`. Any image size works.

    Args:
        others: see `WideResNet`.

    Source: Chen et al. 2020, arXiv:2003.12862 (adversarial self-supervised pre-training).
    """

    head_name = "linear"

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        groups, features = residual_groups(_Bottleneck, 50, expansion=4)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.linear = nn.Linear(features, num_classes)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 2048)."""
        x = relu(self.bn1(self.conv1(self.normalize(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))


class BinaryPreActResNet(Classifier):
    """A wide pre-activation ResNet-18 whose norms learn nothing; its weights are binary up to a scale.

    Every block's shortcut, also the plain one, takes the activated input. Keys `conv1, bn1, layer1.0.conv1, ..., fc`,
    the last a 1x1 convolution without bias. Any image size works.

    Args:
        width: groups beyond the first have `width` + 1 times 64, 128 and 256 channels.
        others: see `WideResNet`.

    Source: Diffenderfer et al. 2021, arXiv:2106.09129 (CARDs).
    """

    head_name = "fc"

    def __init__(
        self,
        width: int = 2,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        groups, current = [], 64
        for channels, stride in ((64, 1), (64 * (width + 1), 2), (128 * (width + 1), 2), (256 * (width + 1), 2)):
            groups.append(residual_group(_FixedNormBlock, 2, current, channels, stride))
            current = channels
        self.bn1 = nn.BatchNorm2d(current, affine=False)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.fc = nn.Conv2d(current, num_classes, 1, bias=False)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        x = self.layer2(self.layer1(self.conv1(self.normalize(x))))
        return relu(self.bn1(self.layer4(self.layer3(x)))).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.fc(self.forward_features(x)[:, :, None, None]).flatten(1)


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones; the projection, with a norm, sees the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        projection = (nn.Conv2d(in_channels, 4 * channels, 1, stride, bias=False), nn.BatchNorm2d(4 * channels))
        self.shortcut = nn.Sequential(*projection) if stride != 1 or in_channels != 4 * channels else None

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn0(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        hidden = relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(activated))))))
        return self.conv3(hidden).add_(shortcut)  # in the memory of conv3's output


class _FixedNormBlock(nn.Module):
    """Two 3x3 convolutions with norms without scale and shift; any shortcut sees the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels, affine=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, affine=False)
        projection = (nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels, affine=False))
        self.shortcut = nn.Sequential(*(projection if stride != 1 or in_channels != channels else ()))

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        return self.conv2(relu(self.bn2(self.conv1(activated)))) + self.shortcut(activated)
