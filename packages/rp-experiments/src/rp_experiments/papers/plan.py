"""The plan of a scale: which products its items are made from; importing this does not import torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rp_attacks.settings import Budget
from rp_dra.settings import Method
from rp_purify.settings.base import ROLES

from rp_experiments.artifacts import Artifact
from rp_experiments.papers.settings import (
    PURIFIERS,
    AttackTable,
    Case,
    DescentCheck,
    Family,
    Networks,
    Pilot,
    Representations,
    Timing,
    Zoo,
)
from rp_experiments.recipes import analyze_purifier, probe, sweep
from rp_experiments.recipes.analysis import Analysis, ZooComparison
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.pretrain_settings import PretrainClassifier
from rp_experiments.recipes.table import changed, read

OTHER_METHODS: tuple[Method, ...] = ("at+adr", "at+ikl", "dm-at+ikl")  # of Table 2 of the DRA paper
SHARED = frozenset({"train_dra", "sweep", "compare", "evaluate"})  # jobs whose work several processes can share
_MINUTES = read(Path(__file__).with_name("minutes"))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The artifacts of one scale, each made for several items; several of a kind by data set, or by recipe."""

    scale: str
    runs: Mapping[str, Artifact]  # of train_dra.py; the first one is analysed
    others: Mapping[str, Artifact]  # its settings with the methods of Table 2 of the DRA paper that no run has
    zoo: Mapping[str, Artifact]  # RobustBench's models beside a diffusion model, by data set
    rivals: Mapping[
        str, Artifact
    ]  # published classifiers under AutoAttack, by name and data set: `Pang et al., cifar10`
    adversarial: Mapping[str, Artifact]  # further runs by data set, for Table 3 of the MAE-Pure paper alone
    noisy: Artifact  # the same with the noisy-input encoder as the alignment's target
    probe: Artifact
    analysis: Artifact  # of analyze.py
    sparse: Artifact  # of analyze.py, whose sparse autoencoders Fig. 6 shows
    representations: Artifact  # features of the run's classifiers and diffusion model
    sweep: Artifact  # over the alignment's weight
    pilots: Mapping[str, Artifact]  # of fine-tuning values, by network and data set: `rmae, cifar10`
    networks: Mapping[str, Artifact]  # behind the purifiers; the first one is that of figures and theorems
    comparisons: Mapping[str, Artifact]  # of compare_purifiers.py
    norms: Mapping[str, Artifact]  # attacks in L2 and L1
    unseen: Mapping[str, Artifact]  # the same for Tables 6 and 7, the first one perhaps behind another classifier
    black_box: Mapping[str, Artifact]  # attacks without gradients
    classifiers: Artifact  # attacks on purifiers behind other classifiers
    before_larger: Mapping[str, Artifact]  # behind a larger one; the first is `classifiers`
    sensitivity: Artifact  # attacks on other settings of the purifiers
    views: Mapping[str, Artifact]  # of analyze_purifier.py
    timings: Mapping[str, Artifact]
    descent: Artifact  # Theorem J.1


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Where the scales differ beyond the recipes of the apps."""

    scale: str
    comparisons: Mapping[str, Comparison]
    runs: Mapping[str, TrainDra]
    adversarial: Mapping[str, TrainDra] = field(default_factory=dict)  # by data set, where no run has it
    zoo: tuple[str, ...] = ()  # entries of RobustBench beside the first run's diffusion model
    rivals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # entries of RobustBench by name and data set
    sparse_run: str = ""  # the recipe whose run has the sparse autoencoders; by default the first
    sweep_base: str = ""  # recipe; by default the first run's
    sweep_images: int | None = None
    weights: tuple[str, ...] = ("0", "0.3", "0.6", "1.2", "2.4")
    probe: probe.ProbeStudy
    views: Mapping[str, analyze_purifier.PurifierAnalysis]  # by data set; of further ones the autoencoder alone
    table_images: int | None = None  # of the attack tables; None as many as the comparison
    budget: Budget  # of the attack tables
    published_step: bool = False  # PGD's step there is Table 1's in every norm
    in_norm: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)  # by data set
    further_rows: tuple[str, ...] = ()  # in tables of other norms and black boxes, beside the papers' and DiffPure's
    unseen_before: str = ""  # the classifier of Tables 6 and 7 on the first data set, of `larger`; "" for its own
    passes: int = 20  # that report there, and as many that select
    sensitivity: Mapping[str, tuple[Mapping[str, object], ...]]  # by row
    sensitivity_attacks: Family = "short"
    larger: Mapping[str, PretrainClassifier]  # `larger` and `other`, behind purifiers that were tuned for another one
    larger_elsewhere: Mapping[str, PretrainClassifier] = field(default_factory=dict)  # by further data set
    descent: Mapping[str, object] = field(default_factory=dict)
    pilot: Mapping[str, Any] = field(default_factory=dict)  # sizes, and by network the values that are tried; {}: none
    timing_repeats: int = 5
    eps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by data set and norm
    analysis: Mapping[str, object] = field(default_factory=dict)
    sparse: Mapping[str, object] = field(default_factory=dict)  # where the analysis for Fig. 6 differs


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
    analysis = changed(Analysis(run="filled in when it is made"), sizes.analysis)
    sparse = changed(analysis, sizes.sparse)
    features = Representations(
        images=analysis.images,
        attack_steps=analysis.attack_steps,
        neighbours=analysis.neighbours,
        compute=analysis.compute,
    )
    return {
        "runs": runs,
        "others": _others(sizes, name, config),
        "zoo": _zoo(sizes, config, analysis),
        "rivals": _rivals(sizes, analysis),
        "adversarial": {data: _product(sizes, "train_dra", run) for data, run in sizes.adversarial.items()},
        "noisy": noisy_run,
        "probe": study,
        "analysis": _product(sizes, "analyze", analysis, run=runs[name]),
        "sparse": _product(sizes, "analyze", sparse, run=runs.get(sizes.sparse_run, runs[name])),
        "representations": _product(sizes, "representations", features, run=runs[name], noisy=noisy_run),
        "sweep": _product(sizes, "sweep", _sweep(sizes)),
    }


def _zoo(sizes: Sizes, run: TrainDra, analysis: Analysis) -> dict[str, Artifact]:
    """RobustBench's models of a run's data set beside its diffusion model."""
    if not sizes.zoo:
        return {}
    models = ZooComparison(models=sizes.zoo, data=run.data, edm=run.diffusion_model)  # type: ignore[arg-type]
    return {run.data: _product(sizes, "zoo", Zoo(models=models, analysis=analysis))}


def _rivals(sizes: Sizes, analysis: Analysis) -> dict[str, Artifact]:
    """Published classifiers under AutoAttack on the images that the purifiers meet, each image under every attack."""

    def one(data: str, model: str) -> Evaluation:
        of = sizes.comparisons[data]
        return Evaluation(
            data=data, model=model, suite="autoattack", images=of.images, eps=of.budget.eps, compute=analysis.compute
        )

    return {
        f"{name}, {data}": _product(sizes, "evaluate", one(data, model))
        for name, models in sizes.rivals.items()
        for data, model in models.items()
        if data in sizes.comparisons
    }


def _others(sizes: Sizes, name: str, config: TrainDra) -> dict[str, Artifact]:
    """A run beside the first one, with the methods that stand in the paper's table and in no run of this scale."""
    present = {method for run in sizes.runs.values() for method in run.method}
    methods = tuple(method for method in OTHER_METHODS if method not in present)
    return {name: _product(sizes, "train_dra", replace(config, method=methods), kind="others")} if methods else {}


