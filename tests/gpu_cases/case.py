"""What a case is: a small instance of something that shall run on a GPU, as a function that gives `step(number)`.

Sizes are tiny: what counts is which operations run where, and how often the host has to wait.
"""

from collections.abc import Callable
from typing import Any

import torch
from rp_models import build
from rp_models.data import ImageSet, load_images, subset
from rp_models.settings import ComputeSettings
from rp_models.training.distributed import ALONE, Processes
from torch import distributed

Step = Callable[[int], Any]
CASES: dict[str, Callable[[str], Step]] = {}
# no channels_last: the pretended GPU leaves layouts of weights out, and sums in another order flip signs in an attack
FAST = ComputeSettings(precision="bf16", clip_norm=1.0)


def case(name: str) -> Callable[[Callable[[str], Step]], Callable[[str], Step]]:
    def keep(make: Callable[[str], Step]) -> Callable[[str], Step]:
        CASES[name] = make
        return make

    return keep


def digits(device: str, count: int = 64, split: str = "train") -> ImageSet:
    return subset(load_images("digits", split), count).to(device)


def batch(device: str, count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return digits(device, count, "test").batch(slice(0, count))


def group() -> Processes:
    """Two processes where torch.distributed runs, of which this is the first; see `budgets.collectives`."""
    return Processes(0, 2) if distributed.is_initialized() else ALONE


def tiny_edm(labels: int = 10) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(
        "edm",
        model_type="SongUNet",
        num_blocks=1,
        attn_resolutions=[4],
        img_resolution=8,
        img_channels=1,
        label_dim=labels,
        model_channels=8,
        channel_mult=[1, 2],
        dropout=0.1,
    )


def classifier(device: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return build("dm-wide-resnet", depth=10, width=1, in_channels=1, num_classes=10).to(device).eval()
