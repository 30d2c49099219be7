"""The images of each step of a training, and the numbers to which their random draws belong."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from rp_models import noise
from rp_models.data.augment import augmented_batch
from rp_models.data.augmentation import Augmentation
from rp_models.data.batches import BatchPlan
from rp_models.data.images import Images, ImageSet
from rp_models.data.prefetch import prefetch
from rp_models.training.distributed import ALONE, Processes, meeting_device
from rp_models.values import send


class Minibatch(NamedTuple):
    """Some of the images of a step."""

    x: Tensor  # images (b, c, h, w) in [0, 1], augmented
    labels: Tensor  # int64 (b,)
    # int64 (b,), a number for each image of the whole training, from 0; noise, masks and augmentation are drawn by
    # that, so that they do not depend on how many processes share the batch
    draw: Tensor


B = TypeVar("B", bound=tuple[Tensor, ...])


class StepBatches(ABC, Generic[B]):
    """The images of each step, a function of its number; those that are not in memory are read ahead in the background.

    `plan` says which images of the sources make up each batch, of `batch_size` images over all processes. Raises
    ValueError if the batch cannot be divided among the processes.
    """

    def __init__(self, sources: Sequence[Images], plan: BatchPlan, batch_size: int, processes: Processes) -> None:
        self.plan, self.batch_size, self.processes = plan, batch_size, processes
        self.device = sources[0].device
        processes.part(torch.empty(batch_size))
        self._in_memory = all(isinstance(images, ImageSet) for images in sources)
        self._ahead: Iterator[B] = iter(())
        self._next = -1

    def part(self, step: int) -> B:
        """This process's part of a step's batch."""
        if self._in_memory:
            return self._taken(step, self.processes)
        if step != self._next:
            self._ahead = prefetch(lambda number: self._taken(number, self.processes), itertools.count(step))
        self._next = step + 1
        return next(self._ahead)

    def whole(self, step: int) -> B:
        """The whole batch of a step."""
        return self._taken(step, ALONE)

    def _taken(self, step: int, processes: Processes) -> B:
        chosen = processes.part(self.plan.indices(*divmod(step, self.plan.batches_per_epoch)))
        return self.take(chosen, processes.part(torch.arange(step * self.batch_size, (step + 1) * self.batch_size)))

    @abstractmethod
    def take(self, chosen: Tensor, draw: Tensor) -> B:
        """The images of these positions of the plan (b,), whose random draws have the numbers draw (b,); on the CPU."""


class Minibatches(StepBatches[Minibatch]):
    """All images in random order, epoch after epoch, `batch_size` in a step over all processes.

    `seed` is of order and augmentation; `purpose`, what is trained, keeps its draws apart from others of the same seed.
    Raises ValueError if the batch cannot be divided among the processes.
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
        self.images, self.seed, self.purpose = images, seed, purpose
        self.augmentation = augmentation or Augmentation()
        super().__init__((images,), plan_of_all(images, batch_size, seed=seed, purpose=purpose), batch_size, processes)

    def take(self, chosen: Tensor, draw: Tensor) -> Minibatch:
        """The images of these positions, augmented."""
        x, labels = augmented_batch(
            self.images, chosen, self.augmentation, seed=self.seed, purpose=self.purpose, draw=draw
        )
        return Minibatch(x, labels, send(draw, self.device))


def plan_of_all(images: Images, batch_size: int, *, seed: int, purpose: str) -> BatchPlan:
    """All images in random order, epoch after epoch."""
    order = noise.derive_seed(seed, purpose)
    return BatchPlan(real=len(images), batch_size=batch_size, epoch_images=len(images), seed=order)


def in_order(images: Images, batch_size: int, processes: Processes = ALONE) -> Iterator[Minibatch]:
    """All images once in their order, as they are; the draws belong to their positions.

    Of several processes each gets every n-th batch.
    """
    for start in range(processes.rank * batch_size, len(images), processes.count * batch_size):
        x, labels = images.batch(slice(start, start + batch_size))
        yield Minibatch(x, labels, torch.arange(start, start + len(x), device=x.device))


@torch.no_grad()
def mean_over(
    images: Images,
    values: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    figures: int = 1,
    batch_size: int,
    processes: Processes = ALONE,
) -> list[float]:
    """The means over a set of the `figures` that a function gives of each image; processes share the batches.

    `values(x, labels, index)`: figures (b, `figures`), or (b,) of one, from images, labels and positions.
    """
    total = torch.zeros(figures, dtype=torch.float64)
    for batch in in_order(images, batch_size, processes):
        total += values(*batch).reshape(len(batch.x), figures).sum(dim=0).cpu()
    return [value / len(images) for value in processes.sum(total.to(meeting_device())).tolist()]
