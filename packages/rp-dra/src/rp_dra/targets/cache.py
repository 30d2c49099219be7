"""A target's features computed once, for probes and analyses of fixed images under fixed noise."""

from collections.abc import Sequence

import torch
from rp_models.data.images import Images
from torch import Tensor

from rp_dra.targets.target import Target, represent


class CachedTarget:
    """The representations of every image of some sets, for noise that is fixed for each image.

    For code that asks again and again about the same images: probes, similarities, a training loop of one's own. It is
    no `Target` and `ClassifierTrainer` does not take it: there noise is drawn anew in each step, and a batch does not
    say which images it consists of, by whose numbers the cache is asked.

    It holds exactly what `represent(target, x, y, seed=seed, draw=number of the image)` gives in batches of
    `batch_size`, and the same up to rounding in others. An image that is cropped or mirrored has other features, so
    augmentation is refused. With these features a training has the same noise in each epoch: another method than the
    paper's.

    Attributes:
        table: float32 (n, r, d).

    Args:
        images: sets of images, numbered one after another as `BatchPlan` does (real ones first, then synthetic ones).
        augmented: whether the images will be augmented before they are asked about; must be False.
        verify: check in each call that the images are the cached ones (on a GPU this waits for the device).

    Raises:
        ValueError: if the images are augmented, or there are none.
    """

    def __init__(
        self,
        target: Target,
        images: Sequence[Images],
        *,
        augmented: bool,
        seed: int,
        batch_size: int = 512,
        verify: bool = True,
    ) -> None:
        if augmented:
            raise ValueError(
                "features can be cached only for images that never change, but these are augmented: switch "
                "crops and flips off (crop_padding=0, flip=False), or align with the target itself"
            )
        if not images or not all(len(part) for part in images):
            raise ValueError("there are no images to cache the features of")
        self.images, self.verify = tuple(images), verify
        tables, first = [], 0
        for part in self.images:
            for rows in torch.arange(len(part), device=part.device).split(batch_size):
                x, y = part.batch(rows)
                tables.append(represent(target, x, y, seed=seed, draw=first + rows))
            first += len(part)
        self.table = torch.cat(tables)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def random_level(self) -> bool:
        """Whether each image has a second representation; see `Target`."""
        return self.table.shape[1] == 2

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d."""
        return int(self.table.shape[2])

    def __call__(self, x: Tensor, image: Tensor) -> Tensor:
        """The representations (b, r, d) of images, by their numbers.

        Args:
            x: the images (b, c, h, w) in [0, 1], as they are in the sets.
            image: int64 (b,), their numbers.

        Raises:
            ValueError: if a number is out of range, or the images are not the cached ones.
        """
        if self.verify:
            self._check(x, image)
        return self.table[image.to(self.table.device)]

    def _check(self, x: Tensor, image: Tensor) -> None:
        """Refuse images that are not the cached ones."""
        if len(image) and not 0 <= int(image.min()) <= int(image.max()) < len(self):
            raise ValueError(f"image numbers must be in 0..{len(self) - 1}, got {int(image.min())}..{int(image.max())}")
        if not torch.equal(x, self._originals(image)):
            raise ValueError(
                "these images are not those whose features are cached; pass them without augmentation, with the "
                "numbers that the batch plan gave them"
            )

    def _originals(self, image: Tensor) -> Tensor:
        """The cached images of these numbers, in [0, 1]."""
        info = self.images[0].info
        device = self.images[0].device
        x = torch.empty(len(image), info.channels, info.image_size, info.image_size, device=device)
        first, image = 0, image.to(device)
        for part in self.images:
            rows = (image >= first) & (image < first + len(part))
            x[rows] = part.batch(image[rows] - first)[0]
            first += len(part)
        return x
