"""The runs of a sweep, one after another, and their report."""

from functools import partial
from pathlib import Path
from typing import Any

from rp_models.checkpoint import read_tensors

from rp_experiments.jobs import Cluster, Job
from rp_experiments.launchers import choose_jobs
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.sweep import Sweep, configurations
from rp_experiments.reports import sweep_report
from rp_experiments.run import Run, open_run
from rp_experiments.statistics import Answers
from rp_experiments.train_dra import train_dra


def run_sweep(
    sweep: Sweep, run: Run, *, workers: int = 0, cluster: Cluster | None = None, device: str = "auto", ranks: int = 1
) -> None:
    """Train and judge every point with every seed, each in a folder of its own, then write and print the table.

    The runs are jobs of the cluster, of so many processes each where their work is shared.
    """
    run.claim(sweep)
    configs = configurations(sweep)
    runs = {
        f"{point}-seed-{seed}": (config, _folder(run.path, point, seed))
        for seed in sweep.seeds
        for point, config in zip(sweep.points(), configs[seed], strict=True)
    }
    if cluster is None or cluster.launcher == "here":
        for config, folder in runs.values():
            train_dra(config, run.inside(folder), workers=workers, quiet=True)
    else:
        surroundings = {"device": device, "cache": run.cache.resolve(), "root": run.root and run.root.resolve()}
        jobs = [
            Job(name=name, work=partial(_train, config, folder.resolve(), surroundings), ranks=ranks)
            for name, (config, folder) in runs.items()
        ]
        done = choose_jobs(cluster, run.path, lambda name: (runs[name][1] / "result.json").is_file())
        if failed := done.run([job for job in jobs if not done.done(job.name)]):
            raise ValueError("; ".join(failed.values()))
    if run.main:
        sweep_report.write(run.folder, sweep, configs, _answers(sweep, run.path))


def _train(config: TrainDra, folder: Path, surroundings: dict[str, Any]) -> None:
    """The job of one run."""
    with open_run(folder, resume=True, quiet=True, **surroundings) as run:
        train_dra(config, run, quiet=True)


def _folder(out: Path, point: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / "runs" / point / f"seed-{seed}"


def _answers(sweep: Sweep, out: Path) -> list[Answers]:
    """Which images each classifier of the sweep got right."""
    answers = []
    for seed in sweep.seeds:
        for point in sweep.points():
            for method in sweep.method:
                images = read_tensors(_folder(out, point, seed) / "results" / f"{method}.safetensors")
                answers.append(Answers(point, method, seed, images["clean"].numpy(), images["autoattack"].numpy()))
    return answers
