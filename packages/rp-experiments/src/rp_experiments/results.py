"""Accuracies as every result file holds them, and as every table and page shows them.

An accuracy is `{"right": 292, "of": 300, "estimate": 0.973, "low": 0.948, "high": 0.986}`: right answers, their number,
and their share of all with 95% limits. A random defence answers several times: its accuracy is that of one query, with
`majority` and `all_of_n` beside it. A curve is a list of accuracies, each with its radius `eps`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rp_attacks import Report
    from rp_attacks.record import Record
    from torch import Tensor, nn

Limits = Mapping[str, float]  # estimate, low, high; for a difference on the same images also p
Accuracy = dict[str, Any]

LIMITS = ("estimate", "low", "high")


def counted(right: int, of: int) -> Accuracy:
    """The accuracy of single answers, with Wilson's interval."""
    from rp_attacks.intervals import wilson_interval

    return {"right": right, "of": of, **wilson_interval(right, of)._asdict()}


def classified(classifier: "nn.Module", batches: "Iterable[tuple[Tensor, Tensor]]") -> Accuracy:
    """A classifier's accuracy on batches of images and labels; of equal logits the first is the prediction."""
    right = [classifier(x).argmax(dim=1) == y for x, y in batches]
    return counted(sum(int(part.sum()) for part in right), sum(map(len, right)))


def judged(report: "Report", record: "Record") -> Accuracy:
    """The accuracy of a record of an evaluation."""
    verdict = report.verdict(record)
    several = {"majority": verdict.majority._asdict(), "all_of_n": verdict.all_of_n._asdict()} if report.random else {}
    counts = {"right": int(record.right.sum()), "of": int(record.right.size)}
    return {**counts, **verdict.per_query._asdict(), **several}


def limits(found: Mapping[str, Any], kind: str = "per_query") -> dict[str, float]:
    """Estimate and limits of an accuracy, also from files that hold all kinds side by side.

    The kinds per_query, majority and all_of_n are the same where every query has the same answer.
    """
    chosen = found.get(kind, found)
    return {key: chosen[key] for key in LIMITS}


def curve(found: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The accuracies of a curve over the radius, also from files that hold it as columns."""
    if not isinstance(found, Mapping):
        return [{"eps": point["eps"], **limits(point)} for point in found]
    columns = (found[key] for key in ("eps", "accuracy", "low", "high"))
    return [dict(zip(("eps", *LIMITS), point, strict=True)) for point in zip(*columns, strict=True)]


def percent(found: Mapping[str, Any]) -> str:
    """`97.3 [94.8, 98.6]`: an accuracy in percent."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in limits(found).values()))


def points(difference: Limits) -> str:
    """`+3.0 [-1.2, +7.1]`: a difference of accuracies in points."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * difference[key] for key in LIMITS))
