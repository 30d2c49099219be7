"""Checks of a model before any attack, on the images of one batch: AutoAttack's, each with the numbers that it saw.

Source: `checks.py` of AutoAttack (Croce & Hein 2020, arXiv:2003.01690).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rp_attacks.defence import Classifier, OffersGradients, Randomised, query
from rp_attacks.losses import misclassified
from rp_attacks.problem import Attack
from rp_attacks.report import Finding, Level
from rp_attacks.rng import PrivateStream

PASSES = 5
SPREAD = 1e-4  # of logits of length 1, between two passes
_SUM = 1e-5


def model_checks(
    model: Classifier, x: Tensor, y: Tensor, index: Tensor, attacks: Mapping[str, Attack]
) -> list[Finding]:
    """Randomness, probabilities in place of logits, few classes, and gradients at test time."""
    stream = PrivateStream(0)
    with torch.no_grad():
        passes = []
        for number in range(PASSES):
            with stream(x.device):
                passes.append(query(model, x, seed=number, index=index))
    logits = torch.stack(passes)
    return [*_randomness(model, logits, y), *_range(logits[0]), *_classes(logits, attacks), *optimises(model, x, index)]


def spread(logits: Tensor) -> float:
    """The largest L2 distance of two of some passes (K, b, k) over an image, each row divided by its length."""
    rows = logits / (logits.norm(dim=2, keepdim=True) + 1e-10)
    return float((rows[:, None] - rows[None]).norm(dim=3).max())


def _randomness(model: Classifier, logits: Tensor, y: Tensor) -> list[Finding]:
    right = [int((~misclassified(one, y)).sum()) for one in logits]
    distance = spread(logits)
    if len(set(right)) == 1 and distance <= SPREAD:
        return []
    text = (
        f"The defence is random: {len(right)} passes over {len(y)} images get {min(right)} to {max(right)} right, "
        f"and logits of length 1 lie up to {distance:.2g} apart (a deterministic model's less than {SPREAD:.0e})"
    )
    if isinstance(model, Randomised):
        return [Finding("note", "randomness", f"{text}.")]
    text += ". It draws from the global generator, so that results depend on the batch size; offer "
    return [Finding("warning", "randomness", text + "`with_noise(seed=, index=)` to make them reproducible.")]


def _range(logits: Tensor) -> list[Finding]:
    low, high, off = logits.min().item(), logits.max().item(), (logits.sum(dim=1) - 1).abs().max().item()
    if not (high < 1 + _SUM and low > -_SUM and off < _SUM):
        return []
    text = (
        f"The model gives probabilities (from {low:.2g} to {high:.3g}, rows sum to 1 within {off:.1g}), and losses "
        "take them for logits: the cross-entropy of them has a small gradient, and DLR another scale. Leave softmax "
        "out, or attack `rp_attacks.defence.LogProbabilities(model)`, whose answers are the same."
    )
    return [Finding("warning", "probabilities", text)]


def _classes(logits: Tensor, attacks: Mapping[str, Attack]) -> list[Finding]:
    """Losses and targets that so few classes do not allow."""
    classes = logits.shape[2]
    targeted = {name: attack for name, attack in attacks.items() if _targets(attack) + 1 > classes}
    if classes > 3 and not targeted:
        return []
    text = f"The model has {classes} classes: "
    if classes <= 3:
        text += "DLR needs 3 and its targeted form 4, so that attacks with them are left out. "
    if targeted:
        wanted = ", ".join(f"{name} {_targets(attack)}" for name, attack in targeted.items())
        text += f"Of the targets asked for ({wanted}) there are {classes - 1}."
    return [Finding("note", "classes", text.strip())]


def _targets(attack: Any) -> int:
    """How many classes an attack wants to try one by one."""
    if type(attack).__name__ == "AutoAttack":
        parts = attack.attacks or {"rand": ()}.get(attack.version, ("apgd-t", "fab-t"))
        return 9 if {"apgd-t", "fab-t"} & set(parts) else 0
    if type(attack).__name__ == "FAB":
        return attack.targets or 0
    return attack.targets if getattr(attack, "loss", "") == "targeted-dlr" else 0


class _Gradients(TorchFunctionMode):
    """Counts the gradients taken inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += getattr(func, "__name__", "") in ("grad", "backward")
        return func(*args, **(kwargs or {}))


def optimises(model: Classifier, x: Tensor, index: Tensor) -> list[Finding]:
    """Whether a mere forward pass takes gradients itself, as purifiers and test-time adaptation do."""
    with torch.no_grad(), PrivateStream(0)(x.device), _Gradients() as inside:
        query(model, x[:1], seed=0, index=index[:1])
    if not inside.count:
        return []
    text = f"The defence optimises at test time: it takes {inside.count} gradients in one forward pass. The gradient "
    text += (
        "through them may mislead, and standard attacks may flatter it: attack it with every backward rule that fits"
    )
    level: Level = "note" if isinstance(model, OffersGradients) else "warning"
    return [Finding(level, "optimises at test time", text + ", and with its own loss.")]
