"""Differences of accuracies with their intervals: image by image where the images are the same, otherwise separate."""

import math
from collections.abc import Sequence

from reproductions.claims import Limits


def paired(first: Sequence[float], second: Sequence[float]) -> Limits:
    """First minus second on the same images, in the same order: bootstrap over images.

    Args:
        first: share of right passes of each image.
        second: the same of the other system.
    """
    from rp_attacks.intervals import paired_comparison

    return paired_comparison(list(first), list(second)).difference._asdict()


def separate(first: Limits, second: Limits) -> Limits:
    """First minus second of two accuracies on different images, from the limits of both.

    Source: Newcombe 1998, Statistics in Medicine 17, method 10.
    """
    difference = first["estimate"] - second["estimate"]
    down = math.hypot(first["estimate"] - first["low"], second["high"] - second["estimate"])
    up = math.hypot(first["high"] - first["estimate"], second["estimate"] - second["low"])
    return {"estimate": difference, "low": difference - down, "high": difference + up}
