"""Named families of attacks, one definition of each: ready for `evaluate`, cheap attacks first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args

from rp_attacks.apgd import APGD
from rp_attacks.autoattack import FAB, AutoAttack, Part
from rp_attacks.carlini_wagner import CarliniWagner
from rp_attacks.deepfool import DeepFool
from rp_attacks.defence import Classifier, OffersGradients, OffersReconstructionLoss
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.radii import NORMS, Norm, pgd200_step, usual_radius
from rp_attacks.rays import RayS
from rp_attacks.settings import SUITE_NORMS, Budget, SuiteName
from rp_attacks.square import Square
from rp_attacks.transfer import Transfer

EPS: dict[Norm, float] = {norm: usual_radius(norm, convention="purification") for norm in NORMS}
Suite = dict[str, Attack]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Setting:
    """What a suite is asked for."""

    eps: float | None
    norm: Norm
    random: bool
    classes: int
    rules: tuple[str, ...]
    reconstruction: bool
    source: Classifier | None
    one_shot: Classifier | None
    surrogate: Classifier | None
    budget: Budget
    alone: bool = False

    @property
    def eot(self) -> int:
        """Passes in each gradient of suites with the papers' fixed settings."""
        return 20 if self.random else 1

    @property
    def other_rules(self) -> tuple[str, ...]:
        """Backward rules beside the defence's own."""
        return tuple(rule for rule in self.rules if rule != "exact")

    @property
    def radius(self) -> float:
        """The radius asked for, or the norm's usual one."""
        return EPS[self.norm] if self.eps is None else self.eps

    def pgd200(self, **options: Any) -> PGD:
        """200 steps of the papers' size; in proportion to the radius where it is not the usual one."""
        setting = PGD(
            norm=self.norm, eps=self.radius, step_size=pgd200_step(self.norm, self.radius) or 1.0, steps=200,
            eot=self.eot, select="best", l1_box=self.norm == "l1",
        )  # fmt: skip
        return replace(setting, **options)

    def pgd(self, steps: int, eot: int, **options: Any) -> PGD:
        """PGD of the budget's step size that keeps the best iterate."""
        step_size = self.budget.pgd_step(self.radius, steps)
        eot = eot if self.random else 1
        setting = PGD(norm=self.norm, eps=self.radius, step_size=step_size, steps=steps, eot=eot, select="best")
        return replace(setting, l1_box=self.norm == "l1", **options)

    def apgd(self, loss: Any, **options: Any) -> APGD:
        """APGD with the budget's steps and passes."""
        eot = self.budget.eot if self.random else 1
        setting = APGD(norm=self.norm, eps=self.radius, steps=self.budget.steps, eot=eot, loss=loss)
        return replace(setting, **options)

    def square(self, queries: int) -> Square:
        """Square of so many queries, each of the budget's passes."""
        passes = self.budget.query_passes if self.random else 1
        return Square(eps=self.radius, queries=queries, passes=passes, rescale_schedule=True, race=passes > 1)


