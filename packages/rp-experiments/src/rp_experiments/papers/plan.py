"""The plan of a scale: which products its items are made from; importing this does not import torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rp_dra.settings import Method

from rp_experiments.artifacts import Artifact
from rp_experiments.papers.settings import (
    PURIFIERS,
    AttackTable,
    Case,
    DescentCheck,
    Networks,
    Representations,
    Strength,
    Timing,
)
from rp_experiments.recipes import analyze_purifier, probe, sweep
from rp_experiments.recipes.analysis import Analysis
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra_settings import TrainDra
from rp_experiments.recipes.pretrain_settings import PretrainClassifier

OTHER_METHODS: tuple[Method, ...] = ("at+adr", "at+ikl", "dm-at+ikl")  # of Table 2 of the DRA paper
OTHER_NETWORKS = ("larger", "other")  # classifiers behind purifiers that were tuned for another one


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The products of one scale, each made for several items.

    Attributes:
        scale: its name.
        runs: of train_dra.py, by recipe; the first one is analysed.
        others: the first run's settings with the methods of Table 2 of the DRA paper that no run has; by its recipe.
        noisy: the same with the noisy-input encoder as the alignment's target.
        probe: of probe.py.
        analysis: of analyze.py.
        sparse: of analyze.py, whose sparse autoencoders Fig. 6 shows.
        representations: features of the run's classifiers and diffusion model.
        sweep: over the alignment's weight.
        networks: behind the purifiers, by data set; the first one is that of figures, Tables 6 to 12 and theorems.
        comparisons: of compare_purifiers.py, by data set.
        norms: attacks in L2 and L1, by data set.
        black_box: attacks without gradients, by data set.
        classifiers: attacks on purifiers behind other classifiers.
        sensitivity: attacks on other settings of the purifiers.
        views: of analyze_purifier.py.
        before_larger: attacks on purifiers behind a larger classifier, by data set; the first is `classifiers`.
        timings: of the purifiers, by data set.
        descent: Theorem J.1.
    """

    scale: str
    runs: Mapping[str, Artifact]
    others: Mapping[str, Artifact]
    noisy: Artifact
    probe: Artifact
    analysis: Artifact
    sparse: Artifact
    representations: Artifact
    sweep: Artifact
    networks: Mapping[str, Artifact]
    comparisons: Mapping[str, Artifact]
    norms: Mapping[str, Artifact]
    black_box: Mapping[str, Artifact]
    classifiers: Artifact
    before_larger: Mapping[str, Artifact]
    sensitivity: Artifact
    views: Artifact
    timings: Mapping[str, Artifact]
    descent: Artifact


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Where the scales differ beyond the recipes of the apps."""

    scale: str
    comparisons: Mapping[str, Comparison]
    runs: Mapping[str, TrainDra]
    sparse_run: str  # the recipe whose run has the sparse autoencoders
    sweep_base: str
    sweep_images: int | None
    weights: tuple[str, ...] = ("0", "0.3", "0.6", "1.2", "2.4")
    probe: probe.ProbeStudy
    views: analyze_purifier.PurifierAnalysis
    table_images: int | None  # of the attack tables; None as many as the comparison
    strength: Strength
    sensitivity: Mapping[str, tuple[Mapping[str, object], ...]]  # by row
    larger: Mapping[str, PretrainClassifier]
    larger_elsewhere: Mapping[str, PretrainClassifier] = field(default_factory=dict)  # by further data set
    descent: Mapping[str, object] = field(default_factory=dict)
    timing_repeats: int = 5
    eps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by data set and norm
    analysis: Mapping[str, object] = field(default_factory=dict)
    minutes: Mapping[str, float] = field(default_factory=dict)  # of each kind of product


def build(sizes: Sizes) -> Plan:
    """The plan of a scale."""
    return Plan(scale=sizes.scale, **_classifier_products(sizes), **_purifier_products(sizes))


def _classifier_products(sizes: Sizes) -> dict[str, Any]:
    """What the DRA paper's items are made from, by field of the plan."""
    runs = {name: _product(sizes, "train_dra", config) for name, config in sizes.runs.items()}
    name, config = next(iter(sizes.runs.items()))
    study = _product(sizes, "probe", sizes.probe)
    noisy = replace(
        config,
        method=("dm-at+dra",),
        alignment=replace(config.alignment, target="encoder", checkpoint="filled in when it is made"),
    )
    noisy_run = _product(sizes, "train_dra", noisy, kind="noisy", encoder=study)
    analysis = Analysis(run="filled in when it is made", **sizes.analysis)  # type: ignore[arg-type]
    features = Representations(
        images=analysis.images, attack_steps=analysis.attack_steps, neighbours=analysis.neighbours
    )
    return {
        "runs": runs,
        "others": _others(sizes, name, config),
        "noisy": noisy_run,
        "probe": study,
        "analysis": _product(sizes, "analyze", analysis, run=runs[name]),
        "sparse": _product(sizes, "analyze", analysis, run=runs[sizes.sparse_run]),
        "representations": _product(sizes, "representations", features, run=runs[name], noisy=noisy_run),
        "sweep": _product(sizes, "sweep", _sweep(sizes)),
    }


