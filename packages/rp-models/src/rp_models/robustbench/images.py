"""The images that RobustBench judges on: the first ones of a test set, clean or corrupted, in its order.

Source: Croce et al. 2021, arXiv:2010.09670.
"""

from pathlib import Path

from rp_models.data.datasets import load_images
from rp_models.data.images import Images, ImageSet
from rp_models.data.shifts import find_shift, is_shift
from rp_models.robustbench.imagenet import COUNT, corrupted_images, imagenet_images


def benchmark_images(
    name: str,
    count: int | None = None,
    *,
    preprocessing: str = "Res256Crop224",
    root: str | Path | None = None,
) -> Images:
    """The first `count` test images of a data set as RobustBench takes them; of ImageNet, clean or corrupted, of 5,000.

    Args:
        name: a data set, or one severity of a corruption, e.g. "cifar10-c/fog/3".
        count: all, of ImageNet all 5,000, for None or if there are not more.
        preprocessing: of clean ImageNet pictures, see `rp_models.robustbench.imagenet.imagenet_view`.
        root: the folder that holds data sets.

    Raises:
        DataError: if files are missing or damaged.
    """
    shift = find_shift(name) if is_shift(name) else None
    if "imagenet" in (name, shift and shift.base):
        pictures = min(count or COUNT, COUNT)
        if shift is None:
            return imagenet_images(preprocessing, pictures, root=root)
        return corrupted_images(shift, pictures, root=root)
    images = load_images(name, "test", root=root)
    return ImageSet(images.images[:count], images.labels[:count], images.info)
