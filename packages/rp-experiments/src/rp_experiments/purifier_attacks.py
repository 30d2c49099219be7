"""The attacks on the rows of a comparison of purifiers, and the columns of what they leave."""

from dataclasses import replace
from typing import Any

from rp_attacks import APGD, PGD, Attack, Report, Square, Transfer
from rp_attacks.record import Record
from rp_purify import Defended, NoPurification

from rp_experiments.recipes.compare_purifiers import Budget
from rp_experiments.results import judged

CURVED = ("ste-tanh", "normalised")  # backward rules that differentiate the purifier's loss twice


def attacks_on(defence: Defended, budget: Budget, one_shot: Defended | None = None) -> dict[str, Attack]:
    """The attacks on one row, cheap ones first: from the classifier alone, with every backward rule, and without.

    A rule that a purifier does not offer is left out; without a purifier there is one rule, no average and no transfer.

    Args:
        defence: the whole system.
        budget: of the attacks.
        one_shot: from which images are transferred, attacked with its exact gradient.
    """
    rules = tuple(defence.gradients)
    bare = is_bare(defence)
    eot = 1 if bare else budget.eot
    pgd = PGD(eps=budget.eps, step_size=budget.pgd_step(budget.steps), steps=budget.steps, eot=eot, select="best")
    if bare:
        attacks: dict[str, Attack] = {"pgd-exact": pgd}
    else:
        attacks = {"transfer": Transfer(replace(pgd, eot=1, loss="cw"), defence.classifier)}
        attacks |= {"bpda": replace(pgd, grad="identity")} if "identity" in rules else {}
        attacks |= {"pgd-exact": pgd} if "exact" in rules else {}
        attacks |= {"one-shot": Transfer(pgd, one_shot)} if one_shot else {}
    attacks |= {f"apgd-{loss}": APGD(eps=budget.eps, steps=budget.steps, eot=eot, loss=loss) for loss in ("ce", "dlr")}
    passes = 1 if bare else budget.query_passes
    attacks["square"] = Square(eps=budget.eps, queries=budget.queries, passes=passes, rescale_schedule=True)
    steps = budget.curved_steps
    curved = replace(pgd, steps=steps, step_size=budget.pgd_step(steps), eot=budget.curved_eot)
    return attacks | {f"pgd-{rule}": replace(curved, grad=rule) for rule in CURVED if rule in rules}


def short_attacks(defence: Defended, budget: Budget) -> dict[str, Attack]:
    """Two cheap attacks by which settings are chosen: from the classifier alone, and with the identity as gradient."""
    pgd = PGD(eps=budget.eps, step_size=budget.eps / 4, steps=10, eot=2, select="best")
    transfer = Transfer(replace(pgd, eot=1, steps=20), defence.classifier)
    return {"transfer": transfer, "bpda": replace(pgd, grad="identity")}


def is_bare(defence: Defended) -> bool:
    """Whether the images reach the classifier as they are."""
    return isinstance(defence.purifier, NoPurification)


def cells(report: Report) -> dict[str, Any]:
    """The row's accuracies by column: three verdicts each, with counts and intervals."""
    (threat,) = report.threats
    records = {"clean": report.clean, "noise": threat.noise, **threat.attacks}
    records["autoattack-rand"] = _worse(threat.attacks["apgd-ce"], threat.attacks["apgd-dlr"])
    records["worst"] = threat.worst
    return {name: judged(report, record) for name, record in records.items()}


def _worse(first: Record, second: Record) -> Record:
    """Image by image the record that its own selecting passes call worse."""
    return first.where(first.worse_than(second), second)
