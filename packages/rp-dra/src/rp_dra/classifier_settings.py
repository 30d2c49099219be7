"""Settings of the classifier; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.settings import at_least, require, within


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifierSettings:
    """The classifier: a network of the zoo; None leaves an argument at the network's own value."""

    network: str = "dm-wide-resnet"  # a classifier of rp_models.names(), e.g. wrn-28-10-swish, vit-b2-32, convnext-b
    depth: int | None = None  # number of layers, of a wide ResNet 6 n + 4 (28); of a ViT its blocks
    width: int | None = None  # widening factor of a wide ResNet (10); of a ViT the tokens' size
    activation: Literal["silu", "relu"] | None = None  # nonlinearity of DM-AT's wide ResNet (silu)
    bn_momentum: float | None = None  # of a wide ResNet (DM-AT's: 0.01); 1 in the very first step, as in DM-AT
    normalize: bool = True  # the data set's mean and deviation inside the network; no: images in [0, 1] as they are
    # further arguments of the network as NAME VALUE pairs, e.g. patch_size 4 pool avg
    arguments: dict[str, int | float | bool | str] = field(default_factory=dict)
    # weights to start from, all but the last layer: a file, or "timm" to download those of a timm network
    pretrained: str | None = None

    def __post_init__(self) -> None:
        if self.network == "dm-wide-resnet" and self.depth is not None:
            require(
                self.depth >= 10 and self.depth % 6 == 4,
                f"classifier.depth must be 6 n + 4 with n >= 1, got {self.depth}",
            )
        at_least(self, "classifier.", depth=1, width=1)
        if self.bn_momentum is not None:
            within(self, "classifier.", bn_momentum="(0, 1]")
