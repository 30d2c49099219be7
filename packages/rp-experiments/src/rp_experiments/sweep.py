"""The runs of a sweep, one after another, and their report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rp_models.checkpoint import read_tensors
from rp_models.training import RunFolder

from rp_experiments.recipes.dra_settings import TrainDra
from rp_experiments.recipes.sweep import Sweep, name_of
from rp_experiments.reports import sweep_report
from rp_experiments.statistics import Outcome
from rp_experiments.train_dra import Surroundings as Surroundings
from rp_experiments.train_dra import TrainDraJob, prepared


def run_sweep(
    sweep: Sweep, configs: Mapping[int, Sequence[TrainDra]], out: Path, *, resume: bool, where: Surroundings
) -> None:
    """Train and judge every point with every seed, then write and print the table.

    Args:
        sweep: the grid.
        configs: for each seed the settings of each point, in the grid's order.
        out: the sweep's folder; each run has a folder of its own in it.
        resume: go on with the sweep that is in the folder.
        where: device, cache and the like.

    Raises:
        RunError: if the folder cannot be used.
        DataError: if data and settings do not fit.
        CheckpointError: if a checkpoint is missing or does not fit.
    """
    with prepared(where) as (device, processes):
        folder = RunFolder.open(out, asdict(sweep), resume=resume, processes=processes)
        for seed in sweep.seeds:
            for point, config in zip(sweep.points(), configs[seed], strict=True):
                run = _folder(out, name_of(point), seed)
                job = TrainDraJob.open(config, run, device, processes, resume=True, where=where)
                job.run(workers=where.workers, quiet=True)
        if processes.main:
            sweep_report.write(folder, sweep, configs, _outcomes(sweep, out))


def _folder(out: Path, point: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / "runs" / point / f"seed-{seed}"


def _outcomes(sweep: Sweep, out: Path) -> list[Outcome]:
    """Which images each classifier of the sweep got right."""
    outcomes = []
    for seed in sweep.seeds:
        for point in map(name_of, sweep.points()):
            for method in sweep.method:
                images = read_tensors(_folder(out, point, seed) / "results" / f"{method}.safetensors")
                outcomes.append(Outcome(point, method, seed, images["clean"].numpy(), images["autoattack"].numpy()))
    return outcomes
