"""How each artifact is made: by the app's own job, in the artifact's folder, going on where it stopped."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import rp_models
from rp_analysis.plots import Plot, Sensitivity, plot_sensitivity
from rp_models.checkpoint import read_tensors
from rp_models.training import RunFolder

from rp_experiments.analyze import analyze
from rp_experiments.analyze_purifier import analyze_purifier
from rp_experiments.artifacts import Maker
from rp_experiments.compare_purifiers import ComparisonJob, compare_purifiers
from rp_experiments.evaluate import evaluate
from rp_experiments.papers import attack_table, purifier_checks
from rp_experiments.papers.items.looks import changed_one
from rp_experiments.papers.pilot import chosen, pilot, settled, with_values
from rp_experiments.papers.representations import represent
from rp_experiments.papers.settings import AttackTable, DescentCheck, Networks, Timing
from rp_experiments.probe import probe
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.results import limits
from rp_experiments.run import Run
from rp_experiments.sweep import run_sweep
from rp_experiments.train_dra import train_dra
from rp_experiments.zoo_similarity import compare_models

Needs = Mapping[str, Path]


def _train_dra(config: TrainDra, run: Run, needs: Needs) -> None:
    """A run of `train_dra.py`; beside it which images each classifier got right."""
    if "encoder" in needs:
        checkpoint = str(needs["encoder"] / "checkpoints" / "noisy-encoder.safetensors")
        config = replace(config, alignment=replace(config.alignment, checkpoint=checkpoint))
    train_dra(config, run, quiet=True)
    run.first(lambda: _judged(config, run))


def _judged(config: TrainDra, run: Run) -> None:
    """Which images each classifier of a run got right, and the run's diffusion model where it was given."""
    right = {}
    for method in config.method:
        tensors = read_tensors(run.path / "results" / f"{method}.safetensors")
        right[method] = {kind: tensors[kind].int().tolist() for kind in ("clean", "autoattack")}
    run.folder.write_json("images.json", right)
    given, network = config.diffusion_model, run.path / "checkpoints" / "edm.safetensors"
    if given and config.needs_diffusion_model and not network.exists():  # analyses look for it in the run
        rp_models.save(rp_models.load(given), network)


def _networks(config: Networks, run: Run, needs: Needs) -> None:
    """The networks of a comparison, trained or found in the cache."""
    values = {role: chosen(folder) for role, folder in needs.items() if role.startswith("finetune_")}
    networks, folder = PurifierNetworks(with_values(config.comparison, values), run.claim(config)), run.folder
    paths = {role: _absolute(networks.path(role)) for role in config.roles}
    folders = {role: RunFolder(Path(path).parent.parent) for role, path in paths.items() if Path(path).exists()}
    # what their training took, here or in the call that left them in the cache
    folder.write_json("stages.json", {role: sum(one.seconds().values()) for role, one in folders.items()})
    setting = {"data": config.comparison.data}
    found = {"setting": setting, "paths": paths, "weights": networks.digests(), "finetuning": values}
    folder.write_json("result.json", found)


def _absolute(checkpoint: str) -> str:
    """A file's whole path; the name of a checkpoint that comes with rp-models as it is."""
    return str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint


def _attacks(config: AttackTable, run: Run, needs: Needs) -> None:
    config = replace(config, comparison=settled(config.comparison, needs["networks"]))
    plot = _sensitivity(attack_table.attack(config, run.claim(config))["rows"])
    if plot is not None:
        plot.save(run.path / "figures" / "sensitivity", formats=("png",))


def _sensitivity(rows: Mapping[str, Any]) -> Plot | None:
    """Accuracy over MAE-Pure's settings, for those that have several values."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for setting, value, case in changed_one(rows):
        clean, worst = (limits(cell)["estimate"] for cell in (case["clean"], case["balls"]["linf"]["worst"]))
        found.setdefault(setting, []).append((value, clean, worst))
    several = {name: zip(*sorted(points), strict=True) for name, points in found.items() if len(points) > 1}
    lines = {name: Sensitivity(*map(list, columns)) for name, columns in several.items()}
    return plot_sensitivity(lines) if lines else None


def _views(config: PurifierAnalysis, run: Run, needs: Needs) -> None:
    """`analyze_purifier.py` with the networks that the comparison has."""
    paths = RunFolder(needs["networks"]).read_json("result.json")["paths"]
    roles = ("mae", "rmae", "maskdit", "rmaskdit", "classifier")
    config = replace(config, **{role: paths[role] for role in roles if role in paths})
    analyze_purifier(config, run)


def _checked(
    check: Callable[[ComparisonJob, Any], dict[str, Any]], config: Timing | DescentCheck, run: Run, needs: Needs
) -> None:
    """What is seen on a comparison's purifiers."""
    config = replace(config, comparison=settled(config.comparison, needs["networks"]))
    run.folder.write_json("result.json", check(ComparisonJob(config.comparison, run.claim(config)), config))


MAKERS: dict[str, Maker] = {
    "train_dra": _train_dra,
    "analyze": lambda config, run, needs: analyze(replace(config, run=str(needs["run"])), run),
    "zoo": lambda config, run, needs: compare_models(config.analysis, run, config.models),
    "evaluate": lambda config, run, needs: evaluate(config, run),
    "probe": lambda config, run, needs: probe(config, run),
    "sweep": lambda config, run, needs: run_sweep(config, run),
    "networks": _networks,
    "pilot": lambda config, run, needs: pilot(config, run),
    "compare": lambda config, run, needs: compare_purifiers(settled(config, needs["networks"]), run),
    "attacks": _attacks,
    "views": _views,
    "timing": lambda config, run, needs: _checked(purifier_checks.timing, config, run, needs),
    "descent": lambda config, run, needs: _checked(purifier_checks.descent, config, run, needs),
    "representations": lambda config, run, needs: represent(config, run, needs["run"], needs["noisy"]),
}
