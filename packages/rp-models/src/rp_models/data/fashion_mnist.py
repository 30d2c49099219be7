"""Fashion-MNIST from its four IDX files."""

import os
from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError
from rp_models.data.idx import read_idx

VALIDATION = 1024  # the first training images, as DM-AT keeps them
_FOLDERS = (Path("data/fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"))  # own copy, Debian's package
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_fashion_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 28, 28) and labels (n,) of one split.

    Raises:
        DataError: if the files are nowhere, or damaged.
    """
    folders = (Path(os.environ["RP_DATA"]) / "fashion-mnist", *_FOLDERS) if "RP_DATA" in os.environ else _FOLDERS
    arrays = []
    for name in _FILES["test" if split == "test" else "train"]:
        found = [f for folder in folders for f in (folder / name, folder / f"{name}.gz") if f.is_file()]
        if not found:
            raise DataError(f"no {name} in {', '.join(map(str, folders))}; apt-get install dataset-fashion-mnist")
        arrays.append(read_idx(found[0]))
    images, labels = arrays[0][:, None].copy(), arrays[1].astype(np.int64)
    part = {"train": slice(VALIDATION, None), "validation": slice(0, VALIDATION), "test": slice(None)}[split]
    return images[part], labels[part]
