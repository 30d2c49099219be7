"""Learning rates (and momenta) as functions of the step: nothing to save, nothing to restore."""

import math


def cosine(step: float, *, steps: float, peak: float, warmup: float = 0.0, final: float = 0.0) -> float:
    """Linear warm-up from zero to `peak`, then half a cosine down to `final`.

    `step`, from 0, `steps` and `warmup` are in the same unit; they may be fractional (epochs).
    """
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / max(steps - warmup, 1e-12), 1.0)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def one_cycle(
    step: int,
    *,
    steps: int,
    peak: float,
    warmup: float = 0.025,
    momenta: tuple[float, float] = (0.85, 0.95),
    start_divisor: float = 25.0,
    end_divisor: float = 1e4,
) -> tuple[float, float]:
    """DM-AT's schedule: up by a cosine, down by a cosine, the momentum the other way round.

    Equal to torch's OneCycleLR stepped once an epoch. Deviations: where torch divides by zero (warmup * steps = 1), the
    schedule starts at the peak, the limit from both sides; a single epoch trains at the peak, not at the last rate.
    Returns learning rate and momentum in force during that epoch. Source: Wang et al. 2023, arXiv:2302.04638 (their
    published trainer); Smith and Topin 2018, arXiv:1708.07120.

    Args:
        step: epoch, from 0 to `steps` - 1.
        steps: number of epochs.
        peak: highest learning rate.
        warmup: share of the epochs on the way up.
        momenta: lowest (at the peak) and highest momentum.
        start_divisor: `peak` over the first rate.
        end_divisor: first rate over the last.
    """
    start, low, high = peak / start_divisor, *momenta
    if steps == 1:
        return peak, low
    top, last = warmup * steps - 1.0, steps - 1.0
    if step <= top and top > 0.0:
        share = step / top
        return _cosine_between(start, peak, share), _cosine_between(high, low, share)
    share = (step - top) / (last - top) if last > top else 1.0
    return _cosine_between(peak, start / end_divisor, share), _cosine_between(low, high, share)


def _cosine_between(first: float, last: float, share: float) -> float:
    """From `first` at share 0 to `last` at share 1 along half a cosine."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))
