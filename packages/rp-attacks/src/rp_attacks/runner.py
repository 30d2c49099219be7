"""How an evaluation goes through its blocks of images: make candidates, judge them, save, tell."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rp_attacks import norms
from rp_attacks.defence import Classifier
from rp_attacks.eot import NoGradientError
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm
from rp_attacks.problem import Attack
from rp_attacks.record import Record, judge
from rp_attacks.rng import PrivateStream
from rp_attacks.store import Pixels, Store, from_pixels, on_byte_grid, to_pixels

Make = Callable[[int, slice, Tensor], Tensor]
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


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The fixed parts of one evaluation; every method is one stage over all blocks of this process."""

    model: Classifier
    x: Tensor
    y: Tensor
    index: Tensor
    seed: int
    passes: int
    random: bool
    batch_size: int
    block_size: int
    shard: tuple[int, int]
    pixels: Pixels
    store: Store
    progress: Callable[[Progress], None] | None
    began: float = field(default_factory=time.perf_counter)

    @property
    def blocks(self) -> list[tuple[int, slice]]:
        """Number and images of this process's blocks; the numbers are those of the whole evaluation."""
        starts = range(0, len(self.x), self.block_size)
        return [
            (number, slice(start, min(start + self.block_size, len(self.x))))
            for number, start in enumerate(starts)
            if number % self.shard[1] == self.shard[0]
        ]

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Positions of this process's images."""
        return np.concatenate([np.arange(p.start, p.stop) for _, p in self.blocks] or [np.arange(0)])

    def clean(self) -> Record:
        """The control without any perturbation."""
        return self._stage("clean", "linf", lambda number, part, rows: self.x[part], np.ones(len(self.rows), bool))[0]

    def noise(self, norm: Norm, eps: float) -> Record:
        """The control of random points of a ball."""

        def make(number: int, part: slice, rows: Tensor) -> Tensor:
            index = self.index[part]
            return norms.random_start(self.x[part], norm=norm, eps=eps, seed=self.seed, index=index, purpose="control")

        return self._stage(f"noise-{norm}-{eps:.4g}", norm, make, np.ones(len(self.rows), bool))[0]

    def attack(self, name: str, attack: Attack, standing: npt.NDArray[np.bool_]) -> tuple[Record, npt.NDArray[Any]]:
        """Run and judge one attack on the images that stand; gives its record and its images."""

        def make(number: int, part: slice, rows: Tensor) -> Tensor:
            x_adv = self.x[part].clone()
            stream = PrivateStream(derive_seed(self.seed, "stream", name, number))
            size = len(rows) if getattr(attack, "shares_randomness", False) else self.batch_size
            for chosen in rows.nonzero().flatten().split(size) if rows.any() else ():
                x, y, index = (whole[part][chosen] for whole in (self.x, self.y, self.index))
                made = x
                with stream(x.device), suppress(NoGradientError):  # of which the diagnostics make an alarm
                    made = attack(self.model, x, y, seed=derive_seed(self.seed, "attack", name), index=index)
                _check_result(name, attack, made, x)
                x_adv[chosen] = made.detach().to(x_adv.dtype)
            return x_adv

        return self._stage(name, attack.norm, make, standing)

    def _stage(
        self, name: str, norm: Norm, make: Make, chosen: npt.NDArray[np.bool_]
    ) -> tuple[Record, npt.NDArray[Any]]:
        # both begin with no image, which is all that a process without a block has
        records, images = [Record.empty(self.passes)], [to_pixels(self.x[:0], self.pixels)]
        standing = seen = 0
        for finished, (number, part) in enumerate(self.blocks, start=1):
            count = part.stop - part.start
            done = self.store.load(name, number)
            if done is None:
                rows = torch.from_numpy(chosen[seen : seen + count]).to(self.x.device)
                done = self._one_block(number, part, norm, make, rows)
                self.store.save(name, number, *done)
            records.append(done[0])
            images.append(done[1])
            standing, seen = standing + int((done[0].standing & done[0].tried).sum()), seen + count
            if self.progress:
                now = time.perf_counter() - self.began
                self.progress(Progress(name, finished, len(self.blocks), now, standing, seen))
        return Record.join(records), np.concatenate(images)

    def _one_block(
        self, number: int, part: slice, norm: Norm, make: Make, rows: Tensor
    ) -> tuple[Record, npt.NDArray[Any]]:
        x, x_adv = self.x[part], make(number, part, rows)
        stored = to_pixels(on_byte_grid(x_adv, x) if self.pixels == "uint8" else x_adv, self.pixels)
        x_adv = from_pixels(stored).to(x)  # what is judged is what is stored
        record = judge(
            self.model, x_adv, self.y[part], x=x, distance=norms.size(x_adv - x, norm), tried=rows,
            seed=derive_seed(self.seed, "verdict"), index=self.index[part], passes=self.passes, random=self.random,
            batch_size=self.batch_size,
        )  # fmt: skip
        return record, stored


def _check_result(name: str, attack: Attack, x_adv: Tensor, x: Tensor) -> None:
    """Refuse candidates outside the ball or the box: they would count as robust or as broken for no reason."""
    if x_adv.shape != x.shape or not torch.isfinite(x_adv).all():
        raise ValueError(f"attack {name!r} must give finite images of shape {tuple(x.shape)}")
    if x_adv.min() < 0 or x_adv.max() > 1:
        raise ValueError(f"attack {name!r} left [0, 1]")
    radius = norms.size(x_adv - x, attack.norm).max().item()
    if radius > attack.eps * (1 + 1e-4) + 1e-6:
        raise ValueError(f"attack {name!r} left its {attack.norm} ball: {radius:.6g} > eps {attack.eps:.6g}")
