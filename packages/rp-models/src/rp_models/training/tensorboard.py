"""A run's metrics for TensorBoard; `metrics.jsonl` stays the source."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rp_models.training.run import RunError, RunFolder


class TensorBoard:
    """Copies what a run logs to `tensorboard/` in its folder; the extra `tensorboard` must be installed.

    Each session begins with a copy of all lines that `metrics.jsonl` then holds, so that steps which a killed session
    logged and a resumed one repeats are drawn once. `folder`: of the run; `target`: another one for what is drawn.
    Raises RunError if TensorBoard is not installed.
    """

    def __init__(self, folder: RunFolder, target: Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RunError("TensorBoard is not installed; pip install 'rp-models[tensorboard]'") from error
        self._open, self._folder, self._target = SummaryWriter, folder, target or folder.path / "tensorboard"
        self._writer: Any = None  # opened with the first line
        folder.listeners.append(self._heard)

    def _heard(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """A line was logged."""
        if self._writer is not None:
            self._write(stage, step, values)
            return
        shutil.rmtree(self._target, ignore_errors=True)
        self._writer = self._open(str(self._target))
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


class TensorBoards:
    """The metrics of many runs in one folder, `tensorboard --logdir FOLDER`: each run by its place below `root`."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self._boards: list[TensorBoard] = []

    def watch(self, run: RunFolder) -> None:
        """Draw what a run logs from now on, and what it logged before."""
        path, root = run.path.resolve(), self.root.resolve()
        parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
        self._boards.append(TensorBoard(run, self.folder / "-".join(parts)))

    def close(self) -> None:
        """Write what is still to be written."""
        for board in self._boards:
            board.close()
        self._boards.clear()
