"""The training loop: a function of one step in, metrics out; interrupted at any moment, it goes on bit for bit.

Everything that changes during training stands in one file, replaced as a whole: modules, optimiser and the step.
Batches, noise, learning rates and the seed of torch's own generators are functions of the step and need no state.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rp_models.checkpoint import CheckpointError, load_state, read_metadata, read_tensors, save_tensors
from rp_models.training.preemption import Preempted, asked_to_stop, stoppable

Metrics = Mapping[str, float]


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

    def save(self, path: Path, step: int, identity: Mapping[str, Any]) -> None:
        """Write everything to one file, complete or not at all; `restore` refuses a file of another identity."""
        tensors = {
            f"module.{name}.{key}": value
            for name, module in self.modules.items()
            for key, value in module.state_dict().items()
        }
        for slot, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{slot}.{key}": torch.as_tensor(v) for key, v in values.items() if v is not None}
        # copies, since entries may share memory (buffers of an average), which the format does not allow
        copies = {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}
        save_tensors(copies, path, {"step": step, **identity})

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
    writes: bool = True,
) -> None:
    """Run training steps until `steps` are done, from wherever the state file `path` stands.

    `train_step` does step number 0, 1, ... and returns its metrics, among them "loss"; `log` is called with (steps
    done, metrics) after each, `resumed` once with the steps already done. The state is written every `save_seconds` and
    at the end, by the one process that `writes`; `identity`, JSON values, says what is being trained. Raises
    CheckpointError if the state file is damaged or of another training; Interrupted if a loss is not finite: the last
    good state stays; Preempted after a step in which this process was asked to stop: the state is of that step.
    """
    done = state.restore(path, identity) if path.exists() else 0
    resumed(done)
    saved = time.monotonic()
    with stoppable():
        for step in range(done, steps):
            metrics = train_step(step)
            if not math.isfinite(metrics["loss"]):
                raise Interrupted(
                    f"the loss is {metrics['loss']} at step {step + 1} of {steps}; lower the learning rate or look at "
                    f"the data. The last good state is kept in {path}",
                    step=step,
                )
            log(step + 1, metrics)
            if writes and (asked_to_stop() or time.monotonic() - saved >= save_seconds):
                state.save(path, step + 1, identity)
                saved = time.monotonic()
                if asked_to_stop():
                    raise Preempted(f"stopped at step {step + 1} of {steps}, as asked")
    if writes:
        state.save(path, steps, identity)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose key begins with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
