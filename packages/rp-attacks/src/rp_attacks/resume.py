"""The state inside a long attack, saved now and then, so that a killed evaluation loses minutes and not a block."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

SECONDS = 60.0  # between two savings

_kept: ContextVar["_Kept | None"] = ContextVar("where the state of loops is kept", default=None)


@contextmanager
def keeping(folder: Path | None, seconds: float | None = None) -> Iterator[None]:
    """Loops inside, written with `resumable`, save their state in the folder and go on from there.

    It is saved every so many `seconds`, by default `SECONDS`, at the end of a round; a kill loses those and a round.
    The folder belongs to one piece of work, which must be the same one each time. It is emptied when the work is done.
    """
    token = _kept.set(None if folder is None else _Kept(folder, SECONDS if seconds is None else seconds))
    try:
        yield
    finally:
        _kept.reset(token)
    if folder is not None and folder.is_dir():  # not reached when the work was interrupted
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@contextmanager
def beside(*counters: object) -> Iterator[None]:
    """What is counted inside loops, objects as the `state` of `resumable`, is saved and restored with them."""
    kept = _kept.get()
    if kept is not None:
        kept.beside.append(counters)
    try:
        yield
    finally:
        if kept is not None:
            kept.beside.remove(counters)


def resumable(name: str, count: int, state: object) -> Iterator[int]:
    """0, 1, ..., count - 1, or from where an interrupted process stopped, the state restored.

    Args:
        name: of this loop, in words that can name a file.
        count: of rounds.
        state: an object all of whose attributes are tensors, numbers, booleans or None, and are what a round needs of
            the rounds before it; those that are objects of this package with such attributes are looked into.
    """
    kept = _kept.get()
    if kept is None:
        yield from range(count)
        return
    with kept.loop(name) as place:
        first, began = kept.restore(place, state), time.monotonic()
        for round_number in range(first, count):
            kept.path.append(str(round_number))
            yield round_number
            kept.path.pop()
            now = time.monotonic()
            # a round that took long, as one with loops inside does, is not to be lost
            if now - kept.last >= kept.seconds or now - began >= kept.seconds / 10:
                kept.save(place, round_number + 1, state)
            began = now


class _Kept:
    """One file for each loop that runs now or has ended, named by the rounds that it is inside of."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds, self.last = folder, seconds, time.monotonic()
        self.path: list[str] = []
        self.beside: list[tuple[object, ...]] = []
        self.started: Counter[str] = Counter()

    @contextmanager
    def loop(self, name: str) -> Iterator[Path]:
        """The file of the next loop of this name at this place."""
        place = "-".join([*self.path, name])
        number = self.started[place]
        self.started[place] += 1
        depth = len(self.path)
        self.path.append(f"{name}{number}")
        try:
            yield self.folder / f"{'-'.join(self.path)}.npz"
        finally:
            del self.path[depth:]

    def save(self, path: Path, done: int, state: object) -> None:
        """Write the state whole, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, done=done, **{key: _stored(value) for key, value in _flat(self._all(state)).items()})
        temporary.replace(path)
        self.last = time.monotonic()

    def restore(self, path: Path, state: object) -> int:
        """Rounds done; the state is changed in place."""
        if not path.exists():
            return 0
        with np.load(path, allow_pickle=False) as data:
            for key in data.files:
                if key != "done":
                    _put(self._all(state), key, data[key])
            return int(data["done"])

    def _all(self, state: object) -> SimpleNamespace:
        """The state and what is counted beside it."""
        counted = {f"beside{number}": one for number, one in enumerate(chain.from_iterable(self.beside))}
        return SimpleNamespace(state=state, **counted)


_NONE = "none"


def _flat(state: object, prefix: str = "") -> dict[str, Any]:
    """Attributes by their dotted names, those of inner objects too."""
    found: dict[str, Any] = {}
    for key, value in vars(state).items():
        if value is None or isinstance(value, (Tensor, bool, int, float, str)):
            found[prefix + key] = value
        else:
            found |= _flat(value, f"{prefix}{key}.")
    return found


def _stored(value: Any) -> Any:
    if value is None:
        return np.array(_NONE)
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _put(state: object, key: str, stored: Any) -> None:
    *inner, name = key.split(".")
    for part in inner:
        state = getattr(state, part)
    before = getattr(state, name)
    if stored.ndim == 0 and stored.dtype.kind == "U" and str(stored) == _NONE:
        value: Any = None
    elif isinstance(before, (bool, int, float, str)):
        value = type(before)(stored.item())
    else:
        like = next((v for v in vars(state).values() if isinstance(v, Tensor)), None)
        value = torch.from_numpy(stored).to(before.device if isinstance(before, Tensor) else _device(like))
    setattr(state, name, value)


def _device(like: Tensor | None) -> torch.device:
    return torch.device("cpu") if like is None else like.device
