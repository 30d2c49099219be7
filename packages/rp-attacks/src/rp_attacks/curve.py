"""Accuracy against the radius of the attack: the figure that shows a masked gradient at a glance."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from rp_attacks.defence import Classifier
from rp_attacks.intervals import Interval, accuracy_interval
from rp_attacks.noise import derive_seed
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
    attack: PGD,
    radii: Sequence[float],
    *,
    seed: int,
    index: Tensor | None = None,
    passes: int = 1,
    batch_size: int = 128,
    level: float = 0.95,
) -> list[CurvePoint]:
    """Accuracy of one query under an attack at each radius; 0 gives the clean accuracy.

    Each radius is attacked anew, so that the curve may rise: an honest one does not, beyond its intervals. An honest
    one also ends at 0 once the ball is the whole box.

    Args as in `evaluate`; the attack holds settings for its own eps, and its step is scaled with the radius.

    Returns:
        One point per radius, in the given order.
    """
    if attack.eps <= 0:
        raise ValueError("the attack needs an eps above 0, from which its step is scaled")
    x, y, index = plain(x), plain(y), None if index is None else plain(index)
    admit(model, x, y, {"attack": attack}, index)
    points = []
    for eps in radii:
        rows = check_problem(x, y, norm=attack.norm, eps=eps, index=index)
        scaled = replace(attack, eps=eps, step_size=attack.step_size * eps / attack.eps or 1.0)
        with PrivateStream(derive_seed(seed, "stream"))(x.device):
            parts = [
                scaled(model, x[part], y[part], seed=derive_seed(seed, "attack"), index=rows[part])
                for part in torch.arange(len(x), device=x.device).split(batch_size)
            ]
        record = judge(
            model, torch.cat(parts), y, distance=torch.zeros(len(x)),
            seed=derive_seed(seed, "verdict"), index=rows, passes=passes, batch_size=batch_size,
            random=False,  # nothing is selected
        )  # fmt: skip
        points.append(CurvePoint(eps, accuracy_interval(record.right, level)))
    return points
