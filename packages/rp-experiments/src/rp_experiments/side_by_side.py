"""Pieces of a job that workers do side by side on a CPU."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from functools import partial
from typing import Any

import torch
from rp_models.training import ProgressBar

from rp_experiments.parallel import pool_of


def side_by_side(
    title: str,
    work: Mapping[str, Callable[[], Any]],
    workers: int,
    *,
    finished: Callable[[str, float], None],
) -> None:
    """Let workers do all the pieces, each with its share of the threads, with a progress bar.

    Args:
        title: of the bar.
        work: by name, each a callable that another process can be sent, such as a `partial` of a module's function.
        workers: processes, at least 1.
        finished: called with the name of a piece and the seconds that it took, soon after it is done.

    Raises:
        Exception: what a piece raises; those that were not begun are given up.
    """
    bar, threads = ProgressBar(), max(torch.get_num_threads() // workers, 1)
    bar.start(title, len(work), 0)
    try:
        with pool_of(min(workers, len(work)), threads) as pool:
            names = {pool.submit(partial(_timed, piece)): name for name, piece in work.items()}
            left = set(names)
            while left:
                done, left = wait(left, return_when=FIRST_COMPLETED)
                for future in done:
                    finished(names[future], future.result())
                bar.advance(len(names) - len(left), {})
    finally:
        bar.finish()


def _timed(piece: Callable[[], Any]) -> float:
    """The seconds that a piece takes."""
    start = time.monotonic()
    piece()
    return time.monotonic() - start
