"""What only the first of several processes does: show progress, keep the time."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from rp_models.training import Processes, RunFolder


class Silence:
    """A `Progress` that shows nothing."""

    def start(self, title: str, total: int, done: int) -> None:
        """See `Progress`."""

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """See `Progress`."""

    def finish(self) -> None:
        """See `Progress`."""


def timed(folder: RunFolder, stage: str, processes: Processes) -> AbstractContextManager[None]:
    """`RunFolder.timed` in the first process, nothing in the others."""
    return folder.timed(stage) if processes.main else nullcontext()
