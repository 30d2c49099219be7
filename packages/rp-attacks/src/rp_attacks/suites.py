"""Named families of attacks with the papers' settings, and presets that repeat how published works count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple

from torch import Tensor

from rp_attacks.apgd import APGD
from rp_attacks.attack import ImageAttack
from rp_attacks.autoattack import FAB, AutoAttack, Part
from rp_attacks.carlini_wagner import CarliniWagner
from rp_attacks.deepfool import DeepFool
from rp_attacks.defence import Classifier
from rp_attacks.eot import MeanLogits
from rp_attacks.intervals import Interval
from rp_attacks.norms import Norm
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.rays import RayS
from rp_attacks.report import Report
from rp_attacks.square import Square
from rp_attacks.transfer import Transfer

EPS: dict[Norm, float] = {"linf": 8 / 255, "l2": 1.0, "l1": 12.0}  # CIFAR-10 and SVHN in the purification papers
Suite = dict[str, Attack]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """What a suite is asked for."""

    eps: float | None
    norm: Norm
    eot: int
    classes: int
    gradients: tuple[str, ...]
    source: Classifier | None

    def radius(self, norm: Norm) -> float:
        """The radius asked for, or the norm's usual one."""
        return EPS[norm] if self.eps is None else self.eps

    def pgd(self, norm: Norm, **options: Any) -> PGD:
        """200 steps; steps in proportion to the radius where it is not the usual one."""
        eps = self.radius(norm)
        usual = {"linf": 0.007, "l2": 0.05, "l1": 1.0}[norm]
        setting = PGD(
            norm=norm, eps=eps, step_size=usual * eps / EPS[norm] or 1.0, steps=200, eot=self.eot, select="best",
            l1_box=norm == "l1",
        )  # fmt: skip
        return replace(setting, **options)


