"""Which images make up a training batch: DM-AT's mixture of real and synthetic ones.

The composition is a function of (seed, epoch, position), so that training resumes in the middle of an epoch and several
processes agree without talking. Source: Wang et al. 2023, arXiv:2302.04638, and its published sampler.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rp_models import noise
from rp_models.data.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """Batches over `real` images followed by `synthetic` ones in one numbering.

    A batch takes `int(batch_size * synthetic_fraction)` synthetic images, drawn uniformly with replacement, and real
    ones from a random order of all of them in consecutive chunks; a short last chunk is topped up with synthetic
    images, after it the real images start again in a new order. Each batch is shuffled. (DM-AT's negative fraction, all
    images in one pool, is a plan with `real` images only, over a `JoinedImages`.)
    """

    real: int  # number of real images, numbered from 0
    synthetic: int = 0  # number of synthetic images, numbered from `real`
    batch_size: int  # images in a batch
    # share of synthetic images in a batch, in [0, 1]; without synthetic images it must be 0
    synthetic_fraction: float = 0.0
    epoch_images: int  # images that make an epoch; an epoch has ceil(epoch_images / batch_size) batches
    seed: int = 0  # of all draws

    def __post_init__(self) -> None:
        if not 0.0 <= self.synthetic_fraction <= 1.0:
            raise ValueError(f"synthetic_fraction must be in [0, 1], got {self.synthetic_fraction}")
        if self.synthetic_fraction > 0.0 and self.synthetic == 0:
            raise ValueError(f"synthetic_fraction is {self.synthetic_fraction}, but there are no synthetic images")
        if self.batch_size < 1 or self.epoch_images < 1:
            raise ValueError(
                f"batch_size and epoch_images must be positive, got {self.batch_size}, {self.epoch_images}"
            )
        if self.real_per_batch > 0 and self.real == 0:
            raise DataError("the batches ask for real images, but there are none; set synthetic_fraction to 1")
        if self.synthetic == 0 and self.real < self.batch_size:
            raise DataError(f"a batch of {self.batch_size} needs as many images, there are {self.real}")

    @property
    def synthetic_per_batch(self) -> int:
        """Synthetic images in an ordinary batch."""
        return int(self.batch_size * self.synthetic_fraction)

    @property
    def real_per_batch(self) -> int:
        """Real images in an ordinary batch."""
        return self.batch_size - self.synthetic_per_batch

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch."""
        return -(-self.epoch_images // self.batch_size)

    def indices(self, epoch: int, position: int) -> Tensor:
        """The image numbers of one batch of an epoch, int64 (batch_size,); both count from 0."""
        real = self._real(epoch, position)
        missing = self.batch_size - len(real)
        if self.synthetic == 0 and missing:  # nothing to top up with: go on in the next order
            chunks = -(-self.real // self.real_per_batch)
            real = torch.cat([real, self._order(epoch, position // chunks + 1)[:missing]])
            missing = 0
        batch = epoch * self.batches_per_epoch + position
        draws = noise.integers(
            max(self.synthetic, 1),
            (missing,),
            seed=self.seed,
            purpose="synthetic images",
            index=torch.tensor([batch]),
        )[0]
        chosen = torch.cat([real, draws + self.real])
        return chosen[noise.permutation(len(chosen), seed=self.seed, purpose=f"order in batch {batch}")]

    def _real(self, epoch: int, position: int) -> Tensor:
        """The real images of a batch: one chunk of the epoch's current order."""
        if self.real_per_batch == 0:
            return torch.empty(0, dtype=torch.int64)
        chunks = -(-self.real // self.real_per_batch)
        start = position % chunks * self.real_per_batch
        return self._order(epoch, position // chunks)[start : start + self.real_per_batch]

    def _order(self, epoch: int, round_: int) -> Tensor:
        """The random order of the real images in one round of one epoch."""
        return _order(self.real, self.seed, epoch, round_)


def part(indices: Tensor, rank: int, count: int) -> Tensor:
    """One process's share of a batch: consecutive entries, as many in each process.

    Raises ValueError if the batch cannot be divided, or there is no such process.
    """
    if not 0 <= rank < count:
        raise ValueError(f"rank must be in 0..{count - 1}, got {rank}")
    if len(indices) % count:
        near = len(indices) // count * count or count
        raise ValueError(f"a batch of {len(indices)} cannot be divided among {count} processes; {near} could be")
    size = len(indices) // count
    return indices[rank * size : (rank + 1) * size]


@lru_cache(maxsize=4)  # an order of ImageNet's training images takes 10 MB
def _order(real: int, seed: int, epoch: int, round_: int) -> Tensor:
    """A cached permutation: neighbouring batches ask for the same one."""
    return noise.permutation(real, seed=seed, purpose=f"real images/{epoch}/{round_}")
