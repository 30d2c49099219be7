"""Protocols of published works: how each attacks a random defence and how it counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor

from rp_attacks.apgd import APGD
from rp_attacks.defence import Classifier
from rp_attacks.diffhammer import DiffHammer
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
    verdict: Literal["per_query", "majority", "all_of_n"]
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
    50 steps on the mean logits of 15 passes, judged by the mean logits of 150; "scoreopt": the same with steps of a
    quarter of the radius, or with the gradients ("one-shot",) PGD with EOT 20, judged by the mean logits of 20.
    "diffhammer": three restarts of 50 selective steps with 10 draws, right in each of 10 passes (its code also judges
    every iterate: `rp_attacks.resubmission`). "diffbreak": PGD (100 steps of 0.008, cross-entropy) and APGD (margin)
    with the gradients of 128 copies, majority of 128; its low-frequency attack, which is in no ball, is
    `rp_attacks.low_frequency.LowFrequency(eps=1)`.

    Args:
        name: "adbm", "lee-kim", "diffpure", "scoreopt", "diffhammer" or "diffbreak".
        norm: of the ball; only "adbm" has L1, and L2 "adbm", "lee-kim" and "diffhammer".
        gradients: backward rules, one attack for each.

    Returns:
        Attacks and verdict. Sources: Li et al. 2025 (ADBM); Lee & Kim 2023, arXiv:2303.09051; Nie et al. 2022,
        arXiv:2205.07460; Zhang et al. 2023, arXiv:2307.04333 (ScoreOpt); DiffHammer, NeurIPS 2024; Kassis et al. 2025
        (DiffBreak); each as its published code does it.
    """
    if (name, norm) not in _PRESETS:
        known = {each: ", ".join(n for m, n in _PRESETS if m == each) for each, _ in _PRESETS}
        there = ", ".join(f"{each} ({of})" for each, of in known.items())
        raise ValueError(f"no preset {name!r} for norm {norm!r}: there are {there}")
    return _PRESETS[name, norm](tuple(gradients))


def _plainly(
    name: str, attack: "PGD | APGD | DiffHammer", passes: int, verdict: Literal["per_query", "majority", "all_of_n"]
) -> "Callable[[tuple[str, ...]], Preset]":
    """One attack for each backward rule, judged on the defence as it is."""
    return lambda gradients: Preset(_for_gradients(name, attack, gradients), passes, verdict, _itself)


def _averaged(name: str, gradients: tuple[str, ...], passes: int) -> Preset:
    """DiffPure's BPDA: attack on the mean logits of 15 passes, verdict by those of more."""
    step = PGD(eps=8 / 255, step_size=2 / 255, steps=50, start="clean", select="best", early_stop=True)
    attacks = _for_gradients(name, step, gradients)
    return Preset({key: OnMeanLogits(one, passes=15) for key, one in attacks.items()}, 1, "per_query", _mean(passes))


def _scoreopt(gradients: tuple[str, ...]) -> Preset:
    if gradients != ("one-shot",):
        return _averaged("scoreopt", gradients, 150)
    pgd = PGD(eps=8 / 255, step_size=2 / 255, steps=50, eot=20, start="clean", select="best")
    return Preset(_for_gradients("scoreopt", pgd, gradients), 1, "per_query", _mean(20))


def _diffbreak(gradients: tuple[str, ...]) -> Preset:
    pgd = PGD(eps=8 / 255, step_size=0.008, steps=100, eot=128, select="best")
    apgd = APGD(eps=8 / 255, steps=100, loss="cw", eot=128)
    attacks = _for_gradients("diffbreak-pgd", pgd, gradients) | _for_gradients("diffbreak-apgd", apgd, gradients)
    return Preset(attacks, 128, "majority", _itself)


@dataclass(frozen=True, slots=True)
class OnMeanLogits(Wrapped):
    """Attacks the classifier of logits averaged over `passes` of the defence, whatever average is being judged."""

    passes: int

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """Adversarial images for the averaged classifier."""
        defence = model.model if isinstance(model, MeanLogits) else model
        averaged = MeanLogits(defence, passes=self.passes, seed=seed)
        return self.attack(averaged, x, y, seed=seed, index=index)


def _for_gradients(name: str, attack: PGD | APGD | DiffHammer, gradients: Sequence[str]) -> dict[str, Attack]:
    return {name if g == "exact" else f"{name}-{g}": replace(attack, grad=g) for g in gradients}


def _itself(model: Classifier) -> Classifier:
    return model


def _mean(passes: int) -> Callable[[Classifier], Classifier]:
    return lambda model: MeanLogits(model, passes=passes, seed=passes)


_LINF, _SIGN = PGD(eps=8 / 255, step_size=0.007, steps=200, eot=20), PGD(norm="l2", steps=200, eot=20, l2_step="sign")
_L1 = PGD(norm="l1", eps=12.0, step_size=1.0, steps=200, eot=20, l1_sparsity=0.05)
_PRESETS: dict[tuple[str, Norm], Callable[[tuple[str, ...]], Preset]] = {
    ("adbm", "linf"): _plainly("adbm", _LINF, 1, "per_query"),
    ("adbm", "l2"): _plainly("adbm", replace(_SIGN, eps=1.0, step_size=0.005), 1, "per_query"),
    ("adbm", "l1"): _plainly("adbm", _L1, 1, "per_query"),
    ("lee-kim", "linf"): _plainly("lee-kim", replace(_LINF, start="clean"), 10, "majority"),
    ("lee-kim", "l2"): _plainly("lee-kim", replace(_SIGN, eps=0.5, step_size=0.007, start="clean"), 10, "majority"),
    ("diffpure", "linf"): lambda gradients: _averaged("diffpure", gradients, 150),
    ("scoreopt", "linf"): _scoreopt,
    ("diffhammer", "linf"): _plainly("diffhammer", DiffHammer(), 10, "all_of_n"),
    ("diffhammer", "l2"): _plainly("diffhammer", DiffHammer(norm="l2", eps=0.5), 10, "all_of_n"),
    ("diffbreak", "linf"): _diffbreak,
}
