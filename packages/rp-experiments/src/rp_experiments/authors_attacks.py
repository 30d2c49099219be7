"""The authors' own attacks on their purifiers: the column "as published" beside the worst case."""

from dataclasses import replace
from typing import Any

from rp_attacks import APGD, PGD, Attack, Report
from rp_attacks.eot import MeanLogits
from rp_attacks.presets import OnMeanLogits
from rp_attacks.transfer import Transfer
from rp_purify import Defended
from torch import nn

from rp_experiments.recipes.authors_attacks import Protocol


def attacks_of(protocol: Protocol, defence: Defended, eps: float) -> dict[str, Attack]:
    """The attacks of a protocol on a defence, the worse of which counts."""
    grad = protocol.grad if protocol.grad in defence.gradients else "exact"
    if protocol.attack == "apgd":
        apgd = APGD(eps=eps, steps=protocol.steps, eot=protocol.eot, grad=grad)
        return {"published-ce": replace(apgd, loss="ce"), "published-dlr": replace(apgd, loss="dlr")}
    pgd = PGD(
        eps=eps,
        step_size=protocol.step * eps,
        steps=protocol.steps,
        eot=protocol.eot,
        grad=grad,
        start=protocol.start,
        select="best" if protocol.early_stop else "last",
        early_stop=protocol.early_stop,
    )
    if protocol.on == "classifier":
        return {"published": Transfer(replace(pgd, eot=1, grad="exact"), source=defence.classifier)}
    if protocol.logits:
        return {"published": OnMeanLogits(replace(pgd, eot=1), passes=protocol.eot)}
    return {"published": pgd}


def judge_of(protocol: Protocol, defence: Defended) -> nn.Module | MeanLogits:
    """What the paper evaluates: the defence, or the classifier of its mean logits."""
    return MeanLogits(defence, passes=protocol.judged, seed=protocol.judged) if protocol.judged > 1 else defence


def counted(report: Report, protocol: Protocol) -> dict[str, Any]:
    """The accuracy as the paper counts it."""
    (threat,) = report.threats
    verdict = report.verdict(threat.worst)
    chosen = verdict.majority if protocol.verdict == "majority" else verdict.per_query
    counts = {"right": int(threat.worst.right.sum()), "of": int(threat.worst.right.size)}
    return {**counts, **chosen._asdict()}
