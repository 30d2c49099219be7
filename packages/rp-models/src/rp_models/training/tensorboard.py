"""A run's metrics for TensorBoard; `metrics.jsonl` stays the source."""

import shutil
from collections.abc import Mapping
from typing import Any

from rp_models.training.run import RunError, RunFolder


class TensorBoard:
    """Copies what a run logs to `tensorboard/` in its folder; the extra `tensorboard` must be installed.

    Each session begins with a copy of all lines that `metrics.jsonl` then holds, so that steps which a killed session
    logged and a resumed one repeats are drawn once. `folder`: of the run. Raises RunError if TensorBoard is not
    installed.
    """

    def __init__(self, folder: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError("TensorBoard is not installed; pip install 'rp-models[tensorboard]'") from error
        self._open, self._folder = SummaryWriter, folder
        self._writer: Any = None  # opened with the first line
        folder.listeners.append(self._heard)

    def _heard(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """A line was logged."""
        if self._writer is not None:
            self._write(stage, step, values)
            return
        target = self._folder.path / "tensorboard"
        shutil.rmtree(target, ignore_errors=True)
        self._writer = self._open(str(target))
        for record in self._folder.metrics():  # the line just logged is among them
            self._write(record.pop("stage"), record.pop("step"), record)

    def _write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Write what is still to be written."""
        if self._writer is not None:
            self._writer.close()
        self._folder.listeners.remove(self._heard)
