"""Processes that share a job's work on a CPU, one or more threads each."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor


class Pool(ProcessPoolExecutor):
    """Processes; leaving its block gives up what was not begun, and waits for nothing."""

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=False, cancel_futures=True)


def pool_of(count: int, threads: int | None = None) -> Pool:
    """So many processes, which end with this one, however it ends.

    Args:
        count: of processes, at least 1.
        threads: of torch in each; None leaves that to the work.
    """
    context = multiprocessing.get_context("spawn")
    return Pool(count, mp_context=context, initializer=_begin, initargs=(os.getpid(), threads))


def _begin(parent: int, threads: int | None) -> None:
    """What a worker does first: see to it that it ends without a word on Ctrl-C, and soon after a killed parent."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
