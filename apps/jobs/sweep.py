"""The runs of a sweep, one after another, and their report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from recipes.dra_settings import TrainDra
from recipes.sweep import Sweep, name_of
from rp_models.checkpoint import read_tensors
from rp_models.training import RunFolder

from jobs import sweep_report
from jobs.sweep_statistics import Outcome
from jobs.train_dra import train_dra


class Surroundings(NamedTuple):
    """What a sweep needs that changes no number: device, cache, data folder, evaluating processes."""

    device: str
    cache: Path
    root: Path | None
    workers: int


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
    from rp_models.training import joined

    from jobs.device import choose_device

    with joined(choose_device(where.device)) as processes:
        processes.first(lambda: RunFolder.open(out, asdict(sweep), resume=resume))
        main = processes.main
    folder = RunFolder(out)
    outcomes = []
    for seed in sweep.seeds:
        for point, config in zip(sweep.points(), configs[seed], strict=True):
            run = out / "runs" / name_of(point) / f"seed-{seed}"
            train_dra(
                config,
                run,
                resume=True,
                device=where.device,
                cache=where.cache,
                root=where.root,
                workers=where.workers,
                quiet=True,
            )
            outcomes += [_outcome(run, name_of(point), method, seed) for method in sweep.method]
    if main:
        sweep_report.write(folder, sweep, configs, outcomes)


def _outcome(run: Path, point: str, method: str, seed: int) -> Outcome:
    """Which images a run's classifier got right."""
    images = read_tensors(run / "results" / f"{method}.safetensors")
    return Outcome(point, method, seed, images["clean"].numpy(), images["autoattack"].numpy())
