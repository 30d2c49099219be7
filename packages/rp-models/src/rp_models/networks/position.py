"""Fixed sine-cosine position tables of MAE, MaskDiT and LightningDiT."""

import numpy as np
import torch
from torch import Tensor


def sincos_table(width: int, grid: int, *, class_token: bool = False) -> Tensor:
    """The 2-D sine-cosine table of a square grid of patches.

    The first half of the channels encodes the column, the second half the row; inside each half all sines come first.
    Frequencies are 1 / 10000^(k / (width/4)); computed in float64, stored in float32.

    Args:
        width: channels, divisible by 4.
        grid: patches along one side.
        class_token: put a row of zeros in front.

    Returns:
        Tensor (grid^2 [+ 1], width).

    Source: He et al. 2022, arXiv:2111.06377, following Vaswani et al. 2017.
    """
    if width % 4:
        raise ValueError(f"a 2-D sine-cosine table needs a width divisible by 4, got {width}")
    frequency = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float64) / (width / 4))
    angle = np.arange(grid, dtype=np.float64)[:, None] * frequency  # one axis of the grid: position, frequency
    axis = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    column = np.tile(axis, (grid, 1))  # tokens in row-major order: the column index runs fastest
    row = np.repeat(axis, grid, axis=0)
    table = np.concatenate([column, row], axis=1)
    if class_token:
        table = np.concatenate([np.zeros((1, width)), table])
    return torch.from_numpy(table.astype(np.float32))
