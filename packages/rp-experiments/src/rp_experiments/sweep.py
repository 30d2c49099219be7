"""The runs of a sweep, one after another, and their report."""

from pathlib import Path

from rp_models.checkpoint import read_tensors

from rp_experiments.recipes.sweep import Sweep, configurations, name_of
from rp_experiments.reports import sweep_report
from rp_experiments.run import Run
from rp_experiments.statistics import Answers
from rp_experiments.train_dra import train_dra


def run_sweep(sweep: Sweep, run: Run, *, workers: int = 0) -> None:
    """Train and judge every point with every seed, each in a folder of its own, then write and print the table."""
    run.claim(sweep)
    configs = configurations(sweep)
    for seed in sweep.seeds:
        for point, config in zip(sweep.points(), configs[seed], strict=True):
            train_dra(config, run.inside(_folder(run.path, name_of(point), seed)), workers=workers, quiet=True)
    if run.main:
        sweep_report.write(run.folder, sweep, configs, _answers(sweep, run.path))


def _folder(out: Path, point: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / "runs" / point / f"seed-{seed}"


def _answers(sweep: Sweep, out: Path) -> list[Answers]:
    """Which images each classifier of the sweep got right."""
    answers = []
    for seed in sweep.seeds:
        for point in map(name_of, sweep.points()):
            for method in sweep.method:
                images = read_tensors(_folder(out, point, seed) / "results" / f"{method}.safetensors")
                answers.append(Answers(point, method, seed, images["clean"].numpy(), images["autoattack"].numpy()))
    return answers
