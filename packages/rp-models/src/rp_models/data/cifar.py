"""CIFAR-10 and CIFAR-100 from their official files: the Python pickles or the binary version.

Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError
from rp_models.data.pickled_arrays import read_pickled_arrays
from rp_models.data.places import Place
from rp_models.data.splits import of_official

_PIXELS = 3 * 32 * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """The files of one of the two data sets."""

    place: Place
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: bytes  # in the pickles
    label_bytes: int  # before each image of the binary version; the last one is the label


def read_cifar10(
    split: str, *, root: str | Path | None = None, download: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of one split of CIFAR-10; arguments and errors as in `load_images`."""
    return _read(_CIFAR10, split, root, download)


def read_cifar100(
    split: str, *, root: str | Path | None = None, download: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and the 100 fine labels (n,) of one split of CIFAR-100; arguments as in `read_cifar10`."""
    return _read(_CIFAR100, split, root, download)


def _read(layout: _Layout, split: str, root: str | Path | None, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """All batch files of a split."""
    names = layout.test if split == "test" else layout.train
    folder = layout.place.find((names[0], f"{names[0]}.bin"), root=root, download=download)
    images, labels = zip(*(_read_batch(folder, name, layout) for name in names), strict=True)
    part = of_official(split)
    return np.concatenate(images).reshape(-1, 3, 32, 32)[part], np.concatenate(labels)[part]


def _read_batch(folder: Path, name: str, layout: _Layout) -> tuple[np.ndarray, np.ndarray]:
    """Pixel rows (n, 3072) and labels of one file."""
    if (folder / name).is_file():
        content = read_pickled_arrays(folder / name)
        rows, labels = content.get(b"data"), content.get(layout.label_key)
        if not isinstance(rows, np.ndarray) or rows.shape[1:] != (_PIXELS,) or not isinstance(labels, list):
            raise DataError(f"{folder / name}: expected `data` of {_PIXELS} bytes an image and `{layout.label_key!r}`")
        if len(labels) != len(rows):
            raise DataError(f"{folder / name}: {len(rows)} images, but {len(labels)} labels")
        return rows, np.array(labels, dtype=np.int64)
    binary = folder / f"{name}.bin"
    if not binary.is_file():
        raise DataError(f"{folder}: {name} is missing, while other files are there; unpack the archive again")
    raw = np.fromfile(binary, dtype=np.uint8)
    width = layout.label_bytes + _PIXELS
    if raw.size == 0 or raw.size % width:
        raise DataError(f"{binary}: {raw.size} bytes are no multiple of {width}; the file is cut off, fetch it again")
    records = raw.reshape(-1, width)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].astype(np.int64)


def _place(number: str, pickles: str, binary: str, *others: str) -> Place:
    """Where one of the two lies; `others` hold its binary files themselves."""
    return Place(
        name=f"cifar{number}",
        folders=(pickles, f"cifar{number}/{pickles}", binary, f"cifar{number}/{binary}", *others),
        torchvision=f"CIFAR{number}",
        advice=f"unpack cifar-{number}-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html there",
    )


_CIFAR10 = _Layout(
    place=_place("10", "cifar-10-batches-py", "cifar-10-batches-bin", "cifar10", ""),
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    label_key=b"labels",
    label_bytes=1,
)
_CIFAR100 = _Layout(
    place=_place(
        "100", "cifar-100-python", "cifar-100-binary"
    ),  # not "": files called `train` and `test` may be anything
    train=("train",),
    test=("test",),
    label_key=b"fine_labels",
    label_bytes=2,
)
