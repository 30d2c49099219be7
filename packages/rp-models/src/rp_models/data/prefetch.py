"""Preparing the next batches in the background while the present one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


def prefetch(make: Callable[[int], Batch], steps: Iterable[int], *, depth: int = 2) -> Iterator[Batch]:
    """What `make` returns for each step, in order, up to `depth` of them prepared ahead by a background thread.

    `make` must be a function of the step alone; then the results do not depend on `depth`, of which 0 takes no thread.
    An exception in it comes out where its result would have come. Closing the iterator, or leaving its loop and
    dropping it, ends the thread. Raises ValueError if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative, got {depth}")
    return iter(map(make, steps)) if depth == 0 else _ahead(make, steps, depth)


def _ahead(make: Callable[[int], Batch], steps: Iterable[int], depth: int) -> Iterator[Batch]:
    """The iterator of `prefetch` with a thread."""
    waiting: deque[Future[Batch]] = deque()
    # one worker only: it works in the order of the steps
    with ThreadPoolExecutor(1, "prefetch", initializer=_on_same_device()) as thread:
        try:
            for step in steps:
                waiting.append(thread.submit(make, step))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _on_same_device() -> Callable[[], None] | None:
    """What lets a new thread use the current GPU, which PyTorch remembers for each thread."""
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return None
    current = torch.cuda.current_device()
    return lambda: torch.cuda.set_device(current)
