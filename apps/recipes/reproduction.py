"""What `reproduce.py` makes at each scale: the plan of all products; importing this does not import torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from reproductions.product import Product
from reproductions.settings import (
    AttackTable,
    Case,
    DescentCheck,
    Networks,
    Representations,
    Strength,
    Timing,
)
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.settings import Method

from recipes import analyze_purifier, compare_purifiers, dra, probe, sweep
from recipes.analysis import Analysis
from recipes.compare_purifiers import Comparison
from recipes.dra_cifar import CIFAR
from recipes.dra_imagenet import IMAGENET
from recipes.dra_settings import TrainDra
from recipes.pretrain_settings import PretrainClassifier
from recipes.reproduction_paper import EPS_L2_IMAGENET, paper_comparison, paper_purifier_analysis

PURIFIERS = ("diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
ROWS = ("none", "noise", "rmae_reconstruction", *PURIFIERS)
METHODS: tuple[Method, ...] = ("standard", "at", "at+dra", "dm-at", "dm-at+dra")
OTHER_NETWORKS = ("larger", "other")  # classifiers behind purifiers that were tuned for another one


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The products of one scale, each made for several items.

    Attributes:
        scale: its name.
        runs: of train_dra.py, by recipe; the first one is analysed.
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
        timing: of the purifiers.
        descent: Theorem J.1.
    """

    scale: str
    runs: Mapping[str, Product]
    noisy: Product
    probe: Product
    analysis: Product
    sparse: Product
    representations: Product
    sweep: Product
    networks: Mapping[str, Product]
    comparisons: Mapping[str, Product]
    norms: Mapping[str, Product]
    black_box: Mapping[str, Product]
    classifiers: Product
    sensitivity: Product
    views: Product
    timing: Product
    descent: Product


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
    descent: Mapping[str, object] = field(default_factory=dict)
    timing_repeats: int = 5
    eps: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by data set and norm
    analysis: Mapping[str, object] = field(default_factory=dict)
    minutes: Mapping[str, float] = field(default_factory=dict)  # of each kind of product


def build(sizes: Sizes) -> Plan:
    """The plan of a scale."""
    cost = sizes.minutes

    def product(job: str, config: object, kind: str, **needs: Product) -> Product:
        return Product(job=job, config=config, minutes=cost.get(kind, 0.0), needs=needs)

    networks = {
        data: product("networks", Networks(comparison=comparison, roles=_roles(comparison)), "networks")
        for data, comparison in sizes.comparisons.items()
    }
    first, comparison = next(iter(sizes.comparisons.items()))
    base = networks[first]

    def table(data: str, cases: tuple[Case, ...], kind: str, **options: object) -> Product:
        of = replace(sizes.comparisons[data], only=())
        of = replace(of, images=sizes.table_images or of.images)
        config = AttackTable(
            comparison=of,
            cases=cases,
            strength=sizes.strength,
            eps=dict(sizes.eps.get(data, {})),
            **options,  # type: ignore[arg-type]
        )
        return product("attacks", config, kind, networks=networks[data])

    runs = {name: product("train_dra", config, "train") for name, config in sizes.runs.items()}
    main, config = next((runs[name], of) for name, of in sizes.runs.items())
    study = product("probe", sizes.probe, "probe")
    noisy = replace(
        config,
        method=("dm-at+dra",),
        alignment=replace(config.alignment, target="encoder", checkpoint="filled in when it is made"),
    )
    noisy_run = product("train_dra", noisy, "noisy", encoder=study)
    analysis = Analysis(run="filled in when it is made", **sizes.analysis)  # type: ignore[arg-type]
    look = product("analyze", analysis, "analyze", run=main)
    return Plan(
        scale=sizes.scale,
        runs=runs,
        noisy=noisy_run,
        probe=study,
        analysis=look,
        sparse=look
        if runs[sizes.sparse_run] is main
        else product("analyze", analysis, "analyze", run=runs[sizes.sparse_run]),
        representations=product(
            "representations",
            Representations(images=analysis.images, attack_steps=analysis.attack_steps, neighbours=analysis.neighbours),
            "representations",
            run=main,
            noisy=noisy_run,
        ),
        sweep=product("sweep", _sweep(sizes), "sweep"),
        networks=networks,
        comparisons={
            data: product("compare", of, "compare", networks=networks[data]) for data, of in sizes.comparisons.items()
        },
        norms={data: table(data, _norms(of), "norms") for data, of in sizes.comparisons.items()},
        black_box={data: table(data, _black_box(of), "black box") for data, of in sizes.comparisons.items()},
        classifiers=table(first, _other_classifiers(comparison), "classifiers", classifiers=dict(sizes.larger)),
        sensitivity=table(first, _sensitivity(sizes), "sensitivity"),
        views=product("views", sizes.views, "views", networks=base),
        timing=product("timing", Timing(comparison=comparison, repeats=sizes.timing_repeats), "timing", networks=base),
        descent=product(
            "descent",
            DescentCheck(comparison=comparison, **sizes.descent),  # type: ignore[arg-type]
            "descent",
            networks=base,
        ),
    )


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
    names = [name for of in choices for name in (of.mae if of.kind.startswith("mae-") else "", of.model)]
    return tuple(dict.fromkeys(["classifier", *filter(None, names)]))


