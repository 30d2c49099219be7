"""The images that a job judges: a fixed draw of a split."""

from pathlib import Path

import torch
from rp_models.data import FolderImages, ImageSet, open_images, subset, subset_index
from torch import Tensor


def judged_images(
    data: str, split: str, count: int | None, *, device: torch.device, root: Path | None
) -> tuple[ImageSet, Tensor]:
    """The field's fixed draw of so many images of a split, in memory, and their positions in it.

    Only these are decoded where the images are single files.

    Args:
        data: the data set.
        split: of it.
        count: how many; None for all, in their order.
        device: where to put both.
        root: folder of the data sets; None for the usual places.

    Returns:
        The images, and int64 (n,).

    Raises:
        DataError: if the files are missing or damaged, or too many for the memory.
    """
    images = open_images(data, split, root=root)
    total = len(images)
    if count is not None and count < total:
        chosen = subset(images, count)
    else:
        chosen = images.load() if isinstance(images, FolderImages) else images
    return chosen.to(device), subset_index(total, count or total).to(device)
