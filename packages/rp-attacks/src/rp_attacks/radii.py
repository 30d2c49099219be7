"""Radii of threat models: which are usual, and which are possible at all. Importing this does not import torch."""

import math
from collections.abc import Sequence
from typing import Literal

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = ("linf", "l2", "l1")
AnyNorm = Literal["linf", "l2", "l1", "l0"]
"""Also L0, the number of values that differ: of minimum-norm attacks, since no gradient ascends in it."""
Convention = Literal["robustbench", "purification"]

_CIFAR = (3, 32, 32)
_USUAL: dict[Convention, dict[Norm, float]] = {  # on CIFAR-10
    "robustbench": {"linf": 8 / 255, "l2": 128 / 255, "l1": 12.0},
    "purification": {"linf": 8 / 255, "l2": 1.0, "l1": 12.0},  # Tables 1 to 9 of the MAE-Pure paper
}


def usual_radius(
    norm: Norm,
    *,
    shape: Sequence[int] = _CIFAR,
    linf: float = 8 / 255,
    convention: Convention = "robustbench",
) -> float:
    """The radius of a norm's ball that stands to the Linf radius as it does on CIFAR-10.

    Of a perturbation of fixed size in each of d values the L2 norm grows with the root of d, and the L1 norm with d.

    Args:
        norm: of the ball.
        shape: (c, h, w) of the images.
        linf: their usual Linf radius, in units of [0, 1] pixels.
        convention: "robustbench" (128/255 in L2, 12 in L1) or that of the purification papers (1 and 12).
    """
    usual, share = _USUAL[convention], math.prod(shape) / math.prod(_CIFAR)
    growth = {"linf": 1.0, "l2": math.sqrt(share), "l1": share}[norm]
    return usual[norm] * (linf / usual["linf"]) * growth


def pgd200_step(norm: Norm, eps: float) -> float:
    """The step size of the purification papers' PGD of 200 steps, in proportion to the radius.

    0.007 at 8/255 in Linf (Li et al. 2024, arXiv:2408.00315); 0.05 at 1 in L2 and 1 at 12 in L1, along the normalised
    gradient, which the papers leave open.
    """
    return {"linf": 0.007, "l2": 0.05, "l1": 1.0}[norm] * eps / _USUAL["purification"][norm]


def diameter(norm: AnyNorm, values: int) -> float:
    """The largest distance between two images in [0, 1] of so many values."""
    return {"linf": 1.0, "l2": math.sqrt(values), "l1": float(values), "l0": float(values)}[norm]


def check_radius(
    norm: str,
    eps: float,
    *,
    shape: Sequence[int] | None = None,
    what: str = "eps",
    norms: tuple[AnyNorm, ...] = NORMS,
) -> None:
    """Refuse a norm that is not one of `norms`, a negative radius, and one larger than the whole box [0, 1].

    Where no `shape` (c, h, w) is known yet, only Linf has a largest radius. `what` names the radius, e.g. "--eps".

    Raises:
        ValueError: with the fix.
    """
    if norm not in norms:
        raise ValueError(f"norm must be one of {', '.join(norms)}, got {norm!r}")
    if not eps >= 0:
        raise ValueError(f"{what} must not be negative, got {eps}")
    if shape is None and norm != "linf":
        return
    largest = diameter(norm, math.prod(shape or ()))
    if eps > largest * (1 + 1e-6):
        images = "images" if shape is None or norm == "linf" else f"{'x'.join(map(str, shape))} images"
        raise ValueError(
            f"{what} {eps:g} is larger than any {norm} distance of {images} in [0, 1], {largest:g}; "
            f"did you mean {eps:g}/255?"
        )
