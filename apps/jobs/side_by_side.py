"""Pieces of a job that several processes do: workers on a CPU, or those that `torchrun` started."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from rp_models.training import Processes, ProgressBar

from jobs.several import Silence
from jobs.workers import pool_of


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
    with ExitStack() as stack:
        pool = pool_of(min(workers, len(work)), threads)
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        stack.callback(bar.finish)
        names = {pool.submit(partial(_timed, piece)): name for name, piece in work.items()}
        bar.start(title, len(names), 0)
        left = set(names)
        while left:
            done, left = wait(left, return_when=FIRST_COMPLETED)
            for future in done:
                finished(names[future], future.result())
            bar.advance(len(names) - len(left), {})


def in_parts(title: str, work: Mapping[str, Callable[[], Any]], processes: Processes) -> None:
    """Do this process's part of the pieces, and wait until the others have done theirs; the first one shows its own."""
    mine = list(work.values())[processes.rank :: processes.count]
    bar = ProgressBar() if processes.main else Silence()
    bar.start(title, len(mine), 0)
    for number, piece in enumerate(mine, start=1):
        piece()
        bar.advance(number, {})
    bar.finish()
    processes.wait()


def _timed(piece: Callable[[], Any]) -> float:
    """The seconds that a piece takes."""
    start = time.monotonic()
    piece()
    return time.monotonic() - start
