"""What `analyze_purifier.py` says in words: its setting, the sentence above the page, and the terminal's summary."""

from collections.abc import Iterable, Mapping
from typing import Any

from rp_experiments import tables
from rp_experiments.purifier_figures import Curves
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis

CAUTION = (
    "The attack is on the classifier alone; it does not know the purifier. Nothing here is a robust accuracy: "
    "compare_purifiers.py and evaluate.py measure that."
)
ADVERSARIAL, NOISY, CLEAN, PURIFIED = "adversarial", "random signs", "clean", "purified"


def setting(config: PurifierAnalysis, models: Iterable[str], images: int) -> dict[str, Any]:
    """What was measured on what, for `result.json`."""
    return {
        "data": config.data,
        "split": "test",
        "images": images,
        "models": {name: str(getattr(config, name.lower())) for name in models},
        "attack": attack_of(config),
        "norm": "linf",
        "eps": config.radius,
        "amv": "Frobenius norm of each head's difference, mean over heads; last decoder layer, class token kept",
        "seed": config.seed,
    }


def attack_of(config: PurifierAnalysis) -> str:
    """The attack in words."""
    if config.attack == "autoattack":
        return "AutoAttack (standard) on the classifier"
    return f"PGD-{config.attack_steps} on the classifier, cross-entropy"


def sentence(config: PurifierAnalysis, setting: Mapping[str, Any]) -> str:
    """The setting for a reader."""
    return (
        f"{setting['data']}, {setting['images']} test images, {setting['attack']}, Linf radius {setting['eps']:.4g}; "
        f"{config.mask_rate:.0%} of the patches hidden, the same for clean, attacked and purified images. "
        f"Purifiers: {_descents(config, setting['models'])}. "
        f"AMV: {setting['amv']}."
    )


def summary(config: PurifierAnalysis, result: Mapping[str, Any], radii: Curves, steps: Curves) -> str:
    """The main numbers for the terminal."""
    rows: list[tables.Row] = []
    at = config.radii.index(1)
    for name in steps:
        end = {kind: points[-1] for kind, points in steps[name].items()}
        found = {
            f"{name}, clean": radii[name][ADVERSARIAL][0],
            f"{name}, {NOISY}": radii[name][NOISY][at],
            f"{name}, {ADVERSARIAL}": radii[name][ADVERSARIAL][at],
            f"{name}, {ADVERSARIAL}, purified": end[ADVERSARIAL],
            f"{name}, {CLEAN}, purified": end[CLEAN],
        }
        rows += [{"images": title, "AMV": point.amv, "loss": point.loss} for title, point in found.items()]
    lines = [sentence(config, result["setting"]), "", tables.text(rows)]
    lines.append("")
    for row in result["rank_correlation"]:
        if row["images"] == ADVERSARIAL:
            values = ", ".join(f"{name} {row[name]:+.2f}" for name in ("AMV with loss", "AMV", "loss"))
            lines.append(f"rank correlation over the {row['over']}, {row['model']}: {values}")
    return "\n".join([*lines, "", CAUTION])


def _descents(config: PurifierAnalysis, models: Iterable[str]) -> str:
    """The purifiers' steps; network by network if they differ."""
    by_network = {name: config.descent_of(name.lower()).in_words() for name in models}
    if len(set(by_network.values())) == 1:
        return next(iter(by_network.values()))
    return "; ".join(f"{name} {words}" for name, words in by_network.items())
