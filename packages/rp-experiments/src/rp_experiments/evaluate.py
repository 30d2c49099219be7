"""The work of `evaluate.py`: defence, attacks, report, and the figure of accuracy against the radius.

Processes share the blocks of images: those that `torchrun` started, or on a CPU workers of this one.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import torch
from rp_analysis.plots import RobustnessCurve, plot_robustness_curves
from rp_attacks import Progress, Report
from rp_models.data import DataError
from rp_models.training import Processes, ProgressBar, RunFolder, init_distributed
from rp_models.training.devices import choose_device

from rp_experiments.attacked import Attacked
from rp_experiments.parallel import pool_of
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.standard_networks import standard_classifier


def run(
    config: Evaluation,
    out: Path,
    *,
    resume: bool,
    device: str,
    cache: Path,
    root: Path | None = None,
    workers: int | None = None,
) -> None:
    """Evaluate, print the report, and leave `result.json`, the adversarial images and the figure in the folder.

    Args:
        config: everything that determines the numbers.
        out: the run's folder.
        resume: go on with the evaluation that is there.
        device: where to compute.
        cache: where a standard classifier is kept, which is taken if the settings name none.
        root: folder of the data sets; None for the usual places.
        workers: processes that share the work on a CPU; None for one a core behind a purifier, and this one without.

    Raises:
        CheckpointError: if a checkpoint cannot be read.
        RunError: if the folder cannot be used.
        DataError: if the classifier does not fit the data set, or there is no such device.
    """
    if config.suite in ("bpda-eot20", "purifier") and not config.defended:
        raise DataError(f"suite {config.suite} replaces a purifier's backward pass; put one in front with --defended")
    where = choose_device(device)
    with init_distributed(where) as processes:
        model = config.model or _standard(config, cache, where, root, processes)
        attacked = Attacked.build(config, model, where, root)
        folder = RunFolder.open(out, config.resolved(), resume=resume, processes=processes)
        if where.type != "cpu" or processes.count > 1:
            workers = 1
        elif workers is None:
            workers = torch.get_num_threads() if config.defended and attacked.blocks > 1 else 1
        work = _Work(config, model, str(where), root, folder.path / "evaluation")
        shared = _with_workers(attacked, work, workers) if workers > 1 else _together(attacked, work, processes)
        if shared is not None:
            _leave(*shared, config, folder)


def _standard(config: Evaluation, cache: Path, device: torch.device, root: Path | None, processes: Processes) -> str:
    """The checkpoint of the data set's standard classifier, trained by the first process."""

    def take() -> str:
        return standard_classifier(config.data, cache=cache, device=device, root=root)

    return processes.rank_zero_first(take) or take()


class _Work(NamedTuple):
    """What a process needs in order to do its share."""

    config: Evaluation
    model: str
    device: str
    root: Path | None
    folder: Path

    def attacked(self) -> Attacked:
        return Attacked.build(self.config, self.model, torch.device(self.device), self.root)


_Judged = tuple[Report, RobustnessCurve | None]


def _together(attacked: Attacked, work: _Work, processes: Processes) -> _Judged | None:
    """The evaluation by this process, and by others like it; None in all but the first."""
    bar = _Bar(attacked, work.folder) if processes.main else None
    if processes.count > 1:
        attacked.report(work.folder, shard=(processes.rank, processes.count), progress=bar)
        processes.wait()
    if not processes.main:
        return None
    return attacked.report(work.folder, progress=bar), attacked.curve()


def _with_workers(attacked: Attacked, work: _Work, workers: int) -> _Judged:
    """The evaluation by this process and workers of its own, which draw the curve while this one looks for findings."""
    workers = min(workers, max(attacked.blocks, 2))
    threads = max(torch.get_num_threads() // workers, 1)
    torch.set_num_threads(threads)
    with pool_of(workers - 1, threads) as pool:
        shares = [pool.submit(_share, work, (rank, workers)) for rank in range(1, workers)]
        curve = pool.submit(_curve, work)
        bar = _Bar(attacked, work.folder)
        attacked.report(work.folder, shard=(0, workers), progress=bar)
        for share in shares:
            share.result()
        return attacked.report(work.folder, progress=bar), curve.result()


def _share(work: _Work, shard: tuple[int, int]) -> None:
    """A worker's part of the blocks."""
    work.attacked().report(work.folder, shard=shard)


def _curve(work: _Work) -> RobustnessCurve | None:
    """The curve, drawn by a worker."""
    return work.attacked().curve()


class _Bar:
    """Shows the blocks that all processes have finished, until all are."""

    def __init__(self, attacked: Attacked, folder: Path) -> None:
        self.folder, self.probes = folder, attacked.config.budget.probes
        self.total, self.complete = attacked.stages * attacked.blocks, False
        self.bar = ProgressBar()
        self.bar.start("evaluate", self.total, self._done())

    def _done(self) -> int:
        return len(list(self.folder.glob("*/block-*.npz")))

    def __call__(self, event: Progress) -> None:
        if self.complete:  # blocks that are gathered from the folder come by a second time
            return
        done = self._done()
        self.bar.advance(done, {f"{event.stage}, standing": event.standing / max(event.images, 1)})
        if done == self.total:
            self.complete = True
            self.bar.finish()
            if self.probes:
                print(f"looking for signs of masked gradients on {self.probes} images", file=sys.stderr, flush=True)


def _leave(report: Report, curve: RobustnessCurve | None, config: Evaluation, folder: RunFolder) -> None:
    """Write `result.json` and the figure, and print the report."""
    if curve is not None:
        plot_robustness_curves({config.model_name: curve}).save(folder.path / "figures" / "accuracy_over_eps")
    result = {
        "data": config.data,
        "split": "test",
        "model": config.model or config.model_name,
        **report.to_json(),
        "environment": folder.read_json("environment.json"),
    }
    folder.write_json("result.json", result)
    front = config.purifier.kind if config.defended else "none"
    print(f"{config.data} test split, {config.model_name}, purifier {front}, suite {config.suite}")
    print(report)
    print(f"\neverything else is in {folder.path}/")
