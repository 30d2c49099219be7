"""Fashion-MNIST from its four IDX files. Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747."""

from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError
from rp_models.data.idx import read_idx
from rp_models.data.places import Place
from rp_models.data.splits import of_official

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_fashion_mnist(
    split: str, *, root: str | Path | None = None, download: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 28, 28) and labels (n,) of one split; arguments and errors as in `load_images`."""
    images_name, labels_name = _FILES["test" if split == "test" else "train"]
    folder = _PLACE.find((images_name, f"{images_name}.gz"), root=root, download=download)
    images, labels = _read(folder, images_name), _read(folder, labels_name)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(f"{folder}: images {images.shape} and labels {labels.shape} do not belong together; fetch both")
    part = of_official(split)
    return images[part, None].copy(), labels[part].astype(np.int64)


def _read(folder: Path, name: str) -> np.ndarray:
    """One IDX file, plain or compressed."""
    plain = folder / name
    return read_idx(plain if plain.is_file() else folder / f"{name}.gz")


_PLACE = Place(
    name="fashion-mnist",
    folders=("fashion-mnist", "FashionMNIST/raw", ""),
    system=(Path("/usr/share/datasets/fashion-mnist"),),
    torchvision="FashionMNIST",
    advice="apt-get install dataset-fashion-mnist",
)
