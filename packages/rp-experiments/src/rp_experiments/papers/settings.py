"""Settings of the jobs that only the reproduction has; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rp_attacks.radii import Norm, pgd200_step, usual_radius
from rp_attacks.settings import Budget
from rp_models.data.catalog import describe
from rp_models.settings import InferenceSettings, at_least, require
from rp_purify.settings import PurifierSettings

from rp_experiments.recipes.analysis import Analysis, ZooComparison
from rp_experiments.recipes.compare_purifiers import TITLES, Comparison
from rp_experiments.recipes.pretrain_settings import PretrainClassifier

PURIFIERS = ("diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
Family = Literal["linf", "l2", "l1", "black-box", "short", "table-1"]
"""Gradient attacks of a norm, attacks without gradients, the two short ones that choose settings, those of Table 1."""
_NORMS: Mapping[str, Norm] = {"l2": "l2", "l1": "l1"}  # of families; Linf of the others


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of an attack table: a purifier, a classifier behind it, the attacks on both."""

    name: str
    row: str  # of compare_purifiers.py, e.g. mae_pure
    families: tuple[Family, ...]
    classifier: str = ""  # one of the table's classifiers; "" for the comparison's own
    changes: dict[str, Any] = field(default_factory=dict)  # of the row's purifier, e.g. steps 20

    def __post_init__(self) -> None:
        require(self.row in TITLES, f"row must be one of {', '.join(TITLES)}, got {self.row!r}")
        require(len(self.families) > 0, f"case {self.name!r} names no attacks")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackTable:
    """Attacks on purifiers in other norms, without gradients, behind other classifiers, or with other settings."""

    comparison: Comparison  # data, images, seed, networks and rows
    cases: tuple[Case, ...]
    classifiers: dict[str, PretrainClassifier] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    passes: int = 20  # that report, and as many that select
    eps: dict[str, float] = field(default_factory=dict)  # radius of a norm; by default in proportion
    published_step: bool = False  # PGD's step is that of Table 1 in every norm (`pgd200_step`), not the budget's
    # what rows change in their purifier under the attacks of a norm, e.g. {"l2": {"diffpure": {"times": 75}}}
    in_norm: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [case.name for case in self.cases]
        require(len(set(names)) == len(names), "two cases have the same name")
        for case in self.cases:
            require(
                not case.classifier or case.classifier in self.classifiers,
                f"case {case.name!r} names the classifier {case.classifier!r}, which the table does not have",
            )

    def radius(self, norm: Norm) -> float:
        """The radius of a norm's ball; by default it stands to the Linf radius as the paper's does on CIFAR-10."""
        info, linf = describe(self.comparison.data), self.comparison.budget.eps
        shape = (info.channels, info.image_size, info.image_size)
        return self.eps.get(norm) or usual_radius(norm, shape=shape, linf=linf, convention="purification")

    def budget_in(self, norm: Norm) -> Budget:
        """The budget with PGD's step size in a norm."""
        return (
            replace(self.budget, step_size=pgd200_step(norm, self.radius(norm))) if self.published_step else self.budget
        )

    def purifier(self, case: Case, norm: Norm = "linf") -> PurifierSettings:
        """The purifier of a case under the attacks of a norm."""
        changes = {**case.changes, **self.in_norm.get(norm, {}).get(case.row, {})}
        return replace(self.comparison.purifier(case.row), **changes)

    def first_like(self, case: Case) -> Case:
        """The first case that asks for the same, such as one whose changes are the row's own settings."""

        def asked(one: Case) -> tuple[object, ...]:
            return one.classifier, one.families, one.row, self.purifier(one)

        return next(one for one in self.cases if asked(one) == asked(case))


def norm_of(family: Family) -> Norm:
    """The norm of a family's attacks."""
    return _NORMS.get(family, "linf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Zoo:
    """RobustBench's models beside a diffusion model (Fig. 1 and 9 of the DRA paper)."""

    models: ZooComparison
    analysis: Analysis  # images, neighbours, seed and precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long purifying takes (Table 10 of the MAE-Pure paper)."""

    comparison: Comparison  # the purifiers' settings and networks
    rows: tuple[str, ...] = PURIFIERS
    images: int = 32  # in a batch
    repeats: int = 5  # the rows take turns; the median counts


@dataclass(frozen=True, kw_only=True, slots=True)
class DescentCheck:
    """Theorem J.1 of the MAE-Pure paper on real images."""

    comparison: Comparison  # data, seed, classifier and autoencoder
    images: int = 20
    masks: int = 8  # of each image, in place of all possible ones
    rates: tuple[float, ...] = (0.01, 0.1, 1.0)  # step sizes of plain gradient descent, in units of [0, 1] pixels
    sign_rates: tuple[float, ...] = ()  # step sizes of the method's own steps: along signs, clipped as it clips
    steps: tuple[int, ...] = (1, 10, 50)
    attack_steps: int = 20  # of PGD on the classifier


@dataclass(frozen=True, kw_only=True, slots=True)
class Pilot:
    """A search for fine-tuning values on few images, before the whole training."""

    comparison: Comparison  # data, networks and attack; as many images of the validation split judge
    network: Literal["rmae", "rmaskdit"]
    tried: tuple[dict[str, float], ...]  # values of `finetune`, e.g. {"mu": 0.0}
    train_images: int = 2048
    steps: int = 400

    def __post_init__(self) -> None:
        require(len(self.tried) > 0, "a pilot needs values to try")
        at_least(self, "pilot.", train_images=1, steps=1)

    @property
    def tuning(self) -> str:
        """The comparison's settings of the training."""
        return f"finetune_{self.network.removeprefix('r')}"

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of the rows that are judged, one for each of the values."""
        return tuple(f"{self.network}_pure_{number}" for number in range(len(self.tried)))

    @property
    def trial(self) -> Comparison:
        """The comparison of purifiers with short trainings, one for each of the values."""
        role, networks = "mae" if self.network == "rmae" else "model", dict[str, Any](self.comparison.networks)
        variants = dict[str, Any](self.comparison.variants)
        for row, values in zip(self.rows, self.tried, strict=True):
            finetune = {"steps": self.steps, **values}
            networks[f"{row}_network"] = {"of": self.tuning, "train_images": self.train_images, "finetune": finetune}
            variants[row] = {"of": f"{self.network}_pure", role: f"{row}_network"}
        return replace(self.comparison, networks=networks, variants=variants, only=self.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Networks:
    """The networks of a comparison, made before several jobs use them side by side."""

    comparison: Comparison
    roles: tuple[str, ...]  # of classifier, mae, maskdit, edm, rmae, rmaskdit


@dataclass(frozen=True, kw_only=True, slots=True)
class Representations:
    """Features of a run's classifiers and of its diffusion model (Fig. 4, 9 and 10 of the DRA paper)."""

    images: int | None = None  # only that many test images; None for all
    attack_steps: int = 20  # of PGD on the margin
    neighbours: int = 10  # k of CKNNA
    seed: int = 0
    compute: InferenceSettings = field(default_factory=InferenceSettings)
