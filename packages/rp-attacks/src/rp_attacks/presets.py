"""Protocols of published works: how each attacks a random defence and how it counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from rp_attacks.defence import Classifier
from rp_attacks.eot import MeanLogits
from rp_attacks.intervals import Interval
from rp_attacks.norms import Norm
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.report import Report
from rp_attacks.transfer import Wrapped


class Preset(NamedTuple):
    """How a published work attacks and counts; to repeat its tables, not to judge a defence."""

    attacks: dict[str, Attack]
    passes: int
    """Verdict passes, for `evaluate(passes=)`."""
    verdict: Literal["per_query", "majority"]
    """Which field of `Verdict` the work reports."""
    judge: Callable[[Classifier], Classifier]
    """What the work evaluates in place of the defence itself; for most the defence as it is."""

    def accuracy(self, report: Report) -> Interval:
        """The number as the work counts it: its verdict on its attack's images, whatever else the report knows.

        Args:
            report: of `evaluate(preset.judge(defence), ..., preset.attacks, passes=preset.passes, exhaustive=True)`.
        """
        records = [threat.attacks[name] for threat in report.threats for name in threat.attacks if name in self.attacks]
        verdicts: list[Interval] = [getattr(report.verdict(record), self.verdict) for record in records]
        return min(verdicts, key=lambda verdict: verdict.estimate)


def preset(name: str, *, norm: Norm = "linf", gradients: Sequence[str] = ("exact",)) -> Preset:
    """The protocol of a published work.

    "adbm": 200 x 20, last iterate, one pass; its L2 attack takes sign steps. "lee-kim": the same without a random
    start, majority of 10 passes; pass a surrogate with fewer purification steps as backward rule. "diffpure": BPDA with
    50 steps on the mean logits of 15 passes, judged by the mean logits of 150.

    Args:
        name: "adbm", "lee-kim" or "diffpure".
        norm: of the ball; "diffpure" and "lee-kim" have no L1.
        gradients: backward rules, one attack for each.

    Returns:
        Attacks and verdict. Sources: Li et al. 2025 (ADBM); Lee & Kim 2023, arXiv:2303.09051; Nie et al. 2022,
        arXiv:2205.07460; each as its published code does it.
    """
    if name == "adbm":
        options = {
            "linf": PGD(eps=8 / 255, step_size=0.007, steps=200, eot=20),
            "l2": PGD(norm="l2", eps=1.0, step_size=0.005, steps=200, eot=20, l2_step="sign"),
            "l1": PGD(norm="l1", eps=12.0, step_size=1.0, steps=200, eot=20, l1_sparsity=0.05),
        }
        return Preset(_for_gradients(name, options[norm], gradients), 1, "per_query", _itself)
    if name == "lee-kim" and norm != "l1":
        options = {
            "linf": PGD(eps=8 / 255, step_size=0.007, steps=200, eot=20, start="clean"),
            "l2": PGD(norm="l2", eps=0.5, step_size=0.007, steps=200, eot=20, start="clean", l2_step="sign"),
        }
        return Preset(_for_gradients(name, options[norm], gradients), 10, "majority", _itself)
    if name == "diffpure" and norm == "linf":
        step = PGD(eps=8 / 255, step_size=2 / 255, steps=50, start="clean", select="best", early_stop=True)
        attacks = _for_gradients(name, step, gradients)
        return Preset({key: OnMeanLogits(attack, passes=15) for key, attack in attacks.items()}, 1, "per_query", _mean)
    raise ValueError(
        f"no preset {name!r} for norm {norm!r}: there are adbm (linf, l2, l1), lee-kim (linf, l2), diffpure (linf)"
    )


@dataclass(frozen=True, slots=True)
class OnMeanLogits(Wrapped):
    """Attacks the classifier of logits averaged over `passes` of the defence, whatever average is being judged."""

    passes: int

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """Adversarial images for the averaged classifier."""
        defence = model.model if isinstance(model, MeanLogits) else model
        averaged = MeanLogits(defence, passes=self.passes, seed=seed)
        return self.attack(averaged, x, y, seed=seed, index=index)


def _for_gradients(name: str, attack: PGD, gradients: Sequence[str]) -> dict[str, Attack]:
    return {name if g == "exact" else f"{name}-{g}": replace(attack, grad=g) for g in gradients}


def _itself(model: Classifier) -> Classifier:
    return model


def _mean(model: Classifier) -> Classifier:
    return MeanLogits(model, passes=150, seed=150)