def _others(sizes: Sizes, name: str, config: TrainDra) -> dict[str, Artifact]:
    """A run beside the first one, with the methods that stand in the paper's table and in no run of this scale."""
    present = {method for run in sizes.runs.values() for method in run.method}
    methods = tuple(method for method in OTHER_METHODS if method not in present)
    return {name: _product(sizes, "train_dra", replace(config, method=methods), kind="others")} if methods else {}


def _purifier_products(sizes: Sizes) -> dict[str, Any]:
    """What the MAE-Pure paper's items are made from, by field of the plan."""
    networks = {
        data: _product(sizes, "networks", Networks(comparison=comparison, roles=_roles(comparison)))
        for data, comparison in sizes.comparisons.items()
    }
    first, comparison = next(iter(sizes.comparisons.items()))

    def table(data: str, cases: tuple[Case, ...], kind: str, **options: Any) -> Artifact:
        of = replace(sizes.comparisons[data], only=())
        of = replace(of, images=sizes.table_images or of.images)
        eps = dict(sizes.eps.get(data, {}))
        config = AttackTable(comparison=of, cases=cases, strength=sizes.strength, eps=eps, **options)
        return _product(sizes, "attacks", config, kind=kind, networks=networks[data])

    def look(job: str, config: Any, data: str = first) -> Artifact:
        return _product(sizes, job, config, networks=networks[data])

    def before_larger(data: str, classifier: PretrainClassifier) -> Artifact:
        cases = _before(sizes.comparisons[data], ("first", "larger"))
        return table(data, cases, "classifiers", classifiers={"larger": classifier})

    classifiers = table(first, _other_classifiers(comparison), "classifiers", classifiers=dict(sizes.larger))

    return {
        "networks": networks,
        "comparisons": {
            data: _product(sizes, "compare", of, networks=networks[data]) for data, of in sizes.comparisons.items()
        },
        "norms": {data: table(data, _norms(of), "norms") for data, of in sizes.comparisons.items()},
        "black_box": {data: table(data, _black_box(of), "black box") for data, of in sizes.comparisons.items()},
        "classifiers": classifiers,
        "before_larger": {first: classifiers}
        | {data: before_larger(data, classifier) for data, classifier in sizes.larger_elsewhere.items()},
        "sensitivity": table(first, _sensitivity(sizes), "sensitivity"),
        "views": look("views", sizes.views),
        "timings": {
            data: look("timing", Timing(comparison=of, repeats=sizes.timing_repeats), data)
            for data, of in sizes.comparisons.items()
        },
        "descent": look("descent", DescentCheck(comparison=comparison, **sizes.descent)),  # type: ignore[arg-type]
    }


def _product(sizes: Sizes, job: str, config: Any, *, kind: str = "", **needs: Artifact) -> Artifact:
    """A product with the minutes that its kind takes at this scale."""
    return Artifact(job=job, config=config, minutes=sizes.minutes.get(kind or job, 0.0), needs=needs)


def _sweep(sizes: Sizes) -> sweep.Sweep:
    """Over the alignment's weight, as Fig. 8 of the DRA paper has it; 0 is DM-AT."""
    grid = {"alignment.weight": sizes.weights}
    if sizes.sweep_images is not None:
        grid = {"evaluation.images": (str(sizes.sweep_images),), **grid}
    return sweep.Sweep(base=sizes.sweep_base, method=("dm-at+dra",), grid=grid)


def _present(comparison: Comparison) -> tuple[str, ...]:
    return tuple(row for row in PURIFIERS if row in comparison.chosen)


def _roles(comparison: Comparison) -> tuple[str, ...]:
    """The networks of a comparison's rows."""
    choices = [getattr(comparison.rows, row) for row in comparison.chosen]
    names = [getattr(choice, name, "") for choice in choices for name in ("mae", "model")]
    return tuple(dict.fromkeys(["classifier", *filter(None, names)]))


def _norms(comparison: Comparison) -> tuple[Case, ...]:
    return tuple(Case(name=row, row=row, families=("l2", "l1")) for row in ("none", *_present(comparison)))


def _black_box(comparison: Comparison) -> tuple[Case, ...]:
    return tuple(Case(name=row, row=row, families=("black-box",)) for row in ("none", *_present(comparison)))


def _other_classifiers(comparison: Comparison) -> tuple[Case, ...]:
    """Table 8 puts purifiers before a larger classifier, Table 5 some before another; "first" is their own."""
    return _before(comparison, ("first", "larger", "other"))


def _before(comparison: Comparison, classifiers: tuple[str, ...]) -> tuple[Case, ...]:
    """Purifiers before classifiers by name; the one of another kind stands behind what Table 5 has."""
    present = _present(comparison)
    tuned = tuple(row for row in present if row not in ("mae_pure", "maskdit_pure"))
    return tuple(
        Case(
            name=f"{row}, {name}",
            row=row,
            classifier="" if name == "first" else name,
            families=("linf",) if name == "first" else ("linf", "l2"),
        )
        for name in classifiers
        for row in ("none", *(tuned if name == "other" else present))
    )


def _sensitivity(sizes: Sizes) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=" ".join([row, *(f"{key}={value:.4g}" for key, value in changes.items())]),
            row=row,
            families=("short",),
            changes=dict(changes),
        )
        for row, settings in sizes.sensitivity.items()
        for changes in settings
    )
