"""RaWRN for ImageNet: a bottleneck ResNet with squeeze-and-excitation, whose first convolutions have no batch norm.

Source: Peng et al. 2023, arXiv:2308.16258, and RobustBench's public model zoo for names.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.classifier import Classifier
from rp_models.networks.dm_wide_resnet import SqueezeExcitation
from rp_models.networks.wide_resnet import initialize


class RaResNet(Classifier):
    """Keys `stem.stem.stem.0, stages.stage1.stage1-block0.proj.0, ....F.a.0, ..., fc`; the defaults are RaWRN-101-2's.

    Each of the four stages halves the resolution in its first block. Any image size works.

    Args:
        widths: channels that leave each stage; a quarter of them inside its blocks.
        depths: blocks of each stage.
        group_widths: channels of a group in the 3x3 convolutions of each stage.
        stem_width: channels of the first convolution.
        num_classes: number of logits.
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    head_name = "fc"

    def __init__(
        self,
        widths: Sequence[int] = (512, 1024, 2016, 4032),
        depths: Sequence[int] = (7, 11, 18, 1),
        group_widths: Sequence[int] = (64, 128, 252, 504),
        stem_width: int = 96,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(in_channels, mean, std)
        stem = [nn.Conv2d(in_channels, stem_width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(stem_width), nn.ReLU()]
        inner = nn.Sequential(OrderedDict(stem=nn.Sequential(*stem)))
        self.stem = nn.Sequential(OrderedDict(stem=inner))
        stages, current = OrderedDict[str, nn.Module](), stem_width
        for number, (width, depth, group_width) in enumerate(zip(widths, depths, group_widths, strict=True), 1):
            sizes = [(current, 2), *[(width, 1)] * (depth - 1)]
            blocks = OrderedDict[str, nn.Module](
                (f"stage{number}-block{i}", _Block(before, width, stride, group_width))
                for i, (before, stride) in enumerate(sizes)
            )
            stages[f"stage{number}"] = nn.Sequential(blocks)
            current = width
        self.stages = nn.Sequential(stages)
        self.fc = nn.Linear(current, num_classes)
        initialize(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        return self.stages(self.stem(self.normalize(x))).mean(dim=(2, 3))


class _Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with a gate before the last; a projection where shapes change."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        inner = channels // 4
        if inner % group_width:
            raise ValueError(f"a quarter of the stage's {channels} channels must divide into groups of {group_width}")
        changes = stride != 1 or in_channels != channels
        self.proj = _conv_norm(in_channels, channels, 1, stride) if changes else nn.Identity()
        middle = _conv_norm(inner, inner, 3, stride, groups=inner // group_width)
        self.F = nn.Sequential(
            OrderedDict(
                a=nn.Sequential(nn.Conv2d(in_channels, inner, 1, bias=False), nn.SiLU()),
                b=middle.append(nn.SiLU()),
                se=SqueezeExcitation(inner, round(in_channels / 4)),
                c=_conv_norm(inner, channels, 1, 1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.proj(x) + self.F(x))


def _conv_norm(in_channels: int, channels: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
    """A convolution that keeps the size up to its stride, and its batch norm."""
    convolution = nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels))
