"""A request to stop: training writes its state after the step that it is in, then ends with `Preempted`.

Whoever starts processes that may be taken away (a cluster's scheduler) asks; nobody else has to know.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ASKED = threading.Event()
_TRAINING = threading.Event()


class Preempted(BaseException):
    """The training stopped as it was asked to, and its state is on disk; no `except Exception` takes it for a fault."""


def ask_to_stop() -> bool:
    """Let a training stop after its step; whether this process trains now, and so will do it soon.

    Safe in a signal handler. Of processes that train together only the first one need be asked: it has the state.
    """
    _ASKED.set()
    return _TRAINING.is_set()


def asked_to_stop() -> bool:
    """Whether somebody asked."""
    return _ASKED.is_set()


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that looks at `asked_to_stop` often."""
    inside = _TRAINING.is_set()
    _TRAINING.set()
    try:
        yield
    finally:
        if not inside:
            _TRAINING.clear()
