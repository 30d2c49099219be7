"""Checks for robustness that comes from a hidden gradient, and not from the defence; each says what it saw in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rp_attacks.defence import Classifier, Randomised
from rp_attacks.findings import GRAVITY, Finding
from rp_attacks.intervals import bootstrap_interval
from rp_attacks.noise import derive_seed
from rp_attacks.probes import Probe, black_box, larger_radius, surrogates, zero_gradients
from rp_attacks.problem import Attack
from rp_attacks.record import Record

if TYPE_CHECKING:
    from rp_attacks.report import ThreatReport

BLACK_BOX = ("Square", "LibrarySquare", "RayS", "SPSA", "Transfer", "Saved")


def diagnose(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    *,
    clean: Record,
    threats: Sequence["ThreatReport"],
    attacks: Mapping[str, Attack],
    seed: int,
    probes: int = 32,
    source: Classifier | None = None,
    random: bool = False,
    batch_size: int = 128,
) -> list[Finding]:
    """Run every check of an evaluation.

    Args:
        model: classifier or defence.
        x: all images of the evaluation.
        y: their labels.
        index: their indices.
        clean: the clean control.
        threats: what the attacks found.
        attacks: by name.
        seed: of the evaluation.
        probes: images that the probing attacks run on, at most; 0 for the checks on records alone.
        source: undefended classifier for a transfer probe.
        random: whether the model is.
        batch_size: limit on the probes in one batch.

    Returns:
        Findings, the gravest first.
    """
    findings = [finding for threat in threats for finding in _from_records(clean, threat, attacks)]
    if random:
        findings.append(_randomness(model, clean))
    chosen = np.flatnonzero(clean.right.all(axis=1))[: min(probes, batch_size)]
    if probes and len(chosen) == 0:
        text = "No image is right in every clean pass: the gradient could not be probed."
        findings.append(Finding("warning", "probes", text))
    rows = torch.from_numpy(chosen).to(x.device)
    for threat in threats:
        if threat.eps == 0 or len(chosen) == 0:
            continue
        probe = Probe(
            model=model,
            x=x[rows],
            y=y[rows],
            index=index[rows],
            seed=derive_seed(seed, "diagnostics"),
            norm=threat.norm,
            eps=threat.eps,
            passes=5 if random else 1,
            source=source,
            chunk=max(batch_size // len(chosen), 1),
        )
        run = {getattr(attacks.get(name), "grad", "exact") for name in threat.attacks}
        findings += zero_gradients(probe) + larger_radius(probe) + black_box(probe) + surrogates(probe, run)
    return sorted(dict.fromkeys(findings), key=lambda finding: GRAVITY.index(finding.level))


def _from_records(clean: Record, threat: "ThreatReport", attacks: Mapping[str, Attack]) -> list[Finding]:
    """Checks on what the evaluation itself saw."""
    findings = []
    accuracy = {name: record.right.mean() for name, record in [("clean", clean), ("worst", threat.worst)]}
    gain = threat.worst.right.mean(axis=1) - clean.right.mean(axis=1)
    if gain.mean() > 0 and bootstrap_interval(gain, seed=0).low > 0:
        findings.append(
            Finding(
                "refused",
                "robust above clean",
                f"Accuracy under attack ({accuracy['worst']:.1%}) exceeds clean accuracy ({accuracy['clean']:.1%}) in "
                f"the {threat.name} ball, which contains the clean images: the evaluation is broken.",
            )
        )
    loss = threat.worst.right.mean(axis=1) - threat.noise.right.mean(axis=1)
    if loss.mean() > 0.005 and bootstrap_interval(loss, seed=0).low > 0:
        findings.append(
            Finding(
                "alarm",
                "noise control",
                f"Random noise in the {threat.name} ball does better than every attack: accuracy "
                f"{threat.noise.right.mean():.1%} against {accuracy['worst']:.1%}.",
            )
        )
    kinds = {name: type(attack).__name__ for name, attack in attacks.items()}
    if any(kinds.get(name) not in BLACK_BOX for name in threat.attacks):
        broken = ~threat.worst.standing
        alone = sum(kinds.get(threat.chosen[row]) in BLACK_BOX for row in np.flatnonzero(broken))
        if alone > max(1, 0.002 * len(clean)) and _order_is_white_first(threat, kinds):
            findings.append(
                Finding(
                    "alarm",
                    "black box beats white box",
                    f"Attacks without gradients broke {alone} of {len(clean)} images in the {threat.name} ball that "
                    "the gradient attacks before them left standing: the gradient misleads; trust none but the worst "
                    "case, and add attacks adapted to this defence.",
                )
            )
    return findings


def _order_is_white_first(threat: "ThreatReport", kinds: Mapping[str, str]) -> bool:
    black = [kinds.get(name) in BLACK_BOX for name in threat.attacks]
    return black == sorted(black)


def _randomness(model: Classifier, clean: Record) -> Finding:
    agree = np.abs(2 * clean.right.mean(axis=1) - 1).mean()
    text = f"The defence is random: passes over a clean image agree to {agree:.1%} on being right or wrong."
    if isinstance(model, Randomised):
        return Finding("note", "randomness", text)
    return Finding(
        "warning",
        "randomness",
        text + " It draws from the global generator, so that results depend on the batch size; offer "
        "`with_noise(seed=, index=)` to make them reproducible.",
    )
