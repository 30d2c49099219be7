"""Preparing the next batches in the background while the present one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils._pytree import tree_leaves

Batch = TypeVar("Batch")


def prefetch(make: Callable[[int], Batch], steps: Iterable[int], *, depth: int = 2) -> Iterator[Batch]:
    """What `make` returns for each step, in order, up to `depth` of them prepared ahead by a background thread.

    `make` must be a function of the step alone; then the results do not depend on `depth`, of which 0 takes no thread.
    On a GPU the thread has a stream of its own, so that its copies run beside the kernels of the step before. An
    exception in `make` comes out where its result would have come. Closing the iterator, or leaving its loop and
    dropping it, ends the thread. Raises ValueError if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative, got {depth}")
    return iter(map(make, steps)) if depth == 0 else _ahead(make, steps, depth)


def _ahead(make: Callable[[int], Batch], steps: Iterable[int], depth: int) -> Iterator[Batch]:
    """The iterator of `prefetch` with a thread."""
    side = _SideStream() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    made = (lambda step: (make(step), None)) if side is None else (lambda step: side.run(make, step))
    waiting: deque[Future[tuple[Batch, torch.cuda.Event | None]]] = deque()
    # one worker only: it works in the order of the steps
    with ThreadPoolExecutor(1, "prefetch") as thread:
        try:
            for step in steps:
                waiting.append(thread.submit(made, step))
                if len(waiting) > depth:
                    yield _ready(*waiting.popleft().result())
            while waiting:
                yield _ready(*waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()


class _SideStream:
    """A stream beside the current one of the current GPU, for another thread: PyTorch remembers both by thread."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.stream.wait_stream(torch.cuda.current_stream())  # resident images may still be on their way

    def run(self, make: Callable[[int], Batch], step: int) -> tuple[Batch, torch.cuda.Event]:
        """A batch, and what tells when it is there."""
        with torch.cuda.stream(self.stream):  # sets the device as well
            return make(step), self.stream.record_event()


def _ready(batch: Batch, made: torch.cuda.Event | None) -> Batch:
    """A batch that the current stream may use: it waits on the GPU, the host does not."""
    if made is not None:
        stream = torch.cuda.current_stream()
        stream.wait_event(made)
        for leaf in tree_leaves(batch):
            if isinstance(leaf, torch.Tensor) and leaf.is_cuda:
                leaf.record_stream(stream)  # its memory is not used anew before this stream is done with it
    return batch
