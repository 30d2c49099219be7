"""An attack seen while it runs: what each step found, and the passes that each image has cost."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

COPY_STRIDE = 2**31 - 1
"""Copies of image i in one batch are images i, i + COPY_STRIDE, ...; odd, so that a defence whose generator reads only
the low 32 bits of a seed still draws other noise for each."""


class Step(NamedTuple):
    """One iterate of an attack, and what the model's passes said there; one row for each image still attacked."""

    attack: str
    """Its name in an evaluation, elsewhere that of its class."""
    number: int
    """0 at the start point."""
    image: Tensor
    """int64 (b,), image indices."""
    loss: Tensor
    """What the attack raises, a mean over its passes, (b,)."""
    wrong: Tensor
    """Share of the passes that misclassify the iterate, (b,)."""
    gradient: Tensor | None
    """L2 norm of the loss's gradient, (b,); None for attacks that take none."""
    distance: Tensor
    """Size of the perturbation in the attack's norm, (b,)."""
    on_source: bool
    """Whether these passes are those of another model, from which the images are transferred."""


class Part(NamedTuple):
    """One attack of an ensemble has ended."""

    name: str
    broken: Tensor
    """int64, indices of the images that it broke after the parts before it left them standing."""
    blind: bool
    """Whether it asks for no gradient, and comes after a part that does."""
    on_source: bool


Watcher = Callable[[Step | Part], None]
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("who sees the steps of attacks", default=())
_meters: ContextVar[tuple["Passes", ...]] = ContextVar("who counts the passes of images", default=())
_name: ContextVar[str] = ContextVar("what the attack is called that runs now", default="")
_on_source: ContextVar[bool] = ContextVar("whether another model than the one under attack is asked", default=False)


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Every step of the attacks that run inside is shown to the watcher; `None` changes nothing."""
    token = _watchers.set(_watchers.get() + (() if watcher is None else (watcher,)))
    try:
        yield
    finally:
        _watchers.reset(token)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Steps inside are those of the attack of this name."""
    token = _name.set(name)
    try:
        yield
    finally:
        _name.reset(token)


def is_watched() -> bool:
    """Whether anybody looks: what only a watcher needs is not computed otherwise."""
    return bool(_watchers.get())


def tell(
    attack: object,
    number: int,
    *,
    index: Tensor,
    loss: Tensor,
    wrong: Tensor,
    gradient: Tensor | None,
    distance: Callable[[], Tensor],
) -> None:
    """Show one step to all watchers; `gradient` (b, ...) as it is, `distance` is only asked where somebody looks."""
    if not is_watched():
        return
    norm = None if gradient is None else torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    step = Step(_name.get() or type(attack).__name__, number, index, loss, wrong, norm, distance(), _on_source.get())
    for watcher in _watchers.get():
        watcher(step)


def tell_part(name: str, broken: Tensor, *, blind: bool) -> None:
    """Show the end of a part of an ensemble to all watchers."""
    for watcher in _watchers.get():
        watcher(Part(name, broken, blind, _on_source.get()))


@contextmanager
def asking_source() -> Iterator[None]:
    """Inside, passes and steps are those of a source model, and not of the one under attack."""
    token = _on_source.set(True)
    try:
        yield
    finally:
        _on_source.reset(token)


class Passes:
    """Passes of each of some images, counted by the index that a pass carries.

    Attributes:
        forward: (b,) queries of the model under attack: one is one forward pass of one image with one noise.
        backward: (b,) gradients of such queries.
        source: (b,) queries of other models, for transfer.
    """

    def __init__(self, index: Tensor) -> None:
        self._sorted, self._order = index.sort()
        self.forward, self.backward, self.source = torch.zeros(3, len(index), device=index.device)

    def add(self, index: Tensor, *, backward: bool, each: float) -> None:
        """Count `each` passes of each row; rows of other images are not counted."""
        images = index % COPY_STRIDE
        place = torch.searchsorted(self._sorted, images).clamp_max(len(self._sorted) - 1)
        known = each * (self._sorted[place] == images).to(self.forward)
        if backward and _on_source.get():
            return
        count = self.backward if backward else self.forward
        (self.source if _on_source.get() else count).index_add_(0, self._order[place], known)


@contextmanager
def counting(index: Tensor) -> Iterator[Passes]:
    """The passes that these images (int64 indices, (b,)) are asked for inside."""
    passes = Passes(index)
    token = _meters.set((*_meters.get(), passes))
    try:
        yield passes
    finally:
        _meters.reset(token)


def count_passes(index: Tensor, *, backward: bool = False, each: float = 1.0) -> None:
    """Count a pass, or `each`, of each row (int64 indices, (b,)) for whoever counts."""
    for meter in _meters.get():
        meter.add(index, backward=backward, each=each)


@contextmanager
def uncounted() -> Iterator[None]:
    """Passes inside are no queries: a recomputation, or a call whose rows cannot be told apart."""
    token = _meters.set(())
    try:
        yield
    finally:
        _meters.reset(token)


class History:
    """What an evaluation remembers of an attack's steps, image by image; see `Record` for how it is used."""

    def __init__(self, index: Tensor) -> None:
        self._index = index
        self._sorted, self._order = index.sort()
        shape = (len(index),)
        self.first, self.later = index.new_full((2, *shape), float("-inf"), dtype=torch.float32)
        self.fooled, self.blind = torch.zeros(2, *shape, dtype=torch.bool, device=index.device)

    def __call__(self, step: "Step | Part") -> None:
        """Note a part that broke images; of a step the losses, and where every pass was wrong."""
        if step.on_source:
            return
        if isinstance(step, Part):
            self.blind |= step.blind & torch.isin(self._index, step.broken)
            return
        place = torch.searchsorted(self._sorted, step.image).clamp_max(len(self._sorted) - 1)
        known = self._sorted[place] == step.image
        rows, loss = self._order[place][known], step.loss[known].float()
        if step.number == 0:  # of several runs each begins anew, and the best first iterate counts
            self.first[rows] = torch.maximum(self.first[rows], loss)
        else:
            self.later[rows] = torch.maximum(self.later[rows], loss)
        self.fooled[rows] |= step.wrong[known] == 1

    @property
    def stuck(self) -> Tensor:
        """(b,) whether no later iterate had a higher loss than the first ones; False where there was no later one."""
        return self.later.isfinite() & (self.later <= self.first)
