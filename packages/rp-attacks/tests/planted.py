"""Defences that only look robust, of the golden file `rb_planted_masking` and others."""

import torch
from torch import Tensor, nn

from .models import MeanSparse, load_golden


def planted_network(threshold: float = 0.0) -> nn.Module:
    """An adversarially trained network on 8x8 digits, MeanSparse before each SiLU."""
    layers: list[nn.Module] = [nn.Conv2d(1, 24, 3, padding=1)]
    for number in range(6):
        layers += [nn.BatchNorm2d(24), MeanSparse(24), nn.SiLU()]
        layers += [nn.Conv2d(24, 24, 3, padding=1, stride=2 if number == 2 else 1)]
    layers += [nn.BatchNorm2d(24), MeanSparse(24), nn.SiLU(), nn.Flatten(), nn.Linear(384, 10)]
    model, golden = nn.Sequential(), load_golden("rb_planted_masking")
    model.add_module("n", nn.Sequential(*layers))
    model.load_state_dict(
        {key[6:]: torch.as_tensor(value) for key, value in golden.items() if key.startswith("state/")}
    )
    for layer in model.modules():
        if isinstance(layer, MeanSparse):
            layer.threshold.fill_(threshold)
    return model.eval()


class Rounded(nn.Module):
    """Pixels in steps of 1/16."""

    def forward(self, x: Tensor) -> Tensor:
        return (16 * x).round() / 16


class Rolled(nn.Module):
    """The identity with a gradient that is mostly its neighbour's."""

    def forward(self, x: Tensor) -> Tensor:
        return _Rolled.apply(x)


class _Rolled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 0.1 * grad + 0.9 * grad.roll((1, 1), (2, 3))