def suite(
    name: str,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    random: bool = True,
    classes: int = 10,
    gradients: Sequence[str] = (),
    source: Classifier | None = None,
) -> Suite:
    """The attacks of a named suite, cheap ones first, ready for `evaluate`.

    Args:
        name: one of `SUITES`.
        eps: radius in units of [0, 1] pixels; by default 8/255 (Linf), 1 (L2), 12 (L1).
        norm: of suites that exist in several: "quick", "autoattack", "autoattack-rand", "bpda-eot20", "purifier".
        random: False leaves out the averaging over passes, which a deterministic model does not need.
        classes: of the model; parts that need more are left out.
        gradients: backward rules of the defence to run, beside the suite's own.
        source: undefended classifier, for transfer; for "purifier" also a shortened purifier.

    Returns:
        Attacks by name.

    Raises:
        KeyError: no such suite; the message lists the nearest names.
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=3)
        raise KeyError(f"no suite {name!r}; did you mean {' or '.join(near) or 'one of ' + ', '.join(SUITES)}?")
    eot = 20 if random else 1
    setting = _Setting(eps=eps, norm=norm, eot=eot, classes=classes, gradients=tuple(gradients), source=source)
    attacks = SUITES[name](setting)
    if not attacks:
        raise ValueError(f"suite {name!r} has no attack for these options (classes={classes}, source={source})")
    return attacks


def _quick(s: _Setting) -> Suite:
    """A first look: not a verdict to publish. Fewer steps and queries where each is averaged over passes."""
    eps, eot = s.radius(s.norm), min(s.eot, 5)
    steps, queries = (10, 50) if eot > 1 else (20, 500)  # of the other backward rules, and of Square

    def pgd(steps: int, **options: Any) -> PGD:
        return PGD(norm=s.norm, eps=eps, step_size=2.5 * eps / steps or 1.0, steps=steps, select="best", **options)

    attacks: Suite = {
        "pgd20-ce": pgd(20, eot=eot, early_stop=True),
        "pgd20-cw": pgd(20, eot=eot, early_stop=True, loss="cw", inset=1e-4),
    }
    for grad in s.gradients:
        attacks[f"pgd{steps}-cw-{grad}"] = pgd(steps, eot=eot, early_stop=True, loss="cw", grad=grad)
    if s.source is not None:
        attacks["transfer"] = Transfer(pgd(20, loss="cw"), s.source)
    if s.norm == "linf":
        attacks["square"] = Square(eps=eps, queries=queries, passes=eot, rescale_schedule=True)
    return attacks


def _pgd200(norm: Norm) -> Callable[[_Setting], Suite]:
    def build(s: _Setting) -> Suite:
        suite_: Suite = {f"pgd200-{norm}": s.pgd(norm)}
        suite_ |= {f"pgd200-{norm}-{grad}": s.pgd(norm, grad=grad) for grad in s.gradients}
        return suite_

    return build


def _autoattack(s: _Setting) -> Suite:
    """The parts of the standard version one by one: in a cascade they count what the whole does."""
    parts: list[Part] = ["apgd-ce", "apgd-t", "fab-t", "square"]
    if s.classes < 4:
        parts.remove("apgd-t")
    return {part: AutoAttack(eps=s.radius(s.norm), norm=s.norm, attacks=(part,)) for part in parts}


def _autoattack_rand(s: _Setting) -> Suite:
    """APGD-CE and APGD-DLR with EOT 20, selection and success averaged over the passes (the library's are not)."""
    shared: dict[str, Any] = {"eps": s.radius(s.norm), "norm": s.norm, "eot": 20}
    attacks: Suite = {"apgd-ce-eot20": APGD(**shared, loss="ce")}
    if s.classes >= 3:
        attacks["apgd-dlr-eot20"] = APGD(**shared, loss="dlr")
    return attacks


def _bpda(s: _Setting) -> Suite:
    return {f"bpda-{g}": s.pgd(s.norm, grad=g) for g in dict.fromkeys(("identity", *s.gradients))}


def _cw(s: _Setting) -> Suite:
    confidence = 1.0 if s.eot > 1 else 0.0
    return {"cw-l2": CarliniWagner(eps=s.radius("l2"), eot=s.eot, confidence=confidence)}


def _deepfool(s: _Setting) -> Suite:
    overshoot = 0.1 if s.eot > 1 else 0.02
    return {"deepfool-l2": DeepFool(eps=s.radius("l2"), eot=s.eot, overshoot=overshoot)}


def _blackbox(s: _Setting) -> Suite:
    eps = s.radius("linf")
    attacks: Suite = {}
    if s.source is not None:
        attacks["fab-transfer"] = Transfer(FAB(eps=eps, targets=min(9, s.classes - 1)), s.source)
        attacks["pgd40-transfer"] = Transfer(PGD(eps=eps, step_size=eps / 10 or 1.0, steps=40), s.source)
    passes = s.eot if s.eot > 1 else 1
    attacks["square"] = Square(eps=eps, queries=1000 if passes > 1 else 5000, passes=passes)
    attacks["rays"] = RayS(eps=eps, queries=5000, passes=5 if passes > 1 else 1)
    return attacks


def _unseen(s: _Setting) -> Suite:
    """All three norms at their usual radii, for a defence made for one of them (Table 6 of the MAE-Pure paper)."""
    usual = replace(s, eps=None)
    return {f"pgd200-{norm}": usual.pgd(norm) for norm in EPS}


def _purifier(s: _Setting) -> Suite:
    """Attacks adapted to a purifier: every backward rule, low reconstruction loss, transfer from a shortened one."""
    attacks = _bpda(s)
    attacks["pgd200-cw"] = s.pgd(s.norm, loss="cw")
    attacks["keep-reconstruction"] = s.pgd(s.norm, reconstruction_weight=10.0)
    if s.source is not None:
        attacks["transfer"] = Transfer(s.pgd(s.norm), s.source)
    return attacks


SUITES: dict[str, Callable[[_Setting], Suite]] = {
    "quick": _quick,
    "pgd200-eot20-linf": _pgd200("linf"),
    "pgd200-eot20-l2": _pgd200("l2"),
    "pgd200-eot20-l1": _pgd200("l1"),
    "autoattack": _autoattack,
    "autoattack-rand": _autoattack_rand,
    "bpda-eot20": _bpda,
    "cw-eot": _cw,
    "deepfool-eot": _deepfool,
    "blackbox": _blackbox,
    "unseen": _unseen,
    "purifier": _purifier,
}


class Preset(NamedTuple):
    """How a published work attacks and counts; to repeat its tables, not to judge a defence."""

    attacks: Suite
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
class OnMeanLogits(ImageAttack):
    """Attacks the classifier of logits averaged over `passes` of the defence, whatever average is being judged."""

    attack: Attack
    passes: int

    @property
    def norm(self) -> Norm:
        """Norm of the attack's ball."""
        return self.attack.norm

    @property
    def eps(self) -> float:
        """Radius of the attack's ball."""
        return self.attack.eps

    @property
    def shares_randomness(self) -> bool:
        """Whether the attack's result depends on which images it is given together."""
        return getattr(self.attack, "shares_randomness", False)

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