def suite(
    name: str,
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    random: bool = True,
    classes: int = 10,
    defence: Classifier | None = None,
    gradients: Sequence[str] | None = None,
    source: Classifier | None = None,
    one_shot: Classifier | None = None,
    surrogate: Classifier | None = None,
    budget: Budget | None = None,
    alone: bool = False,
) -> Suite:
    """The attacks of a named suite, cheap ones first, ready for `evaluate`.

    Args:
        name: one of `SUITES`.
        eps: radius in units of [0, 1] pixels; by default 8/255 (Linf), 1 (L2), 12 (L1).
        norm: of suites that exist in several: see `rp_attacks.settings.SUITE_NORMS` for those that do not.
        random: False leaves out the averaging over passes, which a deterministic model does not need.
        classes: of the model; parts that need more are left out.
        defence: what will be attacked; its backward rules and its reconstruction loss are attacked too.
        gradients: backward rules to attack through in place of those that `defence` offers.
        source: undefended classifier, for transfer.
        one_shot: a purifier of one pass before the classifier, for transfer in "purifier".
        surrogate: the purifier with fewer steps before the classifier, also for transfer in "purifier" (Lee & Kim).
        budget: of "purifier", "gradient" and "blackbox".
        alone: each attack of "purifier" begins anew and takes its full number of steps, for an accuracy of its own.

    Returns:
        Attacks by name.

    Raises:
        KeyError: no such suite; the message lists the nearest names.
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, n=3)
        raise KeyError(f"no suite {name!r}; did you mean {' or '.join(near) or 'one of ' + ', '.join(SUITES)}?")
    if gradients is None:
        gradients = tuple(defence.gradients) if isinstance(defence, OffersGradients) else ()
    setting = _Setting(
        eps=eps, norm=SUITE_NORMS.get(name, norm), random=random, classes=classes, rules=tuple(gradients),
        reconstruction=isinstance(defence, OffersReconstructionLoss), source=source, one_shot=one_shot,
        surrogate=surrogate, budget=budget or Budget(), alone=alone,
    )  # fmt: skip
    attacks = SUITES[name](setting)
    if not attacks:
        raise ValueError(f"suite {name!r} has no attack for these options (classes={classes}, source={source})")
    return attacks


def _quick(s: _Setting) -> Suite:
    """A first look: not a verdict to publish. Fewer steps and queries where each is averaged over passes."""
    eps, eot = s.radius, 5 if s.random else 1
    steps, queries = (10, 50) if eot > 1 else (20, 500)  # of the other backward rules, and of Square

    def pgd(steps: int, **options: Any) -> PGD:
        return PGD(norm=s.norm, eps=eps, step_size=2.5 * eps / steps or 1.0, steps=steps, select="best", **options)

    attacks: Suite = {
        "pgd20-ce": pgd(20, eot=eot, early_stop=True),
        "pgd20-cw": pgd(20, eot=eot, early_stop=True, loss="cw", inset=1e-4),
    }
    for rule in s.other_rules:
        attacks[f"pgd{steps}-cw-{rule}"] = pgd(steps, eot=eot, early_stop=True, loss="cw", grad=rule)
    if s.source is not None:
        attacks["transfer"] = Transfer(pgd(20, loss="cw"), s.source)
    if s.norm == "linf":
        attacks["square"] = Square(eps=eps, queries=queries, passes=eot, rescale_schedule=True, race=eot > 1)
    return attacks


def _pgd200(s: _Setting) -> Suite:
    rules: Suite = {f"pgd200-{s.norm}-{rule}": s.pgd200(grad=rule) for rule in s.other_rules}
    return {f"pgd200-{s.norm}": s.pgd200()} | rules


def _autoattack(s: _Setting) -> Suite:
    """The parts of the standard version one by one: in a cascade they count what the whole does."""
    parts: list[Part] = ["apgd-ce", "apgd-t", "fab-t", "square"]
    if s.classes < 4:
        parts.remove("apgd-t")
    return {part: AutoAttack(eps=s.radius, norm=s.norm, attacks=(part,)) for part in parts}


def _autoattack_rand(s: _Setting) -> Suite:
    """APGD-CE and APGD-DLR with EOT 20, selection and success averaged over the passes (the library's are not)."""
    shared: dict[str, Any] = {"eps": s.radius, "norm": s.norm, "eot": 20}
    attacks: Suite = {"apgd-ce-eot20": APGD(**shared, loss="ce")}
    if s.classes >= 3:
        attacks["apgd-dlr-eot20"] = APGD(**shared, loss="dlr")
    return attacks


def _bpda(s: _Setting) -> Suite:
    return {f"bpda-{rule}": s.pgd200(grad=rule) for rule in dict.fromkeys(("identity", *s.other_rules))}


def _cw(s: _Setting) -> Suite:
    return {"cw-l2": CarliniWagner(eps=s.radius, eot=s.eot, confidence=1.0 if s.random else 0.0)}


def _deepfool(s: _Setting) -> Suite:
    return {"deepfool-l2": DeepFool(eps=s.radius, eot=s.eot, overshoot=0.1 if s.random else 0.02)}


def _blackbox(s: _Setting) -> Suite:
    """FAB and PGD on the source alone, and two attacks that ask the whole defence."""
    eps, budget = s.radius, s.budget
    attacks: Suite = {}
    if s.source is not None:
        fab = FAB(eps=eps, targets=min(9, s.classes - 1), steps=budget.fab_steps)
        attacks["fab"] = Transfer(fab, s.source)
        attacks["pgd-transfer"] = Transfer(PGD(eps=eps, step_size=eps / 10 or 1.0, steps=40), s.source)
    attacks["square"] = s.square(budget.queries if s.random else budget.label_queries)
    passes = budget.label_passes if s.random else 1
    return attacks | {"rays": RayS(eps=eps, queries=budget.label_queries, passes=passes)}


def _unseen(s: _Setting) -> Suite:
    """All three norms at their usual radii, for a defence made for one of them (Table 6 of the MAE-Pure paper)."""
    return {f"pgd200-{norm}": replace(s, eps=None, norm=norm).pgd200() for norm in EPS}


def _gradient(s: _Setting) -> Suite:
    """Gradient attacks of one norm through the defence's own backward pass (Tables 5 to 8 of the MAE-Pure paper)."""
    norm, budget = s.norm, s.budget
    pgd = s.pgd(budget.steps, budget.eot)
    attacks: Suite = {}
    if s.source is not None:
        attacks[f"transfer-{norm}"] = Transfer(replace(pgd, eot=1, loss="cw"), s.source)
    attacks[f"pgd-{norm}"] = pgd
    if norm != "l1":
        attacks |= {f"apgd-{loss}-{norm}": s.apgd(loss) for loss in ("ce", "dlr")[: s.classes - 1]}
    if norm == "l2":
        confidence, overshoot = (1.0, 0.1) if s.random else (0.0, 0.02)
        attacks["cw-l2"] = CarliniWagner(
            eps=s.radius, search_steps=budget.search, steps=budget.search_steps, eot=pgd.eot, confidence=confidence
        )
        attacks["deepfool-l2"] = DeepFool(eps=s.radius, steps=budget.steps, eot=pgd.eot, overshoot=overshoot)
    return attacks


def _purifier(s: _Setting) -> Suite:
    """The worst case of a purifier: transfer, every backward rule, APGD, Square, and a low reconstruction loss.

    The first attacks search from random points; those with another loss or rule go on in half the steps from the worst
    candidates found so far.
    """
    budget, rules = s.budget, s.rules or ("exact",)
    pgd = s.pgd(budget.steps, budget.eot)
    half = budget.steps if s.alone else -(-budget.steps // 2)
    on = pgd if s.alone else replace(pgd, steps=half, start="worst")
    curved = s.pgd(budget.curved_steps, budget.curved_eot, start=on.start)
    start: Any = "random" if s.alone else "worst"
    attacks: Suite = {}
    if s.source is not None:
        attacks["transfer"] = Transfer(replace(pgd, eot=1, loss="cw"), s.source)
    if "identity" in rules:
        attacks["bpda"] = replace(pgd, grad="identity")
    if "exact" in rules:
        attacks["pgd-exact"] = pgd
    if s.one_shot is not None:
        attacks["one-shot"] = Transfer(pgd, s.one_shot)
    if s.surrogate is not None:
        attacks["fewer-steps"] = Transfer(pgd, s.surrogate)
    attacks |= {f"apgd-{loss}": s.apgd(loss, steps=half, start=start) for loss in ("ce", "dlr")[: s.classes - 1]}
    if s.random and s.norm != "l1":
        attacks["diffhammer"] = DiffHammer(
            norm=s.norm, eps=s.radius, steps=half, restarts=1, draws=budget.draws, start=start,
            grad="exact" if "exact" in rules else rules[0],
        )  # fmt: skip
    if s.norm == "linf":
        attacks["square"] = s.square(budget.queries if s.random else budget.plain_queries or budget.queries)
    attacks |= {f"pgd-{rule}": replace(curved, grad=rule) for rule in rules if rule not in ("exact", "identity")}
    if s.rules:
        attacks["pgd-cw"] = replace(on, loss="cw")
    if s.reconstruction:
        attacks["keep-reconstruction"] = replace(on, reconstruction_weight=10.0)
    return attacks


def _purifier_quick(s: _Setting) -> Suite:
    """By which a purifier's settings are chosen: from the classifier alone, and with the identity as gradient."""
    pgd = PGD(norm=s.norm, eps=s.radius, step_size=s.radius / 4 or 1.0, steps=10, eot=2, select="best")
    attacks: Suite = {"bpda": replace(pgd, grad="identity")}
    if s.source is not None:
        attacks = {"transfer": Transfer(replace(pgd, eot=1, steps=20), s.source)} | attacks
    return attacks


_BUILDERS: dict[SuiteName, Callable[[_Setting], Suite]] = {
    "quick": _quick,
    "pgd200-eot20-linf": _pgd200,
    "pgd200-eot20-l2": _pgd200,
    "pgd200-eot20-l1": _pgd200,
    "autoattack": _autoattack,
    "autoattack-rand": _autoattack_rand,
    "bpda-eot20": _bpda,
    "cw-eot": _cw,
    "deepfool-eot": _deepfool,
    "blackbox": _blackbox,
    "unseen": _unseen,
    "gradient": _gradient,
    "purifier": _purifier,
    "purifier-quick": _purifier_quick,
}
SUITES: dict[str, Callable[[_Setting], Suite]] = {name: _BUILDERS[name] for name in get_args(SuiteName)}
