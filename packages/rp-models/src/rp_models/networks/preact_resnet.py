"""Pre-activation residual networks for small images: the classic ones with ReLU, and DM-AT's with SiLU.

Both: a 3x3 stem with 64 channels, four groups of blocks with 64, 128, 256 and 512 channels, global average pooling, a
linear head (He et al. 2016, arXiv:1603.05027). They differ in names, padding, normalisation, and in the shortcut.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.classifier import Classifier, residual_groups
from rp_models.networks.wide_resnet import SameConv2d, find_activation, relu


class PreActResNet(Classifier):
    """The classic pre-activation ResNet: ReLU, keys `conv1, layer1.0.bn1, ..., bn, linear`.

    The shortcut, where shapes change, is a 1x1 convolution. Any image size works; at 32x32 the pooling equals the 4x4
    window of the public code.

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        final_norm: whether a batch norm and a ReLU precede the pooling.
        raw_shortcut: whether a basic block's shortcut convolution takes the block's input, and not the activated one.
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
        final_norm: bool = True,
        raw_shortcut: bool = False,
    ) -> None:
        super().__init__(in_channels, mean, std)
        if raw_shortcut and depth >= 50:
            raise ValueError(f"raw_shortcut is for basic blocks (depth 18 or 34), got depth {depth}")
        block = (_RawShortcutBlock if raw_shortcut else BasicBlock) if depth < 50 else _Bottleneck
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        groups, width = residual_groups(block, depth, expansion=block.expansion)
        self.layer1, self.layer2, self.layer3, self.layer4 = groups
        self.bn = nn.BatchNorm2d(width) if final_norm else None
        self.linear = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 512), or (b, 2048) with bottlenecks."""
        x = self.layer2(self.layer1(self.conv1(self.normalize(x))))
        x = self.layer4(self.layer3(x))
        return (x if self.bn is None else relu(self.bn(x))).mean(dim=(2, 3))


class DMPreActResNet(Classifier):
    """DM-AT's pre-activation ResNet: SiLU, keys `conv_2d, layer_0.0.batchnorm_0, ..., batchnorm, logits`.

    The shortcut, where shapes change, is a 3x3 convolution of the raw input; strided ones pad as TensorFlow does. Any
    image size works; at 32x32 the pooling equals the 4x4 window of the public code.

    Args:
        depth: 18 or 34.
        others: see `DMWideResNet`.

    Source: Gowal et al. 2020, arXiv:2010.03593; Wang et al. 2023, arXiv:2302.04638 (DM-AT) for names.
    """

    head_name = "logits"

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: str = "silu",
        padding: int = 0,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.activation = find_activation(activation)
        self.padding = padding
        self.conv_2d = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        block = partial(_DMBlock, activation=self.activation, bn_momentum=bn_momentum)
        groups, width = residual_groups(block, depth, (18, 34))
        self.layer_0, self.layer_1, self.layer_2, self.layer_3 = groups
        self.batchnorm = nn.BatchNorm2d(width, momentum=bn_momentum)
        self.logits = nn.Linear(width, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 512)."""
        if self.padding:
            x = F.pad(x, (self.padding,) * 4)
        x = self.layer_1(self.layer_0(self.conv_2d(self.normalize(x))))
        return self.activation(self.batchnorm(self.layer_3(self.layer_2(x)))).mean(dim=(2, 3))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut convolution, if shapes change, takes the activated input."""

    expansion = 1

    def __init__(
        self, in_channels: int, channels: int, stride: int, activation: Callable[[Tensor], Tensor] = relu
    ) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (b, c, h, w) to (b, channels, h / stride, w / stride)."""
        activated = self.activation(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        hidden = self.activation(self.bn2(self.conv1(activated)))
        return self.conv2(hidden).add_(shortcut)  # in the memory of conv2's output


class _RawShortcutBlock(BasicBlock):
    """A basic block whose shortcut convolution takes the input as it is."""

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return self.conv2(relu(self.bn2(self.conv1(relu(self.bn1(x)))))).add_(shortcut)


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last four times as wide."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.shortcut = _shortcut(in_channels, 4 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        hidden = self.conv2(relu(self.bn2(self.conv1(activated))))
        return self.conv3(relu(self.bn3(hidden))).add_(shortcut)  # in the memory of conv3's output


class _DMBlock(nn.Module):
    """Two 3x3 convolutions with a chosen activation and "same" padding."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        activation: Callable[[Tensor], Tensor],
        bn_momentum: float,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.batchnorm_0 = nn.BatchNorm2d(in_channels, momentum=bn_momentum)
        self.conv_2d_1 = SameConv2d(in_channels, channels, stride)
        self.batchnorm_1 = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.conv_2d_2 = SameConv2d(channels, channels, 1)
        changes = stride != 1 or in_channels != channels
        self.shortcut = SameConv2d(in_channels, channels, stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        hidden = self.conv_2d_1(self.activation(self.batchnorm_0(x)))
        return self.conv_2d_2(self.activation(self.batchnorm_1(hidden))).add_(shortcut)  # in the output's memory


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    """A strided 1x1 convolution, named as in the public code, if shapes change."""
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False))
