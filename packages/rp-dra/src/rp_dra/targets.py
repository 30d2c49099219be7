"""Alignment targets: frozen diffusion models that say what an image's features should look like."""

import torch
from torch import Tensor, nn


class EdmTarget(nn.Module):
    """Features of a frozen EDM U-Net: one noisy pass through its encoder, averaged over space.

    Args:
        denoiser: an EDM network; it is frozen and put into eval mode.
        sigma: noise level in EDM's units (images in [-1, 1]).
        layer: a name that `denoiser.features` knows; "bottleneck" is the output of the last middle block.

    Source: Section 4.2 and Appendix D of the DRA paper.
    """

    def __init__(self, denoiser: nn.Module, *, sigma: float = 0.1, layer: str = "bottleneck") -> None:
        super().__init__()
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.sigma, self.layer = sigma, layer

    def train(self, mode: bool = True) -> "EdmTarget":
        """Stays in eval mode, whatever the model around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor | None, *, noise: Tensor) -> Tensor:
        """Diffusion features of images, without graph; see `differentiable`."""
        return self.differentiable(x, y, noise=noise)

    def differentiable(self, x: Tensor, y: Tensor | None, *, noise: Tensor) -> Tensor:
        """Diffusion features of images, differentiable in the images.

        Args:
            x: images (b, c, h, w) in [0, 1].
            y: labels (b,), the condition; None for the unconditional features.
            noise: standard normal, like x.

        Returns:
            Tensor (b, d).
        """
        noisy = 2.0 * x - 1.0 + self.sigma * noise
        sigma = torch.full((len(x),), self.sigma, dtype=x.dtype, device=x.device)
        return self.denoiser.features(noisy, sigma, y, at=self.layer).mean(dim=(2, 3))  # type: ignore[operator]

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d, found by one pass."""
        parameter = next(self.denoiser.parameters())
        x = torch.zeros(1, channels, image_size, image_size, device=parameter.device)
        return int(self(x, None, noise=torch.zeros_like(x)).shape[1])
