"""DM-AT's wide ResNet and its variants: RaWRN's squeeze-and-excitation and stage sizes, MeanSparse between its layers.

Sources: Gowal et al. 2020, arXiv:2010.03593; Wang et al. 2023, arXiv:2302.04638 (DM-AT), also for names; Peng et al.
2023, arXiv:2308.16258 (RaWRN); Amini et al. 2024, arXiv:2406.05927 (MeanSparse); RobustBench's public model zoo.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.classifier import Classifier
from rp_models.networks.mean_sparse import MeanSparse
from rp_models.networks.wide_resnet import SameConv2d, blocks_per_group, find_activation, group, initialize


class RaWideResNet(Classifier):
    """A wide ResNet with a free stem, free groups, and squeeze-and-excitation at the end of each block.

    The defaults are RaWRN-70-16's. Keys are `DMWideResNet`'s with `layer.g.block.b.se.fc1|fc2` and, with MeanSparse,
    `meansparse_0, _1, _2` in each block and `meansparse_end`. Any image size works.

    Args:
        blocks: in each of the three groups.
        channels: of the three groups.
        stem_channels: of the first convolution.
        se_ratio: hidden channels of squeeze-and-excitation over a block's channels; None for none.
        mean_sparse: a MeanSparse operator after each batch norm and after each residual sum.
        others: see `DMWideResNet`.
    """

    head_name = "logits"

    def __init__(
        self,
        blocks: Sequence[int] = (30, 31, 10),
        channels: Sequence[int] = (216, 432, 864),
        stem_channels: int = 96,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: str = "silu",
        padding: int = 0,
        se_ratio: float | None = 0.25,
        mean_sparse: bool = False,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(in_channels, mean, std)
        if len(blocks) != 3 or len(channels) != 3:
            raise ValueError(f"a wide ResNet has three groups, got blocks {tuple(blocks)}, channels {tuple(channels)}")
        self.activation = find_activation(activation)
        self.padding = padding
        self.init_conv = nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False)
        block = partial(
            _Block, activation=self.activation, se_ratio=se_ratio, mean_sparse=mean_sparse, bn_momentum=bn_momentum
        )
        sizes = zip(blocks, (stem_channels, *channels), channels, (1, 2, 2), strict=False)
        self.layer = nn.Sequential(*(group("block", block, *size) for size in sizes))
        self.batchnorm = nn.BatchNorm2d(channels[-1], momentum=bn_momentum)
        self.logits = nn.Linear(channels[-1], num_classes)
        self.meansparse_end = _sparse(channels[-1], mean_sparse)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        if self.padding:
            x = F.pad(x, (self.padding,) * 4)
        x = self.layer(self.init_conv(self.normalize(x)))
        return self.activation(self.meansparse_end(self.batchnorm(x))).mean(dim=(2, 3))


class DMWideResNet(RaWideResNet):
    """DM-AT's wide ResNet: SiLU, TensorFlow's "same" padding, keys `init_conv, layer.0.block.0..., batchnorm, logits`.

    Any image size works; at 32x32 the pooling equals the 8x8 window of the public code, at 64x64 its TinyImageNet form.

    Args:
        activation: "silu" or "relu".
        padding: pixels of value 0 around the image, before normalisation.
        mean_sparse: see `RaWideResNet`.
        others: see `WideResNet`.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: str = "silu",
        padding: int = 0,
        mean_sparse: bool = False,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(
            blocks=(blocks_per_group(depth),) * 3,
            channels=(16 * width, 32 * width, 64 * width),
            stem_channels=16,
            num_classes=num_classes,
            in_channels=in_channels,
            mean=mean,
            std=std,
            activation=activation,
            padding=padding,
            se_ratio=None,
            mean_sparse=mean_sparse,
            bn_momentum=bn_momentum,
        )


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1), computed from all channels' means (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: of the feature map.
        hidden: channels between the two 1x1 convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (b, c, h, w) to the same shape."""
        return x * self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()


class _Block(nn.Module):
    """The classic block with "same" padding; where wanted MeanSparse after norms and sum, and a gate on the branch."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        activation: Callable[[Tensor], Tensor],
        se_ratio: float | None,
        mean_sparse: bool,
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.batchnorm_0 = nn.BatchNorm2d(in_channels, momentum=bn_momentum)
        self.meansparse_0 = _sparse(in_channels, mean_sparse)
        self.conv_0 = SameConv2d(in_channels, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.meansparse_1 = _sparse(channels, mean_sparse)
        self.conv_1 = SameConv2d(channels, channels, 1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None
        hidden = round(channels * se_ratio) if se_ratio else 0
        self.se = SqueezeExcitation(channels, hidden) if hidden else nn.Identity()
        self.meansparse_2 = _sparse(channels, mean_sparse)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(self.meansparse_0(self.batchnorm_0(x)))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        hidden = self.activation(self.meansparse_1(self.batchnorm_1(self.conv_0(activated))))
        return self.meansparse_2(self.se(self.conv_1(hidden)).add_(shortcut))  # in the memory of conv_1's output


def _sparse(channels: int, wanted: bool) -> nn.Module:
    """A MeanSparse operator, or nothing."""
    return MeanSparse(channels) if wanted else nn.Identity()
