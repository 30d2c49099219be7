"""Evaluations of trained classifiers, beside the training of the next ones where a machine has cores to spare."""

import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp_attacks import Progress as EvaluationProgress
from rp_dra.settings import Method
from rp_models.training import RunFolder

from rp_experiments.parallel import pool_of
from rp_experiments.recipes.dra_settings import TrainDra

if TYPE_CHECKING:
    from rp_experiments.train_dra import TrainDraJob

CONTROLS = 2  # stages of an evaluation beside its attacks: clean images and random noise


class Evaluations:
    """The evaluations of one run; a method whose result is in the run folder is not evaluated again.

    Args:
        job: of the run.
        workers: processes; 0 evaluates in this one.
    """

    def __init__(self, job: "TrainDraJob", workers: int) -> None:
        self.job, self.seconds = job, dict[Method, float]()
        self.futures: dict[Method, Future[float]] = {}
        settings = job.config.evaluation
        self.blocks = (CONTROLS + len(settings.attacks)) * -(-len(job.test) // settings.batch_size)  # of one method
        self.pool = pool_of(workers) if workers else None

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.pool:
            self.pool.__exit__(*error)

    def start(self, method: Method) -> None:
        """Evaluate a method's classifier, now or in a worker."""
        if (self.job.folder.path / "results" / f"{method}.json").exists():
            return
        if self.pool is None:
            self.seconds[method] = self._here(method)
            return
        job = self.job
        self.futures[method] = self.pool.submit(
            evaluate_method, job.config, job.folder.path, str(job.device), job.cache, job.root, method
        )

    def finish(self) -> dict[Method, float]:
        """Wait for the workers, and give the seconds of each evaluation of this session."""
        pending = set(self.futures.values())
        if pending:
            self.job.progress.start("evaluate", len(self.futures) * self.blocks, self._blocks())
            while pending:
                pending = wait(pending, timeout=0.5).not_done
                self.job.progress.advance(self._blocks(), {"classifiers left": len(pending)})
            self.job.progress.finish()
        return self.seconds | {method: future.result() for method, future in self.futures.items()}

    def _blocks(self) -> int:
        """Finished blocks of the evaluations in the workers."""
        folders = (self.job.folder.path / "evaluation" / method for method in self.futures)
        return sum(len(list(folder.glob("*/block-*.npz"))) for folder in folders)

    def _here(self, method: Method) -> float:
        """Evaluate in this process, with a progress bar."""
        start, done = time.monotonic(), dict[str, int]()
        self.job.progress.start(f"evaluate {method}", self.blocks, 0)

        def watch(event: EvaluationProgress) -> None:
            # several processes' blocks are gathered at the end: those of this one come by a second time
            done[event.stage] = max(event.block, done.get(event.stage, 0))
            self.job.progress.advance(sum(done.values()), {f"{event.stage}, standing": event.standing / event.images})

        self.job.judge(method, watch)
        self.job.processes.wait()
        self.job.progress.finish()
        return time.monotonic() - start


def evaluate_method(
    config: TrainDra, folder: Path, device: str, cache: Path, root: Path | None, method: Method
) -> float:
    """What a worker does: evaluate one method of a run; gives the seconds that it took."""
    import torch

    from rp_experiments.train_dra import TrainDraJob

    if config.threads:
        torch.set_num_threads(config.threads)
    start = time.monotonic()
    TrainDraJob(config, RunFolder(folder), torch.device(device), cache, root=root).judge(method)
    return time.monotonic() - start
