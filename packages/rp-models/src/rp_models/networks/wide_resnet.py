"""The classic wide residual network, and what its variants share: groups, activations, initial weights.

The topology of Zagoruyko and Komodakis 2016, arXiv:1605.07146: a 3x3 stem, three groups of (depth - 4) / 6
pre-activation blocks with 16, 32 and 64 times `width` channels, global average pooling and a linear head.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.classifier import Classifier, residual_group
from rp_models.settings import check_choice


def relu(x: Tensor) -> Tensor:
    """max(x, 0), elementwise, in the memory of `x`: it follows a batch norm, whose backward needs no output."""
    return F.relu(x, inplace=True)


class PSSiLU(nn.Module):
    """x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|) with two learned numbers; SiLU where alpha is 1 and beta 0.

    Source: Dai et al. 2021, arXiv:2110.05626.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([1e-8]))
        self.alpha = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        beta = self.beta.abs()
        return x * (torch.sigmoid(self.alpha.abs() * x) - beta) / (1 - beta)


# a function, or a module's class: a network has one such module, which all its blocks share
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor] | type[nn.Module]] = {"silu": F.silu, "relu": relu, "pssilu": PSSiLU}


class WideResNet(Classifier):
    """The classic wide ResNet: ReLU, symmetric padding, keys `conv1, block1.layer.0.bn1, ..., bn1, fc`.

    Any image size works; at 32x32 the pooling equals the 8x8 window of the public code.

    Args:
        depth: 6 n + 4 layers with n >= 1 blocks per group, e.g. 28, 34, 70.
        width: widening factor.
        num_classes: number of logits.
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none, as in the public code.
        std: per-channel standard deviation; None with `mean=None`.
        head_bias: whether the last layer has a bias; some files of RobustBench have none.
        sub_block: keep the group `sub_block1` that TRADES' released networks carry along without using it.
        bn_momentum: of all batch norms.
        activation: "relu", "silu" or "pssilu".

    Source: Zhang et al. 2019, arXiv:1901.08573 (TRADES), models/wideresnet.py for names and initialisation.
    """

    head_name = "fc"

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        head_bias: bool = True,
        sub_block: bool = False,
        bn_momentum: float = 0.1,
        activation: str = "relu",
    ) -> None:
        super().__init__(in_channels, mean, std)
        n, function = blocks_per_group(depth), find_activation(activation)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        block = partial(ClassicBlock, activation=function, bn_momentum=bn_momentum)
        self.block1 = group("layer", block, n, 16, 16 * width, 1)
        if sub_block:
            self.sub_block1 = group("layer", block, n, 16, 16 * width, 1).requires_grad_(False)
        self.block2 = group("layer", block, n, 16 * width, 32 * width, 2)
        self.block3 = group("layer", block, n, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width, momentum=bn_momentum)
        self.activation = function
        self.fc = nn.Linear(64 * width, num_classes, bias=head_bias)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, 64 * width)."""
        x = self.conv1(self.normalize(x))
        x = self.block3(self.block2(self.block1(x)))
        return self.activation(self.bn1(x)).mean(dim=(2, 3))


class ClassicBlock(nn.Module):
    """Pre-activation block; the shortcut convolution, where channels change, sees the activated input."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        activation: Callable[[Tensor], Tensor] = relu,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, momentum=bn_momentum)
        self.activation = activation
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, momentum=bn_momentum)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (b, c, h, w) to (b, channels, h / stride, w / stride)."""
        activated = self.activation(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        hidden = self.activation(self.bn2(self.conv1(activated)))
        return self.conv2(hidden).add_(shortcut)  # in the memory of conv2's output


class SameConv2d(nn.Conv2d):
    """A bias-free 3x3 convolution with TensorFlow's "same" padding.

    A stride of 2 pads even sizes by one pixel at the right and bottom only; all else is padded on every side.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=0 if stride == 2 else 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (b, c, h, w) to (b, d, ceil(h / stride), ceil(w / stride))."""
        if self.stride == (2, 2):
            x = F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1))
        return super().forward(x)


def group(
    name: str, block: Callable[[int, int, int], nn.Module], n: int, in_channels: int, channels: int, stride: int
) -> nn.Sequential:
    """A residual group of `n` blocks under the key `name`; see `residual_group`."""
    return nn.Sequential(OrderedDict({name: residual_group(block, n, in_channels, channels, stride)}))


def blocks_per_group(depth: int) -> int:
    """The number of blocks in each of the three groups of a wide ResNet.

    Raises:
        ValueError: if the depth is not 6 n + 4 with n >= 1.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"the depth of a wide ResNet is 6 n + 4 (10, 16, 22, 28, 34, ...), got {depth}")
    return (depth - 4) // 6


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation of that name: a function, or a new module where it has parameters.

    Raises:
        ValueError: if it is not "silu", "relu" or "pssilu".
    """
    check_choice("the activation", name, ACTIVATIONS)
    found = ACTIVATIONS[name]
    return found() if isinstance(found, type) else found


def initialize(model: nn.Module) -> None:
    """Normal convolution weights of variance 2 / fan-out, zero biases of linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
