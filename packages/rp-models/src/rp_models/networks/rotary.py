"""Rotary positions on a square grid of tokens.

Source: Su et al. 2021, arXiv:2104.09864; on two axes as in Fang et al. 2023, arXiv:2303.11331.
"""

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """The cosines and sines by which a token's queries and keys are rotated, for a square grid in row-major order.

    The first half of a head's channels turns with the row, the second with the column; adjacent channels are a pair and
    turn by position / 10000^(2j/m), j the pair's number in its half and m = head_width / 2.

    Args:
        head_width: channels of one head, divisible by 4.
        grid: tokens along one side.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, head_width: int, grid: int) -> None:
        super().__init__()
        if head_width % 4:
            raise ValueError(f"rotary positions on two axes need a head width divisible by 4, got {head_width}")
        m = head_width // 2
        frequency = 1.0 / 10000.0 ** (torch.arange(0, m, 2).float() / m)
        angle = (torch.arange(grid).float()[:, None] * frequency).repeat_interleave(2, dim=1)  # position, channel
        rows = angle[:, None].expand(grid, grid, m)
        columns = angle[None].expand(grid, grid, m)
        table = torch.cat([rows, columns], dim=2).flatten(0, 1)
        # both are in the reference's state dict, hence persistent
        self.register_buffer("freqs_cos", table.cos())
        self.register_buffer("freqs_sin", table.sin())

    def table(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (n, head_width) each."""
        return self.freqs_cos, self.freqs_sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys (..., n, head_width) with each pair of adjacent channels turned by its token's angle."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cos + turned * sin
