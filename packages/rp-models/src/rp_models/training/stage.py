"""One training stage of a run: a trainer, its state file in the run's folder, and its lines in `metrics.jsonl`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rp_models.checkpoint import save_tensors
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.loop import Interrupted, Metrics, TrainingState, fit
from rp_models.training.progress import Progress
from rp_models.training.run import RunFolder
from rp_models.training.seeding import seeded


class Trainer(Protocol):
    """What a stage trains: `state` changes with each call of `step`."""

    state: TrainingState

    def step(self, step: int) -> Metrics:
        """Do training step number `step`, counted from 0, and return its metrics, among them "loss"."""
        ...


def train_stage(
    trainer: Trainer,
    *,
    stage: str,
    steps: int,
    folder: RunFolder,
    identity: Mapping[str, Any],
    seed: int,
    progress: Progress | None = None,
    log_every: int = 1,
    save_seconds: float = 20.0,
    save_every: int | None = None,
    after_step: Callable[[int], Metrics] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train to the end, from wherever an earlier session of the run stopped.

    `identity` holds the settings that the training depends on, JSON values; `seed` is of dropout and whatever else
    torch draws by itself; `after_step` is called with the number of steps done and returns further metrics, e.g. of a
    validation. Of several processes the first one writes. Raises CheckpointError if the state on disk is damaged or of
    another training; Interrupted if the loss stops being a number: that step's batch is in `failed/`, if the trainer
    can tell.
    """
    watch = _Watch(stage, steps, folder, progress, log_every, writes=processes.main)

    def step(number: int) -> Metrics:
        with seeded(seed, stage, number, processes.rank):
            metrics = dict(trainer.step(number))
        return metrics | dict(after_step(number + 1)) if after_step else metrics

    try:
        fit(
            step,
            trainer.state,
            steps=steps,
            path=state_path(folder, stage),
            identity={"stage": stage, "identity": dict(identity)},
            log=watch.log,
            resumed=watch.resumed,
            save_seconds=save_seconds,
            save_every=save_every,
            processes=processes,
        )
    except Interrupted as error:
        raise _with_evidence(error, trainer, folder, stage, processes.main) from error
    finally:
        watch.finish()
    processes.wait()


@dataclass(frozen=True, slots=True)
class _Watch:
    """Who hears of a stage: the run's metrics and the progress bar, both in the first process only."""

    stage: str
    steps: int
    folder: RunFolder
    progress: Progress | None
    log_every: int
    writes: bool

    def resumed(self, done: int) -> None:
        """The stage begins after `done` steps of an earlier session."""
        if self.writes:
            self.folder.forget(self.stage, after=done)
            if self.progress:
                self.progress.start(self.stage, self.steps, done)

    def log(self, done: int, metrics: Metrics) -> None:
        """A step was done; a line is written now and then, and for every step that was validated."""
        if not self.writes:
            return
        judged = any(name.startswith("validation") for name in metrics)
        if done % self.log_every == 0 or done == self.steps or judged:
            self.folder.log(self.stage, done, metrics)
        if self.progress:
            self.progress.advance(done, metrics)

    def finish(self) -> None:
        """The stage is done, or stopped by an error."""
        if self.writes and self.progress:
            self.progress.finish()


def _with_evidence(error: Interrupted, trainer: Trainer, folder: RunFolder, stage: str, main: bool) -> Interrupted:
    """The error, after the batch that caused it is saved; trainers that have one offer it as `evidence(step)`."""
    evidence = getattr(trainer, "evidence", None)
    if evidence is None:
        return error
    path = folder.path / "failed" / f"{stage}-step-{error.step + 1}.safetensors"
    if main:
        save_tensors(evidence(error.step), path, {"stage": stage, "step": error.step + 1})
    return Interrupted(f"{error}; the batch is in {path}", step=error.step)


def state_path(folder: RunFolder, stage: str) -> Path:
    """Where a stage keeps its training state."""
    return folder.path / "checkpoints" / f"{stage}.state.safetensors"
