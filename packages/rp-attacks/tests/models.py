"""Small models with known answers, and the reference networks of the golden files."""

import numpy as np
import torch
import torch.nn.functional as F
from rp_testing import GOLDEN_FILES, fill_state
from rp_testing.known_answers import NoisyModel, images, linear
from rp_testing.planted import MeanSparse
from torch import Tensor, nn

__all__ = ["MeanSparse", "NoisyModel", "SwishWrn", "filled", "images", "linear", "load_golden", "tiny_conv"]


def load_golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN_FILES / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def filled(model: nn.Module, prefix: str = "", gain: float = 1.0) -> nn.Module:
    """The model with the golden recipe's weights, in eval mode."""
    shapes = {prefix + key: tuple(value.shape) for key, value in model.state_dict().items()}
    values = fill_state(shapes, gain)
    model.load_state_dict({key.removeprefix(prefix): torch.from_numpy(v) for key, v in values.items()})
    return model.eval()


def tiny_conv() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return filled(nn.Sequential(*layers, nn.Linear(64, 10)), prefix="attacks_tinyconv/", gain=1.4)


class SwishWrn(nn.Module):
    """WRN with SiLU and right/bottom padding at stride 2: 16-1 in the `pgd_*` golden files, 10-2 in `trades_dmat_*`."""

    def __init__(self, depth: int = 16, width: int = 1) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels, blocks = [16, 16 * width, 32 * width, 64 * width], (depth - 4) // 6
        self.layer = nn.ModuleList(_Group(channels[i], channels[i + 1], 1 if i == 0 else 2, blocks) for i in range(3))
        self.batchnorm = nn.BatchNorm2d(channels[3])
        self.logits = nn.Linear(channels[3], 10)
        self.register_buffer("mean", torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.2471, 0.2435, 0.2616])[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.init_conv((x - self.mean) / self.std)
        for group in self.layer:
            for block in group.block:
                h = block(h)
        return self.logits(F.silu(self.batchnorm(h)).mean(dim=(2, 3)))


class _Group(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, blocks: int) -> None:
        super().__init__()
        later = [_Block(outside, outside, 1) for _ in range(blocks - 1)]
        self.block = nn.ModuleList([_Block(inside, outside, stride), *later])


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0, self.batchnorm_1 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.conv_0 = nn.Conv2d(inside, outside, 3, stride, 1 if stride == 1 else 0, bias=False)
        self.conv_1 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.pad = (0, 0, 0, 0) if stride == 1 else (0, 1, 0, 1)
        if inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.batchnorm_0(x))
        x = self.shortcut(h) if hasattr(self, "shortcut") else x
        h = self.conv_0(F.pad(h, self.pad))
        return x + self.conv_1(F.silu(self.batchnorm_1(h)))
