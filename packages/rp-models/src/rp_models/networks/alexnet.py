"""AlexNet with torchvision's parameter names, the reference of the mean corruption error.

Source: Krizhevsky 2014, arXiv:1404.5997.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from rp_models.networks.normalization import Normalize


class AlexNet(nn.Module):
    """Five convolutions and three linear layers, keys `features.0, ..., classifier.6`; images from 63 pixels on.

    Args:
        num_classes: number of logits.
        in_channels: image channels.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.normalize = Normalize(in_channels, mean, std)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, 64, 11, 4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
        for before, channels in ((192, 384), (384, 256), (256, 256)):
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(3, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        hidden = [nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, num_classes))

    @property
    def head(self) -> nn.Module:
        """The last layer, from features to logits."""
        return self.classifier[-1]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to the features (b, 4096) before the last layer."""
        return self.classifier[:-1](self.avgpool(self.features(self.normalize(x))).flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.head(self.forward_features(x))