def _purifier_products(sizes: Sizes) -> dict[str, Any]:
    """What the MAE-Pure paper's items are made from, by field of the plan."""
    first, comparison = next(iter(sizes.comparisons.items()))
    seen = {  # what figures on further data sets need, and no more
        data: _product(sizes, "networks", Networks(comparison=sizes.comparisons[data], roles=("classifier", "mae")))
        for data in sizes.views
        if data != first and data in sizes.comparisons
    }

    pilots = {f"{one.config.network}, {data}": one for data in sizes.comparisons for one in _pilots(sizes, data, seen)}

    def networks_of(data: str, of: Comparison) -> Artifact:
        needs = {"seen": seen[data]} if data in seen else {}
        needs |= {one.config.tuning: one for one in pilots.values() if one.config.comparison.data == data}
        return _product(sizes, "networks", Networks(comparison=of, roles=_roles(of)), kind="", **needs)

    networks = {data: networks_of(data, of) for data, of in sizes.comparisons.items()}

    def table(data: str, cases: tuple[Case, ...], kind: str, **options: Any) -> Artifact:
        of = sizes.comparisons[data]
        of = replace(of, only=(), images=sizes.table_images or of.images)
        eps, in_norm = dict(sizes.eps.get(data, {})), _plain(sizes.in_norm.get(data, {}))
        options |= {"budget": sizes.budget, "passes": sizes.passes, "published_step": sizes.published_step}
        config = AttackTable(comparison=of, cases=cases, eps=eps, in_norm=in_norm, **options)
        return _product(sizes, "attacks", config, kind=kind, networks=networks[data])

    def each(make: Callable[[str, Comparison], Artifact]) -> dict[str, Artifact]:
        return {data: make(data, of) for data, of in sizes.comparisons.items()}

    def look(job: str, config: Any, data: str = first) -> Artifact:
        return _product(sizes, job, config, networks=networks[data])

    def before_larger(data: str, classifier: PretrainClassifier) -> Artifact:
        cases = _before(sizes.comparisons[data], ("first", "larger"))
        return table(data, cases, "classifiers", classifiers={"larger": classifier})

    def in_other_norms(data: str, of: Comparison, classifier: str = "") -> Artifact:
        cases = _rows(of, "l2", "l1", further=sizes.further_rows, classifier=classifier)
        known = {classifier: sizes.larger[classifier]} if classifier else {}
        return table(data, cases, "norms", classifiers=known)

    # Table 8 puts purifiers before a larger classifier, Table 5 some before another; "first" is their own
    before = _before(comparison, ("first", "larger", "other"))
    classifiers = table(first, before, "classifiers", classifiers=dict(sizes.larger))
    elsewhere = {data: before_larger(data, classifier) for data, classifier in sizes.larger_elsewhere.items()}
    return {
        "pilots": pilots,
        "networks": networks,
        "comparisons": each(lambda data, of: look("compare", of, data)),
        "norms": (norms := each(in_other_norms)),
        "unseen": norms | {first: in_other_norms(first, comparison, sizes.unseen_before)},
        "black_box": each(
            lambda data, of: table(data, _rows(of, "black-box", further=sizes.further_rows), "black box")
        ),
        "classifiers": classifiers,
        "before_larger": {first: classifiers} | elsewhere,
        "sensitivity": table(first, _sensitivity(sizes), "sensitivity"),
        "views": {
            data: _product(sizes, "views", config, networks=seen.get(data, networks[first]))
            for data, config in sizes.views.items()
            if data in sizes.comparisons
        },
        "timings": each(
            lambda data, of: look("timing", Timing(comparison=of, repeats=sizes.timing_repeats), data),
        ),
        "descent": look("descent", DescentCheck(comparison=comparison, **sizes.descent)),  # type: ignore[arg-type]
    }


