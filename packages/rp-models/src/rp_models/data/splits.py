"""Which images are for training, for choosing between models, and for the final judgement: fixed for ever."""

import hashlib

import numpy as np

VALIDATION_IMAGES = 1024  # the first training images, never trained on: Wang et al. 2023, arXiv:2302.04638


def of_official(split: str) -> slice:
    """The part of the official training or test images that makes up a split.

    `split`: "train" and "validation" are parts of the official training images, "test" is all official test images.
    """
    return {"train": slice(VALIDATION_IMAGES, None), "validation": slice(VALIDATION_IMAGES), "test": slice(None)}[split]


def of_one_file(split: str, count: int) -> np.ndarray:
    """Positions in a file of `count` images without an official split: 80, 10 and 10 % of one fixed shuffle, or all."""
    if split == "all":
        return np.arange(count)
    order = np.random.RandomState(0).permutation(count)
    tenth = count // 10
    start, end = {"test": (0, tenth), "validation": (tenth, 2 * tenth), "train": (2 * tenth, count)}[split]
    return order[start:end]


def of_name(name: str) -> str:
    """The split of an image file by a hash of its name, so that other files may come and go: about 80, 10 and 10 %."""
    tenth = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") % 10
    return {0: "test", 1: "validation"}.get(tenth, "train")
