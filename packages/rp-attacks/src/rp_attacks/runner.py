"""How an evaluation goes through its blocks of images: make candidates, judge them, save, tell."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks import norms
from rp_attacks.attack import starting_at
from rp_attacks.defence import Classifier
from rp_attacks.economy import fit_chunk
from rp_attacks.eot import NoGradientError
from rp_attacks.noise import derive_seed
from rp_attacks.norms import AnyNorm
from rp_attacks.problem import Attack
from rp_attacks.record import Record, judge
from rp_attacks.resume import beside, keeping, resumable
from rp_attacks.rng import PrivateStream
from rp_attacks.store import Pixels, Store, from_pixels, on_byte_grid, to_pixels
from rp_attacks.watch import History, counting, named, watched

Make = Callable[[int, slice, Tensor], "_Made"]
"""(block number, its images, which of them to attack) -> candidates."""


class Progress(NamedTuple):
    """One finished block of one stage, or one finished check of the findings."""

    stage: str
    """"clean", a noise control, an attack's name, or at the end "findings"."""
    block: int
    """Blocks (or checks) done in this stage."""
    blocks: int
    seconds: float
    """Since the evaluation began."""
    standing: int
    """Images of the blocks done that no stage so far has broken: still right in some selecting pass."""
    images: int
    """Images of the blocks done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How an evaluation is made."""

    # images attacked at a time, fewer where a GPU has no room for them; where it has room for more, EOT passes fill it
    batch_size: int = 128
    # images per saved file, the unit of sharing between processes; None: those of the folder, or at most 128 and so few
    # that each process has a block; inside a block the state of attacks is saved too
    block_size: int | None = None
    passes: int | None = None  # verdict passes K; None: 1, or 20 where two passes of the model differ
    # run every attack on every image, for its own accuracy, also those that repeat another one: a robust defence costs
    # little more, of a weak one most passes are on images that fell long ago (see `rp_attacks.forecast`)
    exhaustive: bool = False
    pixels: Pixels = "float"  # "uint8" keeps and judges images that an image file can hold; the clean ones must be such
    shard: tuple[int, int] = (0, 1)  # (rank, processes)
    level: float = 0.95  # of the intervals


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The fixed parts of one evaluation; every method is one stage over all blocks of this process."""

    model: Classifier
    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    random: bool
    block_size: int
    passes: int
    how: Settings
    room: int | None  # images of one pass for which the device has memory, where that is known
    store: Store
    progress: Callable[[Progress], None] | None
    began: float = field(default_factory=time.perf_counter)

    @property
    def batch_size(self) -> int:
        """Images attacked or judged at a time."""
        return min(self.how.batch_size, self.room or self.how.batch_size)

    @property
    def blocks(self) -> list[tuple[int, slice]]:
        """Number and images of this process's blocks; the numbers are those of the whole evaluation."""
        starts = range(0, len(self.x), self.block_size)
        return [
            (number, slice(start, min(start + self.block_size, len(self.x))))
            for number, start in enumerate(starts)
            if number % self.how.shard[1] == self.how.shard[0]
        ]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Positions of this process's images."""
        return np.concatenate([np.arange(p.start, p.stop) for _, p in self.blocks] or [np.arange(0)])

    def clean(self) -> Record:
        """The control without any perturbation."""
        return self._stage("clean", "linf", lambda number, part, rows: _Made(self.x[part]))[0]

    def noise(self, norm: AnyNorm, eps: float) -> Record:
        """The control of random points of a ball."""

        def make(number: int, part: slice, rows: Tensor) -> _Made:
            index, purpose = self.index[part], "control"
            start = norms.random_start(self.x[part], norm=norm, eps=eps, seed=self.seed, index=index, purpose=purpose)
            return _Made(start)

        return self._stage(f"noise-{norm}-{eps:.4g}", norm, make)[0]

    def attack(
        self, name: str, attack: Attack, known: Record, *, worst: npt.NDArray[Any]
    ) -> tuple[Record, npt.NDArray[Any]]:
        """Run and judge one attack; gives its record and its images.

        Args:
            known: the clean images' record where every image is attacked (`exhaustive`); else that of the worst
                candidates so far, and only images that still stand are attacked.
            worst: those candidates, as they are stored; an attack with `start="worst"` begins there.
        """

        def make(number: int, part: slice, rows: Tensor) -> _Made:
            made = _Made(self.x[part].clone())
            stream = PrivateStream(derive_seed(self.seed, "stream", name, number))
            size = max(len(rows), 1) if getattr(attack, "shares_randomness", False) else self.batch_size
            batches = rows.nonzero().flatten().split(size) if rows.any() else ()
            for batch in resumable(f"batches of {size}", len(batches), made):
                chosen = batches[batch]
                x, y, index = (whole[part][chosen] for whole in (self.x, self.y, self.index))
                first = from_pixels(worst[self._place(part)][chosen.cpu().numpy()]).to(x)
                fitted = fit_chunk(attack, len(chosen), self.room or self.how.batch_size)
                with (
                    stream(x.device),
                    named(name),
                    starting_at(None if self.how.exhaustive else first),
                    made.noted(index, chosen),
                ):
                    seed = derive_seed(self.seed, "attack", name)
                    found = x
                    with suppress(NoGradientError):  # of which the diagnostics make an alarm
                        found = fitted(self.model, x, y, seed=seed, index=index)
                _check_result(name, attack, found, x)
                made.images[chosen] = found.detach().to(made.images.dtype)
                made.repeated[chosen] = (found == first).flatten(1).all(dim=1)
            return made

        return self._stage(name, attack.norm, make, known)

    def _place(self, part: slice) -> slice:
        """Where the images of one of this process's blocks are among all of its images."""
        before = sum(p.stop - p.start for _, p in self.blocks if p.start < part.start)
        return slice(before, before + part.stop - part.start)

    def _stage(
        self, name: str, norm: AnyNorm, make: Make, known: Record | None = None
    ) -> tuple[Record, npt.NDArray[Any]]:
        # both begin with no image, which is all that a process without a block has
        records, images = [Record.empty(self.passes)], [to_pixels(self.x[:0], self.how.pixels)]
        standing = seen = 0
        for finished, (number, part) in enumerate(self.blocks, start=1):
            done = self.store.load(name, number)
            if done is None:
                mine = None if known is None else known.take(self._place(part))
                done = self._one_block(name, number, norm, make, mine)
                self.store.save(name, number, *done)
            records.append(done[0])
            images.append(done[1])
            standing, seen = standing + int((done[0].standing & done[0].tried).sum()), seen + part.stop - part.start
            if self.progress:
                now = time.perf_counter() - self.began
                self.progress(Progress(name, finished, len(self.blocks), now, standing, seen))
        return Record.join(records), np.concatenate(images)

    def _one_block(
        self, stage: str, number: int, norm: AnyNorm, make: Make, known: Record | None
    ) -> tuple[Record, npt.NDArray[Any]]:
        part = dict(self.blocks)[number]
        x, y, index = self.x[part], self.y[part], self.index[part]
        rows = torch.ones_like(y, dtype=torch.bool)
        if known is not None and not self.how.exhaustive:
            rows = torch.from_numpy(known.standing).to(y.device)
        with keeping(self.store.partial(stage, number)):
            made = make(number, part, rows)
            x_adv = made.images
            stored = to_pixels(on_byte_grid(x_adv, x) if self.how.pixels == "uint8" else x_adv, self.how.pixels)
            x_adv = from_pixels(stored).to(x)  # what is judged is what is stored
            record = judge(
                self.model, x_adv, y, distance=norms.size(x_adv - x, norm), seed=derive_seed(self.seed, "verdict"),
                index=index, passes=self.passes, random=self.random and not stage.startswith("noise-"),
                batch_size=self.batch_size, tried=rows, known=known,
                repeated=None if known is None or self.how.exhaustive else made.repeated,
                whole=known is None or self.how.exhaustive,
            )  # fmt: skip
        return replace(record, **made.arrays()), stored


