"""Checks on what an evaluation itself saw: no pass of the defence is made for them.

Sources: the checks of AutoAttack (Croce & Hein 2020, arXiv:2003.01690, and its code); the indicators of attack failure
of Pintor et al. 2022, arXiv:2106.09947.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt

from rp_attacks.apgd import APGD
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.intervals import bootstrap_interval
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.record import Record
from rp_attacks.report import Finding, ThreatReport
from rp_attacks.square import Square

Kind = Literal["exact gradient", "backward rule", "transfer", "no gradient", "own target order"]
_BLACK_BOX = ("Square", "LibrarySquare", "RayS", "SPSA")
_SHARE = 0.002  # of the images, that AutoAttack lets Square gain
_STUCK = 0.05  # of the images, whose best loss may be at the first iterate
_USED = 0.9  # of the radius, that failures use on average
_FAR = 0.5  # of a random defence's passes, by which a candidate must be worse to count as another one

Mask = npt.NDArray[np.bool_]


def kind(attack: Attack | None) -> Kind:
    """What an attack asks the defence for, also inside a library's ensemble or on mean logits."""
    name = type(attack).__name__
    if name == "OnMeanLogits":
        return kind(getattr(attack, "attack", None))
    if name in ("Transfer", "Saved"):
        return "transfer"
    if name in _BLACK_BOX or (name == "AutoAttack" and getattr(attack, "attacks", None) == ("square",)):
        return "no gradient"
    if getattr(attack, "grad", "exact") != "exact":
        return "backward rule"
    return "own target order" if getattr(attack, "order", "likeliest") == "malt" else "exact gradient"


def record_checks(clean: Record, threat: ThreatReport, attacks: Mapping[str, Attack]) -> list[Finding]:
    """All findings of one ball that come from its records."""
    found = [*_impossible(clean, threat), *_against_others(clean, threat, attacks), *_inside_ensembles(threat, attacks)]
    for name, record in threat.attacks.items():
        if name not in threat.same:
            found += _how_it_went(name, attacks.get(name), record, threat)
    return found


def _impossible(clean: Record, threat: ThreatReport) -> list[Finding]:
    """Accuracy under attack above clean accuracy, or above that of random noise."""
    findings = []
    accuracy = {name: record.right.mean() for name, record in [("clean", clean), ("worst", threat.worst)]}
    gain = threat.worst.right.mean(axis=1) - clean.right.mean(axis=1)
    if gain.mean() > 0 and bootstrap_interval(gain, seed=0).low > 0:
        text = (
            f"Accuracy under attack ({accuracy['worst']:.1%}) exceeds clean accuracy ({accuracy['clean']:.1%}) in "
            f"the {threat.name} ball, which contains the clean images: the evaluation is broken."
        )
        findings.append(Finding("refused", "robust above clean", text))
    loss = threat.worst.right.mean(axis=1) - threat.noise.right.mean(axis=1)
    if loss.mean() > 0.005 and bootstrap_interval(loss, seed=0).low > 0:
        text = (
            f"Random noise in the {threat.name} ball does better than every attack: accuracy "
            f"{threat.noise.right.mean():.1%} against {accuracy['worst']:.1%}."
        )
        findings.append(Finding("alarm", "noise control", text))
    return findings