def _pilots(sizes: Sizes, data: str, seen: Mapping[str, Artifact]) -> list[Artifact]:
    """Searches for the values of fine-tuning, for each network of a comparison's rows that is tuned."""
    of, options = sizes.comparisons[data], dict(sizes.pilot)
    tried = options.pop("tried", {})
    roles = [role for role in tried if role in _roles(of)]
    start = Networks(comparison=of, roles=("classifier", *(role.removeprefix("r") for role in roles)))
    needs = {"seen": seen[data]} if data in seen else {}
    return [
        _product(
            sizes,
            "pilot",
            Pilot(
                comparison=replace(of, only=(), images=options.get("images", of.images)),
                network=role,
                tried=tuple(_in_ball(values, of.budget.eps) for values in tried[role]),
                **{name: value for name, value in options.items() if name != "images"},
            ),
            kind="",
            networks=_product(sizes, "networks", start, kind="", **needs),
        )
        for role in roles
    ]


def _in_ball(values: Mapping[str, float], eps: float) -> dict[str, float]:
    """Values to try; `noise` is a share of the attack's radius."""
    found = dict(values)
    return found | ({"noise_std": found.pop("noise") * eps} if "noise" in found else {})


def _product(sizes: Sizes, job: str, config: Any, *, kind: str = "", **needs: Artifact) -> Artifact:
    """A product with the minutes that its kind takes at this scale."""
    return Artifact(job=job, config=config, minutes=_MINUTES.get(sizes.scale, {}).get(kind or job, 0.0), needs=needs)


def _sweep(sizes: Sizes) -> sweep.Sweep:
    """Over the alignment's weight, as Fig. 8 of the DRA paper has it; 0 is DM-AT."""
    grid = {"alignment.weight": sizes.weights}
    if sizes.sweep_images is not None:
        grid = {"evaluation.images": (str(sizes.sweep_images),), **grid}
    return sweep.Sweep(base=sizes.sweep_base or next(iter(sizes.runs)), method=("dm-at+dra",), grid=grid)


def _plain(value: Any) -> Any:
    """Nested mappings as dictionaries, which settings hold."""
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


def _present(comparison: Comparison, further: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(row for row in (*further, *PURIFIERS) if row in comparison.chosen)


def _roles(comparison: Comparison) -> tuple[str, ...]:
    """The networks of a comparison's rows."""
    choices = [comparison.purifier(row) for row in comparison.chosen]
    names = [getattr(choice, name, "") for choice in choices for name in ROLES]
    return tuple(dict.fromkeys(["classifier", *filter(None, names)]))


def _rows(
    comparison: Comparison, *families: Family, further: tuple[str, ...] = (), classifier: str = ""
) -> tuple[Case, ...]:
    rows = ("none", *_present(comparison, further))
    return tuple(Case(name=row, row=row, families=families, classifier=classifier) for row in rows)


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
    """A case for each changed setting."""
    return tuple(
        Case(name=_changed(row, changes), row=row, families=(sizes.sensitivity_attacks,), changes=dict(changes))
        for row, settings in sizes.sensitivity.items()
        for changes in settings
    )


def _changed(row: str, changes: Mapping[str, object]) -> str:
    """`mae_pure steps=5`."""
    return " ".join([row, *(f"{key}={value:.4g}" for key, value in changes.items())])
