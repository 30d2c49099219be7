"""Classic wide ResNets with another input, another head, or groups of other sizes, as RobustBench has them."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.classifier import Classifier
from rp_models.networks.normalization import Standardize
from rp_models.networks.preact_resnet import BasicBlock
from rp_models.networks.wide_resnet import ClassicBlock, WideResNet, find_activation, group, initialize


class StandardizedWideResNet(WideResNet):
    """A wide ResNet that standardises each image by itself; `depth`, `width` and the others as in `WideResNet`.

    Source: Ding et al. 2020, arXiv:1812.02637 (MMA).
    """

    def __init__(self, depth: int = 28, width: int = 4, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__(depth, width, num_classes, in_channels)
        self.normalize = Standardize(in_channels)


class BoostingWideResNet(WideResNet):
    """A wide ResNet whose logits are cosines: features and rows of the head are scaled to length 1.

    Source: Pang et al. 2020, arXiv:2002.08619.

    Args:
        others: see `WideResNet`; the head has no bias, and the unused group `sub_block1` is there.
    """

    def __init__(
        self,
        depth: int = 34,
        width: int = 20,
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(depth, width, num_classes, in_channels, mean, std, head_bias=False, sub_block=True)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to features (b, 64 * width) of length 1."""
        return F.normalize(super().forward_features(x), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to cosines (b, k)."""
        return F.linear(self.forward_features(x), F.normalize(self.fc.weight, dim=1))


class WideResNetR(Classifier):
    """A wide ResNet with groups of given sizes, keys `stem_conv, blocks.0.layer.0.bn1, ..., bn1, fc`.

    The defaults are WRN-34-R's. Any image size works. Source: Huang et al. 2021, arXiv:2110.03825.

    Args:
        channels: of the stem and of the three groups.
        blocks: in each group.
        activation: "relu" or "silu".
        others: see `WideResNet`.
    """

    head_name = "fc"
    norm_name = "bn1"
    block: ClassVar[type[nn.Module]] = ClassicBlock

    def __init__(
        self,
        channels: Sequence[int] = (16, 320, 640, 512),
        blocks: Sequence[int] = (5, 5, 5),
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__(in_channels, mean, std)
        if len(channels) != 4 or len(blocks) != 3:
            raise ValueError(f"expected four numbers of channels and three of blocks, got {channels} and {blocks}")
        self.activation = find_activation(activation)
        self.stem_conv = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        block = partial(self.block, activation=self.activation)
        sizes = zip(blocks, channels, channels[1:], (1, 2, 2), strict=False)
        self.blocks = nn.Sequential(*(group("layer", block, *size) for size in sizes))
        self.add_module(self.norm_name, nn.BatchNorm2d(channels[-1]))
        self.fc = nn.Linear(channels[-1], num_classes)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        x = self.blocks(self.stem_conv(self.normalize(x)))
        return self.activation(self.get_submodule(self.norm_name)(x)).mean(dim=(2, 3))


class WideResNetA(WideResNetR):
    """The same with shortcuts wherever a stride or channels change, keys `blocks.0.layer.0.shortcut.0, ..., norm1`.

    The defaults are WRN-A4's. Source: Huang et al. 2023, arXiv:2212.11005.
    """

    norm_name = "norm1"
    block = BasicBlock

    def __init__(
        self,
        channels: Sequence[int] = (16, 160, 448, 384),
        blocks: Sequence[int] = (27, 28, 13),
        num_classes: int = 10,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        activation: str = "silu",
    ) -> None:
        super().__init__(
            channels,
            blocks,
            num_classes=num_classes,
            in_channels=in_channels,
            mean=mean,
            std=std,
            activation=activation,
        )