def _against_others(clean: Record, threat: ThreatReport, attacks: Mapping[str, Attack]) -> list[Finding]:
    """Attacks that broke what the exact gradient, which should be the strongest guide, had left standing."""
    kinds = {name: kind(attacks.get(name)) for name in threat.attacks if name not in threat.same}
    of = lambda *wanted: [name for name in kinds if kinds[name] in wanted]  # noqa: E731
    advice = "the gradient misleads; trust none but the worst case, and add attacks adapted to this defence"
    rules = "take this rule in every attack, and look for what hides the exact gradient"
    cases = [
        ("alarm", "black box beats white box", "Attacks without gradients", "every gradient attack", advice,
         of("no gradient"), of("exact gradient", "backward rule", "own target order")),
        ("alarm", "transfer beats exact gradient", "Images transferred from another model", "every exact gradient",
         advice, of("transfer"), of("exact gradient", "own target order")),
        ("alarm", "BPDA beats exact gradient", "Attacks through another backward rule", "every exact gradient",
         rules, of("backward rule"), of("exact gradient", "own target order")),
        ("warning", "MALT beats likeliest targets", "Targets in MALT's order", "the likeliest targets",
         "the likeliest classes are not the nearest ones: keep MALT's order", of("own target order"),
         [name for name in of("exact gradient") if getattr(attacks.get(name), "loss", "") == "targeted-dlr"]),
    ]  # fmt: skip
    findings = []
    for level, check, who, whom, what, mine, theirs in cases:
        lost = _alone(threat, mine, theirs)
        chance = 1 if check.startswith("black box") else 2  # images that another random start breaks too
        if lost.sum() > max(chance, _SHARE * len(clean)):
            left = threat.worst.right.mean(axis=1)
            before = np.where(lost, np.mean([threat.attacks[name].right.mean(axis=1) for name in theirs], axis=0), left)
            text = (
                f"{who} ({', '.join(mine)}) broke {lost.sum()} of {len(clean)} images in the {threat.name} ball that "
                f"{whom} attack left standing (accuracy {left.mean():.1%} against {before.mean():.1%}): {what}."
            ).replace("every gradient attack attack", "every gradient attack")
            findings.append(Finding(level, check, text))  # type: ignore[arg-type]
    return findings


def _alone(threat: ThreatReport, mine: list[str], theirs: list[str]) -> Mask:
    """Images that some of one kind broke, and that all of the others were tried on in vain."""
    none = np.zeros(len(threat.worst), np.bool_)
    if not mine or not theirs:
        return none
    resisted = np.logical_and.reduce([threat.attacks[n].tried & threat.attacks[n].standing for n in theirs])
    best = np.max([threat.attacks[name].wrong for name in theirs], axis=0)
    broke = np.isin(np.array(threat.chosen, dtype=str), mine) & ~threat.worst.standing
    return np.asarray(resisted & broke & (threat.worst.wrong - best >= _FAR))


def _inside_ensembles(threat: ThreatReport, attacks: Mapping[str, Attack]) -> list[Finding]:
    """Square inside AutoAttack below the parts that take gradients."""
    findings = []
    for name, record in threat.attacks.items():
        alone = record.blind & ~record.standing
        if alone.sum() > max(1, _SHARE * len(record)):
            after = record.right.mean(axis=1)
            text = (
                f"Square broke {alone.sum()} of {len(record)} images inside {name} in the {threat.name} ball that "
                f"its gradient attacks left standing (accuracy {after.mean():.1%} against "
                f"{np.where(alone, 1, after).mean():.1%}): the gradient misleads; trust none but the worst case, and "
                "add attacks adapted to this defence."
            )
            findings.append(Finding("alarm", "black box beats white box", text))
    return findings


def _how_it_went(name: str, attack: Attack | None, record: Record, threat: ThreatReport) -> list[Finding]:
    """Losses that never rise, iterates that are lost, and radii that are not used."""
    findings = []
    tried, failed = record.tried, record.tried & record.standing
    begins_anew = isinstance(attack, PGD | APGD) and attack.start != "worst" and attack.steps > 1
    stuck = int((record.stuck & tried).sum())
    if begins_anew and stuck > max(1, _STUCK * tried.sum()):
        text = (
            f"{name}: for {stuck} of {tried.sum()} images no later iterate had a higher loss than the first one "
            f"(more than {_STUCK:.0%}): the gradient does not lead upwards."
        )
        findings.append(Finding("alarm", "best loss at the first iterate", text))
    silent = int((record.fooled & failed & (record.wrong < 0.5)).sum())
    if isinstance(attack, PGD | APGD | DiffHammer) and silent > max(1, _SHARE * len(record)):
        text = (
            f"{name}: for {silent} of {len(record)} images an iterate fooled the defence in all of its passes, and the "
            "image that was returned does not: keep the best iterate (select='best'), average more passes, or judge "
            "images as floats."
        )
        findings.append(Finding("warning", "silent success", text))
    used = float(record.distance[failed].mean()) / threat.eps if failed.any() and threat.eps > 0 else 1.0
    if isinstance(attack, PGD | APGD | DiffHammer | Square) and failed.sum() > 1 and used < _USED:
        text = (
            f"{name}: its {failed.sum()} failures use {used:.0%} of the radius on average (less than {_USED:.0%}): the "
            "steps are too short, too few, or cut off; a longer step or more of them may break these images."
        )
        findings.append(Finding("warning", "unused radius", text))
    return findings