class _Made:
    """Candidates for the images of a block, and what making them cost; all are tensors, (b,) or like the images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.forward, self.backward, self.source, self.seconds = torch.zeros(4, len(images), device=images.device)
        self.stuck, self.fooled, self.blind = torch.zeros(3, len(images), dtype=torch.bool, device=images.device)
        self.repeated = torch.zeros_like(self.stuck)  # whether the candidate is the worst one of the attacks before

    @contextmanager
    def noted(self, index: Tensor, rows: Tensor) -> Iterator[None]:
        """What an attack on these rows does is written down."""
        history, began = History(index), time.perf_counter()
        with counting(index) as passes, watched(history), beside(passes, history):
            yield
        self.forward[rows], self.backward[rows], self.source[rows] = passes.forward, passes.backward, passes.source
        self.stuck[rows], self.fooled[rows], self.blind[rows] = history.stuck, history.fooled, history.blind
        self.seconds[rows] = (time.perf_counter() - began) / len(rows)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All but the images, by the names of `Record`; fetched from their device together."""
        kept = {name: value for name, value in vars(self).items() if name not in ("images", "repeated")}
        fetched = torch.stack([value.float() for value in kept.values()]).cpu()
        return {name: row.to(kept[name].dtype).numpy() for name, row in zip(kept, fetched, strict=True)}


def _check_result(name: str, attack: Attack, x_adv: Tensor, x: Tensor) -> None:
    """Refuse candidates outside the ball or the box: they would count as robust or as broken for no reason."""
    if x_adv.shape != x.shape or not torch.isfinite(x_adv).all():
        raise ValueError(f"attack {name!r} must give finite images of shape {tuple(x.shape)}")
    if x_adv.min() < 0 or x_adv.max() > 1:
        raise ValueError(f"attack {name!r} left [0, 1]")
    radius = norms.size(x_adv - x, attack.norm).max().item()
    if radius > attack.eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"attack {name!r} left its {attack.norm} ball: {radius:.6g} > eps {attack.eps:.6g}")
