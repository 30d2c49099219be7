"""The ResNeXt for 32x32 images: bottlenecks with grouped 3x3 convolutions in three stages.

Source: Xie et al. 2017, arXiv:1611.05431; AugMix' public networks for names.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from rp_models.networks.classifier import Classifier, residual_group
from rp_models.networks.wide_resnet import initialize, relu


class CifarResNeXt(Classifier):
    """Keys `conv_1_3x3, bn_1, stage_1.0.conv_reduce, ..., classifier`; any image size works.

    Args:
        depth: 9 n + 2 layers with n >= 1 blocks per stage, e.g. 29.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels of a group in the first stage; they double from stage to stage.
        others: see `WideResNet`.
    """

    head_name = "classifier"

    def __init__(
        self,
        depth: int = 29,
        cardinality: int = 4,
        base_width: int = 32,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        if depth < 11 or (depth - 2) % 9:
            raise ValueError(f"the depth of this ResNeXt is 9 n + 2 (11, 20, 29, 38, ...), got {depth}")
        self.conv_1_3x3 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        stages, current = [], 64
        for multiple, stride in ((1, 1), (2, 2), (4, 2)):
            block = partial(_Block, inner=cardinality * multiple * base_width, groups=cardinality)
            stages.append(residual_group(block, (depth - 2) // 9, current, 256 * multiple, stride))
            current = 256 * multiple
        self.stage_1, self.stage_2, self.stage_3 = stages
        self.classifier = nn.Linear(current, num_classes)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 1024)."""
        x = relu(self.bn_1(self.conv_1_3x3(self.normalize(x))))
        return self.stage_3(self.stage_2(self.stage_1(x))).mean(dim=(2, 3))


class _Block(nn.Module):
    """A grouped 3x3 convolution between two 1x1 ones; a projection where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int, inner: int, groups: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(channels)
        projection = (nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        self.downsample = nn.Sequential(*projection) if stride != 1 or in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = relu(self.bn_reduce(self.conv_reduce(x)))
        hidden = self.bn_expand(self.conv_expand(relu(self.bn(self.conv_conv(hidden)))))
        return relu(hidden + (x if self.downsample is None else self.downsample(x)))
