"""How each product is made: by the app's own job, in the product's folder, going on where it stopped."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_analysis.plots import Plot, Sensitivity, StrengthPoint, plot_sensitivity, plot_strength_sweep
from rp_models.checkpoint import read_tensors
from rp_models.training import ProgressBar, RunFolder
from rp_models.training.devices import choose_device, describe_device

from rp_experiments.analyze import analyze
from rp_experiments.analyze_purifier import analyze_purifier
from rp_experiments.artifacts import DONE, Product, Shelf
from rp_experiments.compare_purifiers import ComparisonJob, compare_purifiers
from rp_experiments.papers.attack_table import AttackTableJob
from rp_experiments.papers.purifier_checks import descent, timing
from rp_experiments.papers.representations import RepresentationsJob
from rp_experiments.probe import probe
from rp_experiments.purifier_networks import PurifierNetworks
from rp_experiments.recipes.sweep import configurations
from rp_experiments.run import Run
from rp_experiments.sweep import run_sweep
from rp_experiments.train_dra import train_dra


@dataclass(frozen=True)
class Where:
    """What making needs that changes no number.

    Attributes:
        device: where to compute.
        cache: networks that other runs made.
        root: folder of the data sets; None for the usual places.
    """

    device: str
    cache: Path
    root: Path | None = None


@dataclass(frozen=True)
class Making:
    """One product in the making.

    Attributes:
        product: what is made.
        folder: of the product.
        needs: folders of what it needs, by role.
        where: device, cache and data.
    """

    product: Product
    folder: Path
    needs: Mapping[str, Path]
    where: Where

    def run_folder(self) -> RunFolder:
        """The folder, claimed for this configuration."""
        return RunFolder.open(self.folder, asdict(self.product.config), resume=True)

    @property
    def run(self) -> Run:
        """The folder as a run, to be claimed by the job."""
        where = self.where
        device, folder = choose_device(where.device), RunFolder(self.folder)
        return Run(
            folder=folder, device=device, cache=where.cache, root=where.root, resume=True, progress=ProgressBar()
        )


def make(product: Product, shelf: Shelf, where: Where) -> None:
    """Make one product whose needs are there, and mark it as finished.

    Raises:
        CheckpointError, DataError, RunError, Interrupted, OSError: if it cannot be made.
    """
    device, start = choose_device(where.device), time.monotonic()
    needs = {role: shelf.folder(need) for role, need in product.needs.items()}
    MAKERS[product.job](Making(product, shelf.folder(product), needs, where))
    folder = RunFolder(shelf.folder(product))
    known = folder.seconds()
    folder.write_json(
        DONE,
        {
            "job": product.job,
            "config": asdict(product.config),
            "needs": {role: need.name for role, need in product.needs.items()},
            "seconds": round(sum(known.values()) or time.monotonic() - start, 1),
            "device": describe_device(device),
            "environment": folder.read_json("environment.json"),
        },
    )


def _train_dra(making: Making) -> None:
    """A run of `train_dra.py`; beside it which images each classifier got right."""
    config = making.product.config
    if "encoder" in making.needs:
        checkpoint = str(making.needs["encoder"] / "checkpoints" / "noisy-encoder.safetensors")
        config = replace(config, alignment=replace(config.alignment, checkpoint=checkpoint))
    train_dra(config, making.run, quiet=True)
    folder = RunFolder(making.folder)
    right = {}
    for method in config.method:
        tensors = read_tensors(making.folder / "results" / f"{method}.safetensors")
        right[method] = {kind: tensors[kind].int().tolist() for kind in ("clean", "autoattack")}
    folder.write_json("images.json", right)
    network = making.folder / "checkpoints" / "edm.safetensors"
    if config.needs_diffusion_model and not network.exists():  # a given one: analyses look for it in the run
        rp_models.save(rp_models.load(config.diffusion_model), network)


def _analyze(making: Making) -> None:
    config = replace(making.product.config, run=str(making.needs["run"]))
    analyze(config, making.run)


def _probe(making: Making) -> None:
    probe(making.product.config, making.run)


def _sweep(making: Making) -> None:
    config = making.product.config
    run_sweep(config, configurations(config), making.run)
    rows = RunFolder(making.folder).read_json("result.json")["rows"]
    points = [
        StrengthPoint(float(weight), row["clean"]["estimate"], row["autoattack"]["estimate"])
        for weight, row in zip(config.grid["alignment.weight"], rows, strict=True)
    ]
    baseline = next((point for point in points if point.strength == 0), None)
    plot = plot_strength_sweep([point for point in points if point.strength > 0], baseline)
    plot.save(making.folder / "figures" / "weights", formats=("png",))


def _networks(making: Making) -> None:
    """The networks of a comparison, trained or found in the cache."""
    config, run = making.product.config, making.run.claim(making.product.config)
    networks, folder = PurifierNetworks(config.comparison, run), run.folder
    paths = {role: _absolute(networks.path(role)) for role in config.roles}
    folders = {role: RunFolder(Path(path).parent.parent) for role, path in paths.items() if Path(path).exists()}
    # what their training took, here or in the call that left them in the cache
    folder.write_json("stages.json", {role: sum(one.seconds().values()) for role, one in folders.items()})
    setting = {"data": config.comparison.data}
    folder.write_json("result.json", {"setting": setting, "paths": paths, "weights": networks.digests()})


def _absolute(checkpoint: str) -> str:
    """A file's whole path; the name of a checkpoint that comes with rp-models as it is."""
    return str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint


