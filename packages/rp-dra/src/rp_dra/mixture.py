"""The batches of a training: real and synthetic images mixed as in DM-AT, augmented, a function of the step alone."""

from typing import NamedTuple

import torch
from rp_models import noise
from rp_models.data import BatchPlan, DataError, Images
from rp_models.data.augment import augmented_batch
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import StepBatches
from rp_models.values import send
from torch import Tensor

from rp_dra.settings import TrainingSettings
from rp_dra.targets import fit_image


class Batch(NamedTuple):
    """The images of one step."""

    x: Tensor  # images (b, c, h, w) in [0, 1], augmented
    y: Tensor
    draw: Tensor  # int64 (b,), the number of each image in the whole training; its random draws belong to it


class Mixture(StepBatches[Batch]):
    """Makes this process's part of each step's batch.

    Every random draw belongs to an image's place in the training, counted over all processes: one process or eight see
    the same images, crops and noise. Images that are not in memory are read ahead in the background.

    Args:
        synthetic: synthetic images, or None; larger ones are scaled down to the real ones' size.

    Raises:
        DataError: if a batch cannot be divided among the processes, or the two sets do not fit each other.
    """

    def __init__(
        self,
        training: TrainingSettings,
        real: Images,
        synthetic: Images | None = None,
        *,
        seed: int,
        processes: Processes = ALONE,
    ) -> None:
        self.real, self.synthetic, self.augmentation, self.seed = real, synthetic, training.augmentation, seed
        if training.batch_size % processes.count:
            raise DataError(
                f"training.batch_size {training.batch_size} cannot be divided among {processes.count} processes; "
                "choose a multiple"
            )
        if synthetic is not None:
            _check_pair(real, synthetic)
        plan = BatchPlan(
            real=len(real),
            synthetic=len(synthetic) if synthetic is not None else 0,
            batch_size=training.batch_size,
            synthetic_fraction=training.synthetic_fraction if synthetic is not None else 0.0,
            epoch_images=training.epoch_images or len(real),
            seed=noise.derive_seed(seed, "batches"),
        )
        super().__init__((real, *([] if synthetic is None else [synthetic])), plan, training.batch_size, processes)

    def take(self, chosen: Tensor, draw: Tensor) -> Batch:
        """The images of these positions; from the number of real images on they are synthetic."""
        made = chosen >= len(self.real)  # found out on the CPU, so that no GPU has to be waited for
        groups = [
            (self.real, chosen[~made], draw[~made]),
            *([(self.synthetic, chosen[made] - len(self.real), draw[made])] if self.synthetic is not None else []),
        ]
        parts = [self._augmented(*group) for group in groups if len(group[1])]
        # the groups came one after the other; now each image goes to its place
        place = torch.argsort(torch.cat([(~made).nonzero()[:, 0], made.nonzero()[:, 0]]))
        place = send(place, self.device)
        x, y = (torch.cat(column)[place] for column in zip(*parts, strict=True))
        return Batch(x, y, send(draw, self.device))

    def _augmented(self, images: Images, index: Tensor, draw: Tensor) -> tuple[Tensor, Tensor]:
        """Some images of one set, augmented, in the real ones' size."""
        x, y = augmented_batch(images, index, self.augmentation, seed=self.seed, purpose="training", draw=draw)
        return fit_image(x, self.real.info.image_size), y


def _check_pair(real: Images, synthetic: Images) -> None:
    """Refuse synthetic images of other classes or channels, or too small."""
    a, b = real.info, synthetic.info
    if (a.num_classes, a.channels) != (b.num_classes, b.channels) or b.image_size < a.image_size:
        raise DataError(
            f"the synthetic images ({b.num_classes} classes, {b.channels} channels, {b.image_size} pixels) do not fit "
            f"{a.name} ({a.num_classes} classes, {a.channels} channels, {a.image_size} pixels)"
        )
