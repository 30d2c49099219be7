"""Synthetic images in DM-AT's file layout: an `.npz` with `image` (n, h, w, c) bytes and `label` (n,).

Source: Wang et al. 2023, arXiv:2302.04638 (the layout of the published sets).
"""

import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rp_models.data.catalog import DatasetInfo
from rp_models.data.datasets import DataError, ImageSet


def write_synthetic(images: Tensor, labels: Tensor, path: str | Path) -> None:
    """Write images and labels, complete under the file's name or not at all.

    Args:
        images: uint8 tensor (n, c, h, w).
        labels: int64 tensor (n,).
        path: of the `.npz` file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            # uncompressed, so that a large set can be memory-mapped
            np.savez(file, image=images.permute(0, 2, 3, 1).cpu().numpy(), label=labels.cpu().numpy())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_synthetic(path: str | Path, info: DatasetInfo) -> ImageSet:
    """Read a synthetic set.

    Args:
        path: of an `.npz` file in DM-AT's layout.
        info: the data set that it imitates.

    Raises:
        DataError: if the file is missing, damaged, or its images do not fit the data set.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            images, labels = file["image"], file["label"]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of synthetic images") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: expected an .npz with arrays `image` and `label` ({error})") from error
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return ImageSet(pixels, torch.from_numpy(labels.astype(np.int64)), info)