def _compare(making: Making) -> None:
    compare_purifiers(making.product.config, making.run)


def _attacks(making: Making) -> None:
    run = making.run.claim(making.product.config)
    AttackTableJob(making.product.config, run).run()
    plot = _sensitivity(run.folder.read_json("result.json")["rows"])
    if plot is not None:
        plot.save(run.path / "figures" / "sensitivity", formats=("png",))


def _views(making: Making) -> None:
    """`analyze_purifier.py` with the networks that the comparison has."""
    paths = RunFolder(making.needs["networks"]).read_json("result.json")["paths"]
    roles = ("mae", "rmae", "maskdit", "rmaskdit", "classifier")
    config = replace(making.product.config, **{role: paths[role] for role in roles if role in paths})
    analyze_purifier(config, making.run)


def _timing(making: Making) -> None:
    job = _comparison(making)
    job.run.folder.write_json("result.json", timing(job, making.product.config))


def _descent(making: Making) -> None:
    job = _comparison(making)
    job.run.folder.write_json("result.json", descent(job, making.product.config))


def _comparison(making: Making) -> ComparisonJob:
    return ComparisonJob(making.product.config.comparison, making.run.claim(making.product.config))


def _representations(making: Making) -> None:
    run, noisy = making.needs["run"], making.needs["noisy"]
    device = choose_device(making.where.device)
    RepresentationsJob(making.product.config, making.run_folder(), run, noisy, device, making.where.root).run()


def _sensitivity(rows: Mapping[str, Any]) -> Plot | None:
    """Accuracy over MAE-Pure's settings, for those that have several values."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for name, case in rows.items():
        row, _, change = name.partition(" ")
        setting, _, value = change.partition("=")
        if row == "mae_pure" and value:
            worst = case["balls"]["linf"]["worst"]["estimate"]
            found.setdefault(setting.replace("_", " "), []).append((float(value), case["clean"]["estimate"], worst))
    several = {name: sorted(points) for name, points in found.items() if len(points) > 1}
    if not several:
        return None
    return plot_sensitivity(
        {name: Sensitivity(*map(list, zip(*points, strict=True))) for name, points in several.items()}
    )


MAKERS: dict[str, Callable[[Making], None]] = {
    "train_dra": _train_dra,
    "analyze": _analyze,
    "probe": _probe,
    "sweep": _sweep,
    "networks": _networks,
    "compare": _compare,
    "attacks": _attacks,
    "views": _views,
    "timing": _timing,
    "descent": _descent,
    "representations": _representations,
}


def use_one_thread() -> None:
    """For processes that work side by side on a CPU."""
    torch.set_num_threads(1)
