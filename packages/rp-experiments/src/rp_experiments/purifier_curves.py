"""Curves of AMV and loss as `analyze_purifier.py` draws, stores and judges them."""

from collections.abc import Sequence
from typing import Any

from rp_analysis import LossTrend, rank_correlation
from rp_purify.amv import Point

Curves = dict[str, dict[str, list[Point]]]
"""Points by network and kind of images."""

_TREND = ("position", "loss", "amv", "loss_error", "amv_error")


def trends(curves: Curves) -> dict[str, dict[str, LossTrend]]:
    """Curves as the figures take them."""
    return {model: {kind: _trend(points) for kind, points in kinds.items()} for model, kinds in curves.items()}


def plain(curves: Curves) -> dict[str, Any]:
    """Curves as JSON values."""
    return {
        model: {kind: [point._asdict() for point in points] for kind, points in kinds.items()}
        for model, kinds in curves.items()
    }


def correlations(model: str, axis: str, kind: str, points: Sequence[Point]) -> dict[str, Any]:
    """Spearman's rank correlations of one curve: AMV and loss with its axis and with each other."""
    position, amv, loss = ([getattr(point, name) for point in points] for name in ("position", "amv", "loss"))
    return {
        "model": model,
        "over": axis,
        "images": kind,
        "points": len(points),
        "AMV": rank_correlation(position, amv),
        "loss": rank_correlation(position, loss),
        "AMV with loss": rank_correlation(amv, loss),
    }


def _trend(points: Sequence[Point]) -> LossTrend:
    return LossTrend(*([getattr(point, name) for point in points] for name in _TREND))
