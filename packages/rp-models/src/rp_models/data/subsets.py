"""Fixed random subsets, and digests that tell which images a result is about."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from rp_models.data.images import Images, ImageSet, to_bytes


def subset_index(total: int, count: int, *, seed: int = 0) -> Tensor:
    """Which images a fixed random subset takes, drawn as the field draws it: `RandomState(seed).choice`.

    Returns int64 (min(count, total),) positions; all in their order if there are not more than `count`.
    """
    if count >= total:
        return torch.arange(total)
    return torch.from_numpy(np.random.RandomState(seed).choice(total, count, replace=False))


def subset(images: Images, count: int, *, seed: int = 0) -> ImageSet:
    """The fixed random subset of `subset_index`, as a set in memory; all images if there are not more."""
    if isinstance(images, ImageSet):
        if count >= len(images):
            return images
        chosen = subset_index(len(images), count, seed=seed).to(images.device)
        return ImageSet(images.images[chosen], images.labels[chosen], images.info)
    x, labels = images.batch(subset_index(len(images), count, seed=seed))
    return ImageSet(to_bytes(x), labels, images.info)


def index_digest(index: Tensor) -> str:
    """A digest of image positions in their order, for result files: 32 hexadecimal digits, the same on every machine.

    BLAKE2b of their little-endian int64 bytes.
    """
    values = index.to("cpu", torch.int64).numpy().astype("<i8")
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()
