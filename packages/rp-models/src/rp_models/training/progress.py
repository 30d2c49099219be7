"""Who watches long work: nobody, or a progress bar with the figures that matter."""

import sys
from collections.abc import Mapping
from typing import Any


class Progress:
    """Watches a long piece of work; this one shows nothing, `ProgressBar` shows a bar."""

    def start(self, title: str, total: int, done: int = 0) -> None:
        """Work of `total` units begins, `done` of which were done in an earlier session."""

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """`done` units are finished in all; `values` are the figures that matter now."""

    def finish(self) -> None:
        """The work is finished."""


class ProgressBar(Progress):
    """A tqdm bar on the terminal, or a line now and then where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, title: str, total: int, done: int = 0) -> None:
        """See `Progress`."""
        from tqdm import tqdm

        self.finish()
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            desc=title,
            total=total,
            initial=done,
            mininterval=0.2 if interactive else 5.0,
            dynamic_ncols=interactive,
            ascii=not interactive,
        )

    def advance(self, done: int, values: Mapping[str, float] | None = None) -> None:
        """See `Progress`."""
        if values:
            self._bar.set_postfix({key: f"{value:.4g}" for key, value in values.items()}, refresh=False)
        self._bar.update(done - self._bar.n)

    def finish(self) -> None:
        """See `Progress`."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
