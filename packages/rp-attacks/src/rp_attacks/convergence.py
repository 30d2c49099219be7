"""How many passes a gradient needs: the mean of M passes against that of others, over M."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import expected_gradient
from rp_attacks.losses import LOSSES, Loss
from rp_attacks.noise import derive_seed
from rp_attacks.problem import check_problem
from rp_attacks.rng import PrivateStream
from rp_attacks.validation import plain

COUNTS = (1, 2, 5, 10, 20, 50, 100)


class ConvergencePoint(NamedTuple):
    """The mean gradient of so many passes; averages over the images."""

    passes: int
    cosine: float
    """With the mean gradient of as many passes as the last point has, under other noise."""
    same_sign: float
    """Share of its entries that have the sign of that one's, those at zero left out."""


@torch.inference_mode(False)
def eot_convergence(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    index: Tensor | None = None,
    counts: Sequence[int] = COUNTS,
    loss: Loss = "cw",
    grad: str = "exact",
    chunk: int = 1,
) -> list[ConvergencePoint]:
    """One point for each number of passes; where the curve is flat more of them are wasted.

    The passes of a point are among those of the next one: all cost twice the last count, in forward and backward passes
    of each image. A cosine
    that stays far below 1 at the last count says that the draws disagree: an attack should select among them
    (`DiffHammer`).

    Args:
        model: a random defence; of a deterministic one every cosine is 1.
        x: images (b, c, h, w) in [0, 1].
        y: labels (b,).
        counts: increasing numbers of passes M.
        loss: whose gradient is averaged.
        grad: backward rule.
        chunk: passes in one batch.
    """
    x, y = plain(x), plain(y)
    rows = check_problem(x, y, norm="linf", eps=0.0, index=index)
    model = with_gradient(model, grad)
    if list(counts) != sorted(set(counts)) or not counts or counts[0] < 1:
        raise ValueError(f"counts must be increasing numbers of passes from 1 on, got {tuple(counts)}")

    def mean(passes: int, name: str) -> Tensor:
        with PrivateStream(derive_seed(seed, name))(x.device):
            sample = expected_gradient(
                model, x, y, LOSSES[loss], seed=derive_seed(seed, name), index=rows, passes=passes, chunk=chunk
            )
        return sample.grad.flatten(1)

    reference, total = mean(counts[-1], "reference"), torch.zeros_like(x).flatten(1)
    points = []
    for before, count in pairwise([0, *counts]):
        total += (count - before) * mean(count - before, f"convergence from {before}")
        found = total / count
        moves = (found != 0) & (reference != 0)
        agree = ((found.sign() == reference.sign()) & moves).sum() / moves.sum().clamp_min(1)
        cosine = F.cosine_similarity(found, reference).mean()
        points.append(ConvergencePoint(count, float(cosine), float(agree)))
    return points