def _norms(comparison: Comparison) -> tuple[Case, ...]:
    return tuple(Case(name=row, row=row, families=("l2", "l1")) for row in ("none", *_present(comparison)))


def _black_box(comparison: Comparison) -> tuple[Case, ...]:
    return tuple(Case(name=row, row=row, families=("black-box",)) for row in ("none", *_present(comparison)))


def _other_classifiers(comparison: Comparison) -> tuple[Case, ...]:
    """Table 8 puts four purifiers before the larger classifier, Table 5 three before the larger and another one."""
    rows = {"larger": _present(comparison)}
    rows["other"] = tuple(row for row in rows["larger"] if row not in ("mae_pure", "maskdit_pure"))
    return tuple(
        Case(name=f"{row}, {name}", row=row, classifier=name, families=("linf", "l2"))
        for name in OTHER_NETWORKS
        for row in ("none", *rows[name])
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


def _one_by_one(**values: tuple[object, ...]) -> tuple[Mapping[str, object], ...]:
    return tuple({name: value} for name, many in values.items() for value in many)


def digits() -> Plan:
    """The embedded digits, 8x8: all items in under an hour on two CPU cores."""
    run = replace(dra.digits(), method=METHODS)
    run = replace(run, evaluation=replace(run.evaluation, images=200, batch_size=200))
    comparison = compare_purifiers.digits()
    comparison = replace(comparison, only=ROWS)
    study = replace(probe.digits(), rivals=tuple(probe.RIVALS), models=run)
    classifier = comparison.pretrain_classifier
    larger = {
        "larger": replace(classifier, standard=replace(classifier.standard, sizes={"depth": 16, "width": 2})),
        "other": replace(
            classifier,
            standard=replace(classifier.standard, network="vit-digits", sizes={}, optimizer="adamw", lr=2e-3),
        ),
    }
    return build(
        Sizes(
            scale="digits",
            comparisons={"digits": comparison},
            runs={"digits": run},
            sparse_run="digits",
            sweep_base="digits",
            sweep_images=150,
            probe=study,
            views=replace(analyze_purifier.digits(), images=100, radii=(0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 2.0), every=4),
            table_images=60,
            strength=Strength(
                steps=15, eot=2, queries=200, query_passes=2, search=3, search_steps=15, fab_steps=20, passes=4
            ),
            sensitivity={
                "mae_pure": _one_by_one(steps=(0, 5, 10, 20, 40), step_size=(0.01, 0.02, 0.08), mask_rate=(0.25, 0.75)),
                "maskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
                "rmaskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
            },
            larger=larger,
            analysis={"sae_epochs": 100, "sae_seeds": (0, 1)},
            minutes={
                **{"train": 11, "probe": 7, "noisy": 2, "analyze": 3, "representations": 0.5, "sweep": 9},
                **{"networks": 14, "compare": 25, "norms": 8, "black box": 7, "classifiers": 9, "sensitivity": 5},
                **{"views": 3, "timing": 0.5, "descent": 0.5},
            },
        )
    )


def smoke() -> Plan:
    """The digits in a minute or two: every part runs, nothing can be concluded; for tests."""
    run = replace(dra.smoke(), method=METHODS)
    comparison = replace(
        compare_purifiers.smoke(), only=("none", "noise", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
    )
    larger = dict.fromkeys(OTHER_NETWORKS, comparison.pretrain_classifier)
    return build(
        Sizes(
            scale="smoke",
            comparisons={"digits": comparison},
            runs={"smoke": run},
            sparse_run="smoke",
            sweep_base="smoke",
            sweep_images=None,
            weights=("0", "1.2"),
            probe=replace(probe.smoke(), models=run),
            views=analyze_purifier.smoke(),
            table_images=8,
            strength=Strength(
                steps=1, eot=1, queries=2, query_passes=1, search=1, search_steps=1, fab_steps=1, passes=2
            ),
            sensitivity={
                "mae_pure": _one_by_one(steps=(0, 1), step_size=(0.02,)),
                "maskdit_pure": _one_by_one(steps=(1,)),
            },
            larger=larger,
            descent={"images": 2, "masks": 2, "steps": (1, 2), "attack_steps": 1},
            timing_repeats=1,
            analysis={"images": 20, "permutations": 5, "attack_steps": 2, "radii": (0.0, 1.0), "sae_k": (8,)}
            | {"sae_epochs": 1, "sae_seeds": (0,), "neighbours": 3},
        )
    )


def fashion_mnist() -> Plan:
    """Fashion-MNIST, 28x28: a day on two CPU cores, an hour or two on a GPU."""
    run = replace(dra.fashion_mnist(), method=METHODS)
    comparison = replace(compare_purifiers.fashion_mnist(), only=ROWS, images=150)
    encoder = EncoderSettings(epochs=10, lr=1e-3, ema_half_life=20_000, crop_padding=2)
    study = replace(
        probe.digits(),
        rivals=tuple(probe.RIVALS),
        models=run,
        noisy_encoder=encoder,
        fine_tuning=replace(encoder, epochs=4, lr=3e-4),
    )
    classifier = comparison.pretrain_classifier
    larger = {
        "larger": replace(classifier, standard=replace(classifier.standard, sizes={"depth": 28, "width": 2})),
        "other": replace(
            classifier,
            standard=replace(classifier.standard, network="preact-resnet18", sizes={}),
        ),
    }
    return build(
        Sizes(
            scale="fashion-mnist",
            comparisons={"fashion-mnist": comparison},
            runs={"fashion-mnist": run},
            sparse_run="fashion-mnist",
            sweep_base="fashion-mnist",
            sweep_images=None,
            probe=study,
            views=analyze_purifier.fashion_mnist(),
            table_images=100,
            strength=Strength(
                steps=20, eot=3, queries=400, query_passes=2, search=3, search_steps=20, fab_steps=20, passes=8
            ),
            sensitivity={
                "mae_pure": _one_by_one(
                    steps=(0, 5, 10, 20, 40), step_size=(0.005, 0.01, 0.04), mask_rate=(0.25, 0.75)
                ),
                "maskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
                "rmaskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
            },
            larger=larger,
            analysis={"images": 1000, "sae_epochs": 20, "sae_seeds": (0, 1)},
            minutes={
                **{"train": 120, "probe": 90, "noisy": 30, "analyze": 30, "representations": 5, "sweep": 150},
                **{"networks": 240, "compare": 400, "norms": 120, "black box": 100, "classifiers": 150},
                **{"sensitivity": 90, "views": 40, "timing": 5, "descent": 5},
            },
        )
    )


def paper() -> Plan:
    """The papers' own models, data sets and budgets: CIFAR-10, CIFAR-100, SVHN, ImageNet; for many GPUs."""
    comparisons = {data: paper_comparison(data) for data in ("cifar10", "cifar100", "svhn", "imagenet")}
    first = dra.RECIPES["cifar10-wrn-28-10-1m"]()
    methods: tuple[Method, ...] = ("standard", "at", "at+dra", "dm-at", "dm-at+dra")
    runs = {"cifar10-wrn-28-10-1m": replace(first, method=methods)}
    runs |= {name: make() for name, make in {**CIFAR, **IMAGENET}.items() if name not in runs}
    runs["imagenet-vit-b16"] = replace(runs["imagenet-vit-b16"], method=("at", "dm-at", "dm-at+dra"))
    runs["cifar10-wrn-34-10"] = replace(runs["cifar10-wrn-34-10"], method=("at", "at+adr", "at+ikl", "at+dra"))
    runs["cifar10-wrn-28-10-20m"] = replace(runs["cifar10-wrn-28-10-20m"], method=("dm-at", "dm-at+ikl", "dm-at+dra"))
    standard = comparisons["cifar10"].pretrain_classifier
    larger = {
        "larger": replace(standard, standard=replace(standard.standard, network="wrn-70-16-swish")),
        "other": replace(standard, standard=replace(standard.standard, network="resnet50-cifar")),
    }
    return build(
        Sizes(
            scale="paper",
            comparisons=comparisons,
            runs=runs,
            sparse_run="imagenet-vit-b16",
            sweep_base="cifar100-wrn-28-10-1m",
            sweep_images=None,
            probe=probe.ProbeStudy(models=first, rivals=tuple(probe.RIVALS), passes=20, noisy_steps=20),
            views=paper_purifier_analysis(),
            table_images=None,
            strength=Strength(),
            sensitivity={
                "mae_pure": _one_by_one(
                    steps=(0, 50, 100, 150, 200), step_size=(0.5 / 255, 2 / 255, 4 / 255), mask_rate=(0.5, 0.75)
                ),
                "maskdit_pure": _one_by_one(steps=(15, 20, 25, 30)),
                "rmaskdit_pure": _one_by_one(steps=(15, 20, 25, 30)),
            },
            larger=larger,
            eps={"imagenet": {"l2": EPS_L2_IMAGENET}},
        )
    )


SCALES: dict[str, Callable[[], Plan]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "paper": paper,
    "smoke": smoke,
}
