"""Tiny networks and images for the tests; weights and pixels from an own generator."""

import torch
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.networks.mae import MaskedAutoencoder
from torch import Tensor, nn
from torch.nn import functional as F


def tiny_images(count: int = 3, *, low: float = 0.0, high: float = 1.0, channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return low + (high - low) * torch.rand(count, channels, size, size, generator=generator)


def tiny_mae(**arguments: object) -> MaskedAutoencoder:
    sizes = {"image_size": 8, "patch_size": 2, "in_channels": 1, "width": 16, "depth": 2, "heads": 2}
    decoder = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
    return randomised(MaskedAutoencoder(**{**sizes, **decoder, **arguments}))  # type: ignore[arg-type]


def randomised(model: nn.Module) -> nn.Module:
    """Fill the trainable parameters with repeatable draws, biases too, so that no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
                scale = fan_in**-0.5 if parameter.dim() > 1 else 0.1
                centre = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
                parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


class TinyClassifier(nn.Module):
    """One hidden layer with features of width 6 and 10 classes."""

    def __init__(self, pixels: int = 64) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(pixels, 6), nn.Linear(6, 10)
        randomised(self)

    def forward_features(self, x: Tensor) -> Tensor:
        return F.silu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))


def tiny_maskdit() -> MaskDiT:
    sizes = {"image_size": 8, "patch_size": 2, "in_channels": 1, "width": 16, "depth": 2, "heads": 2}
    decoder = {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
    return randomised(MaskDiT(**sizes, **decoder, num_classes=0))  # type: ignore[arg-type, return-value]


class ShrinkingDenoiser(nn.Module):
    """The exact denoiser of data with mean `center` and standard deviation `spread`, one weight each."""

    def __init__(self, center: float = 0.2, spread: float = 0.5) -> None:
        super().__init__()
        self.center, self.spread = nn.Parameter(torch.tensor(center)), nn.Parameter(torch.tensor(spread))

    def forward(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        share = self.spread**2 / (self.spread**2 + sigma**2)
        return self.center + share * (x - self.center)
