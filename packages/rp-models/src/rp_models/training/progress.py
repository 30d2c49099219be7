"""A progress bar for long work, with the figures that matter."""

import sys
from collections.abc import Mapping
from typing import Any


class ProgressBar:
    """Shows a `Progress` on the terminal: a tqdm bar, or a line now and then where there is no terminal."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, title: str, total: int, done: int) -> None:
        """Work of `total` units begins, `done` of which were done in an earlier session."""
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

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """`done` units are finished; `values` are the figures that matter now."""
        if values:
            self._bar.set_postfix({key: f"{value:.4g}" for key, value in values.items()}, refresh=False)
        self._bar.update(done - self._bar.n)

    def finish(self) -> None:
        """The work is finished."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
