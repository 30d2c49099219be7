"""The images of each step of a training, and the numbers to which their random draws belong."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rp_models import noise
from rp_models.data.augment import augmented_batch
from rp_models.data.augmentation import Augmentation
from rp_models.data.batches import BatchPlan
from rp_models.data.images import Images, ImageSet
from rp_models.data.prefetch import prefetch
from rp_models.training.distributed import ALONE, Processes


class Minibatch(NamedTuple):
    """Some of the images of a step.

    Attributes:
        x: images (b, c, h, w) in [0, 1], augmented.
        labels: int64 (b,).
        draw: int64 (b,), a number for each image of the whole training, from 0; noise, masks and augmentation are
            drawn by that, so that they do not depend on how many processes share the batch.
    """

    x: Tensor
    labels: Tensor
    draw: Tensor


class Minibatches:
    """All images in random order, epoch after epoch: a function of the step.

    Images that are not in memory are read ahead in the background. `plan` says which images make up each batch.

    Args:
        batch_size: images in a step, over all processes.
        seed: of order and augmentation.
        purpose: what is trained; keeps its draws apart from others of the same seed.

    Raises:
        ValueError: if the batch cannot be divided among the processes.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        *,
        seed: int,
        purpose: str,
        augmentation: Augmentation | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.images, self.batch_size, self.processes = images, batch_size, processes
        self.seed, self.purpose, self.augmentation = seed, purpose, augmentation or Augmentation()
        self.device = images.device
        order = noise.derive_seed(seed, purpose)
        self.plan = BatchPlan(real=len(images), batch_size=batch_size, epoch_images=len(images), seed=order)
        processes.part(torch.empty(batch_size))
        self._ahead: Iterator[Minibatch] = iter(())
        self._next = -1

    def part(self, step: int) -> Minibatch:
        """This process's part of a step's batch."""
        if isinstance(self.images, ImageSet):
            return self._take(step, self.processes)
        if step != self._next:
            self._ahead = prefetch(lambda number: self._take(number, self.processes), itertools.count(step))
        self._next = step + 1
        return next(self._ahead)

    def whole(self, step: int) -> Minibatch:
        """The whole batch of a step."""
        return self._take(step, ALONE)

    def _take(self, step: int, processes: Processes) -> Minibatch:
        chosen = processes.part(self.plan.indices(*divmod(step, self.plan.batches_per_epoch)))
        draw = processes.part(torch.arange(step * self.batch_size, (step + 1) * self.batch_size)).to(self.device)
        x, labels = augmented_batch(
            self.images, chosen.to(self.device), self.augmentation, seed=self.seed, purpose=self.purpose, draw=draw
        )
        return Minibatch(x, labels, draw)


def in_order(images: Images, batch_size: int) -> Iterator[Minibatch]:
    """All images once in their order, as they are; the draws belong to their positions."""
    for start in range(0, len(images), batch_size):
        x, labels = images.batch(slice(start, start + batch_size))
        yield Minibatch(x, labels, torch.arange(start, start + len(x), device=x.device))
