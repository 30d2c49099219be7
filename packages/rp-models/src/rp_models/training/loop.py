"""The training loop: a function of one step in, metrics out; interrupted at any moment, it goes on bit for bit.

Everything that changes during training stands in one file, replaced as a whole: modules, optimiser and the step.
Batches, noise, learning rates and the seed of torch's own generators are functions of the step and need no state.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.checkpoint import CheckpointError, load_state, read_metadata, read_tensors, save_tensors
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.preemption import Preempted, asked_to_stop, stoppable

Metrics = Mapping[str, float]
_SHARE, _LONGEST = 0.1, 600.0  # of the time so far, and in seconds: what a kill may cost


class Interrupted(RuntimeError):
    """Training stopped because its loss is not a number any more.

    Attributes:
        step: number of the step, from 0.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True)
class TrainingState:
    """What training changes: modules by name (model, average, head, ...) and the optimiser over their parameters."""

    modules: Mapping[str, nn.Module]
    optimizer: Optimizer

    def copied(self) -> dict[str, Tensor]:
        """Everything as it is now, in the computer's memory."""
        tensors = {
            f"module.{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        for slot, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{slot}.{key}": torch.as_tensor(v) for key, v in values.items() if v is not None}
        # copies, since entries may share memory (buffers of an average), which the format does not allow
        return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}

    def save(self, path: Path, step: int, identity: Mapping[str, Any]) -> None:
        """Write everything to one file, complete or not at all; `restore` refuses a file of another identity."""
        save_tensors(self.copied(), path, {"step": step, **identity})

    def restore(self, path: Path, identity: Mapping[str, Any]) -> int:
        """Take everything back from a file, and return the number of steps done.

        Raises CheckpointError if the file is damaged or of another training.
        """
        header = read_metadata(path)
        step = header.pop("step", None)
        if header != json.loads(json.dumps(dict(identity))) or not isinstance(step, int):
            raise CheckpointError(f"{path}: the training state of something else; name another folder with --out")
        tensors = read_tensors(path)
        for name, module in self.modules.items():
            load_state(module, _below(tensors, f"module.{name}."), origin=str(path))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, "optimizer.").items():
            slot, _, entry = key.partition(".")
            state.setdefault(int(slot), {})[entry] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        return step


def fit(
    train_step: Callable[[int], Metrics],
    state: TrainingState,
    *,
    steps: int,
    path: Path,
    identity: Mapping[str, Any],
    log: Callable[[int, Metrics], None],
    resumed: Callable[[int], None] = lambda step: None,
    save_seconds: float = 20.0,
    save_every: int | None = None,
    processes: Processes = ALONE,
) -> None:
    """Run training steps until `steps` are done, from wherever the state file `path` stands.

    `train_step` does step number 0, 1, ... and returns its metrics, among them "loss"; `log` is called with (steps
    done, metrics) after each, `resumed` once with the steps already done. The state is written after `save_seconds`,
    then whenever a tenth of the time so far has passed, at the latest every ten minutes, or else every `save_every`
    steps; and at the end. It is copied between two steps, and a thread writes the copy during the next ones. Of several
    processes the first one writes, and says whether there is a file, which all must then be able to read.
    `identity`, JSON values, says what is being trained. Raises CheckpointError if the state file is damaged or of
    another training; Interrupted if a loss is not finite: the last good state stays; Preempted after a step in which
    this process was asked to stop: the state is of that step.
    """
    done = state.restore(path, identity) if processes.everywhere(path.exists) else 0
    resumed(done)
    with stoppable(), _Writer(state, path, identity, save_seconds, save_every) as writer:
        for step in range(done, steps):
            metrics = train_step(step)
            if not math.isfinite(metrics["loss"]):
                raise Interrupted(
                    f"the loss is {metrics['loss']} at step {step + 1} of {steps}; lower the learning rate or look at "
                    f"the data. The last good state is kept in {path}",
                    step=step,
                )
            log(step + 1, metrics)
            if processes.main and (asked_to_stop() or writer.due(step + 1)):
                writer.write(step + 1)
                if asked_to_stop():
                    writer.wait()
                    raise Preempted(f"stopped at step {step + 1} of {steps}, as asked")
        if processes.main:
            writer.write(steps)


class _Writer:
    """Writes a training's state in a thread, one file at a time; leaving its block waits for the last one."""

    def __init__(
        self, state: TrainingState, path: Path, identity: Mapping[str, Any], seconds: float, every: int | None
    ) -> None:
        self.state, self.path, self.identity, self.seconds, self.every = state, path, identity, seconds, every
        self._thread = ThreadPoolExecutor(1, "training state")
        self._pending: Future[None] | None = None
        self._began = self._saved = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether enough steps were done, or enough time has passed."""
        if self.every is not None:
            return done % self.every == 0
        now = time.monotonic()
        longest = min(_LONGEST, _SHARE * (now - self._began)) if self.seconds > 0 else 0.0
        return now - self._saved >= max(self.seconds, longest)

    def write(self, step: int) -> None:
        """Copy the state as it is, and let it be written."""
        self.wait()  # two copies would take twice the memory
        header = {"step": step, **self.identity}
        self._pending = self._thread.submit(save_tensors, self.state.copied(), self.path, header)
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Wait for the file; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose key begins with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
