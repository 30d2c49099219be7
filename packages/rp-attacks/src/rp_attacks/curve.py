"""Accuracy against the radius of the attack: the figure that shows a masked gradient at a glance."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rp_attacks.defence import Classifier
from rp_attacks.intervals import Interval, accuracy_interval
from rp_attacks.minimum_norm import MinimumNorm
from rp_attacks.noise import derive_seed
from rp_attacks.norms import column
from rp_attacks.pgd import PGD
from rp_attacks.problem import check_problem
from rp_attacks.record import judge
from rp_attacks.rng import PrivateStream
from rp_attacks.validation import admit, plain


class CurvePoint(NamedTuple):
    """Accuracy at one radius."""

    eps: float
    accuracy: Interval


@torch.inference_mode(False)
def accuracy_curve(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attack: PGD | MinimumNorm,
    radii: Sequence[float],
    *,
    seed: int,
    index: Tensor | None = None,
    passes: int = 1,
    batch_size: int = 128,
    level: float = 0.95,
) -> list[CurvePoint]:
    """Accuracy of one query under an attack at each radius; 0 gives the clean accuracy.

    PGD attacks each radius anew, so that the curve may rise: an honest one does not, beyond its intervals. An honest
    one also ends at 0 once the ball is the whole box. A minimum-norm attack runs once, and each of its images counts
    from its distance on.

    Args as in `evaluate`; PGD holds settings for its own eps, and its step is scaled with the radius.

    Returns:
        One point per radius, in the given order.
    """
    if attack.eps <= 0:
        raise ValueError("the attack needs an eps above 0, from which its step is scaled")
    x, y, index = plain(x), plain(y), None if index is None else plain(index)
    admit(model, x, y, {"attack": attack}, index)
    rows = check_problem(x, y, norm=attack.norm, eps=0.0, index=index)
    batches = torch.arange(len(x), device=x.device).split(batch_size)
    if isinstance(attack, MinimumNorm):
        candidates = _found(model, x, y, rows, attack, seed, batches)
    else:
        candidates = _attacked(model, x, y, rows, attack, seed, batches)
    points = []
    for eps in radii:
        check_problem(x, y, norm=attack.norm, eps=eps, index=index)
        record = judge(
            model, candidates(eps), y, distance=torch.zeros(len(x)),
            seed=derive_seed(seed, "verdict"), index=rows, passes=passes, batch_size=batch_size,
            random=False,  # nothing is selected
        )  # fmt: skip
        points.append(CurvePoint(eps, accuracy_interval(record.right, level)))
    return points


def _attacked(
    model: Classifier, x: Tensor, y: Tensor, index: Tensor, attack: PGD, seed: int, batches: Sequence[Tensor]
) -> Callable[[float], Tensor]:
    """By radius, the images of an attack that is made anew for each."""

    def at(eps: float) -> Tensor:
        scaled = replace(attack, eps=eps, step_size=attack.step_size * eps / attack.eps or 1.0)
        with PrivateStream(derive_seed(seed, "stream"))(x.device):
            parts = [
                scaled(model, x[part], y[part], seed=derive_seed(seed, "attack"), index=index[part]) for part in batches
            ]
        return torch.cat(parts)

    return at


def _found(
    model: Classifier, x: Tensor, y: Tensor, index: Tensor, attack: MinimumNorm, seed: int, batches: Sequence[Tensor]
) -> Callable[[float], Tensor]:
    """By radius, the nearest adversarial images of one search, or the clean ones where the nearest lie outside."""
    with PrivateStream(derive_seed(seed, "stream"))(x.device):
        found = [
            attack.search(model, x[part], y[part], seed=derive_seed(seed, "attack"), index=index[part])
            for part in batches
        ]
    images, distance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return lambda eps: torch.where(column(distance <= eps, x), images, x)
