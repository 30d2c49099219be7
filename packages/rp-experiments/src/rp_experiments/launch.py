"""Where work runs: pieces that need nothing of each other in processes of this machine, or ranks that share one run.

Importing this does not import torch.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from rp_models.training.ports import free_port

T = TypeVar("T")
P = ParamSpec("P")
_PARENT = "RP_PARENT"  # number of the process that started this rank


class Launcher:
    """Processes that do what they are sent beside this one, and end with it, however it ends.

    Leaving the block gives up what was not begun, and waits for nothing.
    """

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(os.getpid(),))

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Begin a piece of work."""
        return self._pool.submit(work, *args, **kwargs)


@contextmanager
def environment(**values: object) -> Iterator[None]:
    """Other environment variables inside the block, for this process and those that it starts."""
    before = dict(os.environ)
    os.environ.update({name: str(value) for name, value in values.items()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def ranks(count: int) -> Iterator[None]:
    """Let so many processes do this command together: this one is the first, the others run its command line again."""
    if parent := os.environ.get(_PARENT):
        _end_with(int(parent))
    if count == 1 or launched():
        yield
        return
    threads = max(cores() // count, 1)
    meeting = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with environment(**meeting, OMP_NUM_THREADS=threads, RANK=0, LOCAL_RANK=0):
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
        others = [_rank(number) for number in range(1, count)]
        try:
            yield
            codes = [other.wait() for other in others]
        except RuntimeError:  # a meeting that did not take place: did one of the others say why?
            codes = [_code(other) for other in others]
            if not any(codes):
                raise
        finally:
            for other in others:
                other.terminate()
                other.wait()
    if any(codes):
        raise SystemExit(2)


def _rank(number: int) -> "subprocess.Popen[bytes]":
    """Another process that runs this command line, as the rank of this number."""
    own = {"RANK": str(number), "LOCAL_RANK": str(number), _PARENT: str(os.getpid())}
    return subprocess.Popen([sys.executable, *sys.argv], env=os.environ | own, stdin=subprocess.DEVNULL)


def launched() -> bool:
    """Whether this process was started with others that share its work, by `ranks` or `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def cores() -> int:
    """Threads that this command may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() else len(os.sched_getaffinity(0))


def on_cpu(device: str, count: int) -> int:
    """So many processes where the work is done on the CPU, otherwise one."""
    if count > 1 and device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return count if device == "cpu" else 1


def _begin(parent: int) -> None:
    """What a launched process does first: see to it that it ends without a word on Ctrl-C, and after its parent."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    _end_with(parent)


def _end_with(parent: int) -> None:
    """End this process soon after a killed parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _code(other: "subprocess.Popen[Any]") -> int:
    """The exit status of a process that may be about to end; 0 if it goes on."""
    try:
        return other.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return 0
