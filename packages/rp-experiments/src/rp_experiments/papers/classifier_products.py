"""What the DRA paper's items are made from; importing this does not import torch."""

from dataclasses import replace
from typing import Any

from rp_dra.settings import Method

from rp_experiments.artifacts import Artifact
from rp_experiments.papers.settings import Representations, Zoo
from rp_experiments.papers.sizes import Sizes, product
from rp_experiments.recipes import sweep
from rp_experiments.recipes.analysis import Analysis, ZooComparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.table import changed

OTHER_METHODS: tuple[Method, ...] = ("at+adr", "at+ikl", "dm-at+ikl")  # of Table 2 of the DRA paper


def classifier_products(sizes: Sizes) -> dict[str, Any]:
    """What the DRA paper's items are made from, by field of the plan."""
    runs = {name: product(sizes, "train_dra", config) for name, config in sizes.runs.items()}
    name, config = next(iter(sizes.runs.items()))
    study = product(sizes, "probe", sizes.probe)
    noisy = replace(
        config,
        method=("dm-at+dra",),
        alignment=replace(config.alignment, target="encoder", checkpoint="filled in when it is made"),
    )
    noisy_run = product(sizes, "train_dra", noisy, kind="noisy", encoder=study)
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
        "adversarial": {data: product(sizes, "train_dra", run) for data, run in sizes.adversarial.items()},
        "noisy": noisy_run,
        "probe": study,
        "analysis": product(sizes, "analyze", analysis, run=runs[name]),
        "sparse": product(sizes, "analyze", sparse, run=runs.get(sizes.sparse_run, runs[name])),
        "representations": product(sizes, "representations", features, run=runs[name], noisy=noisy_run),
        "sweep": product(sizes, "sweep", _sweep(sizes)),
    }


def _zoo(sizes: Sizes, run: TrainDra, analysis: Analysis) -> dict[str, Artifact]:
    """RobustBench's models of a run's data set beside its diffusion model."""
    if not sizes.zoo:
        return {}
    models = ZooComparison(models=sizes.zoo, data=run.data, edm=run.diffusion_model)  # type: ignore[arg-type]
    return {run.data: product(sizes, "zoo", Zoo(models=models, analysis=analysis))}


def _rivals(sizes: Sizes, analysis: Analysis) -> dict[str, Artifact]:
    """Published classifiers under AutoAttack on the images that the purifiers meet, each image under every attack."""

    def one(data: str, model: str) -> Evaluation:
        of = sizes.comparisons[data]
        return Evaluation(
            data=data, model=model, suite="autoattack", images=of.images, eps=of.budget.eps, compute=analysis.compute
        )

    return {
        f"{name}, {data}": product(sizes, "evaluate", one(data, model))
        for name, models in sizes.rivals.items()
        for data, model in models.items()
        if data in sizes.comparisons
    }


def _others(sizes: Sizes, name: str, config: TrainDra) -> dict[str, Artifact]:
    """A run beside the first one, with the methods that stand in the paper's table and in no run of this scale."""
    present = {method for run in sizes.runs.values() for method in run.method}
    methods = tuple(method for method in OTHER_METHODS if method not in present)
    return {name: product(sizes, "train_dra", replace(config, method=methods), kind="others")} if methods else {}


def _sweep(sizes: Sizes) -> sweep.Sweep:
    """Over the alignment's weight, as Fig. 8 of the DRA paper has it; 0 is DM-AT."""
    grid = {"alignment.weight": sizes.weights}
    if sizes.sweep_images is not None:
        grid = {"evaluation.images": (str(sizes.sweep_images),), **grid}
    return sweep.Sweep(base=sizes.sweep_base or next(iter(sizes.runs)), method=("dm-at+dra",), grid=grid)
