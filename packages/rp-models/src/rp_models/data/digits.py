"""The digits that come with the package: 1,797 scans of 8x8 pixels.

Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
"""

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from rp_models.data.catalog import CATALOG


def read_digits(split: str, *, root: str | Path | None = None, download: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 8, 8) and labels (n,) of one split; grey levels 0..16 are stretched to 0..255.

    `root` and `download` are not needed: the images are in the package.
    """
    with as_file(files("rp_models.data") / "digits.npz") as path, np.load(path, allow_pickle=False) as file:
        levels, labels = file["image"], file["label"].astype(np.int64)
    images = np.rint(levels.astype(np.float64) * (255.0 / 16.0)).astype(np.uint8)[:, None]
    # one fixed shuffle, because the scans are stored writer by writer
    order = np.random.RandomState(0).permutation(len(images))
    sizes = CATALOG["digits"].split_sizes
    start = {"test": 0, "validation": sizes["test"], "train": sizes["test"] + sizes["validation"]}[split]
    chosen = order[start : start + sizes[split]]
    return images[chosen], labels[chosen]
