"""Small classifiers on which every attack's optimum is known in closed form."""

import math

import torch
from torch import Tensor, nn


def linear(shape: tuple[int, ...], classes: int, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """A linear classifier: every attack's optimum is known in closed form."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(math.prod(shape), classes)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator))
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer).eval()


def images(count: int, shape: tuple[int, ...] = (1, 4, 4), seed: int = 0, margin: float = 0.25) -> Tensor:
    """Images at least `margin` away from the bounds, so that the box does not cut the ball."""
    generator = torch.Generator().manual_seed(seed)
    return margin + (1 - 2 * margin) * torch.rand(count, *shape, generator=generator)


class NoisyModel(nn.Module):
    """A classifier behind Gaussian input noise; a function of (seed, image index) where that is asked for."""

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model, self.sigma = model, sigma
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits under noise of the global generator."""
        return self.model(x + self.sigma * torch.randn_like(x))

    def with_noise(self, *, seed: int, index: Tensor):
        """The classifier with noise of its own for each image."""
        from rp_attacks import noise

        def forward(x: Tensor) -> Tensor:
            draws = noise.normal(x.shape[1:], seed=seed, purpose="defence", index=index, like=x)
            return self.model(x + self.sigma * draws)

        return forward
