"""What is odd about a purifier's settings, told before work begins."""

import sys
from collections.abc import Iterable
from typing import Any

from rp_models.checkpoint import CheckpointError, read_header

FAR = 0.25  # mask rates that differ by more are said


def cautions(settings: Any, eps: float | None, networks: Iterable[str] = ()) -> list[str]:
    """Sentences about settings that a reader of the numbers should know of.

    eta and mask_rate are looked at where the settings have them; the rate that a network was trained with stands in the
    notes of its file.
    """
    found, eta, rate = [], getattr(settings, "eta", None), getattr(settings, "mask_rate", None)
    if eps is not None and eta is not None and eta > eps * (1 + 1e-6):
        found.append(
            f"eta {eta:.4g} exceeds the attack's eps {eps:.4g}: the purifier may change an image by more than the "
            "attack did, and clean images with it"
        )
    for network in networks:
        trained = _trained_rate(network)
        if trained is not None and rate is not None and (said := far_rates(trained, rate)):
            found.append(said)
    return found


def far_rates(trained: float, used: float) -> str:
    """The sentence about mask rates that lie far apart, or nothing."""
    if abs(trained - used) <= FAR + 1e-6:
        return ""
    return (
        f"the network was trained with mask rate {trained:.3g} and descends with {used:.3g}: it sees images as it "
        "never did in training"
    )


def tell(title: str, found: Iterable[str]) -> None:
    """Print the sentences as warnings."""
    for sentence in found:
        print(f"warning: {title}: {sentence}", file=sys.stderr, flush=True)


def _trained_rate(network: str) -> float | None:
    """The mask rate in the notes of a checkpoint of pre-training or fine-tuning; None if it has none."""
    try:
        notes = read_header(network).notes
    except (CheckpointError, OSError):
        return None
    tuned = notes.get("finetuned", {}).get("finetune", {})
    rate = notes.get("mask_rate", tuned.get("mask_rate"))
    return None if rate is None else float(rate)
