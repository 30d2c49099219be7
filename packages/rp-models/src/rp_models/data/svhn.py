"""SVHN, the cropped house numbers, from the official MATLAB files.

Source: Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning.
"""

from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError
from rp_models.data.places import Place
from rp_models.data.splits import of_official


def read_svhn(split: str, *, root: str | Path | None = None, download: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32) and labels (n,) of one split; arguments and errors as in `load_images`.

    The file's label 10 is the digit 0; the "extra" images are not used. The files are read by scipy.
    """
    name = f"{'test' if split == 'test' else 'train'}_32x32.mat"
    path = _PLACE.find((name,), root=root, download=download) / name
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("svhn: reading .mat files needs scipy; pip install scipy") from error
    try:
        content = loadmat(path, variable_names=("X", "y"))
        images, labels = content["X"], content["y"].reshape(-1).astype(np.int64)
    except Exception as error:  # a damaged file can fail in any way
        raise DataError(f"{path}: no complete MATLAB file with `X` and `y` ({error}); fetch it again") from error
    if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
        raise DataError(f"{path}: expected bytes (32, 32, 3, {len(labels)}), got {images.dtype} {images.shape}")
    part = of_official(split)
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)[part]), labels[part] % 10


_PLACE = Place(
    name="svhn",
    folders=("svhn", "SVHN", ""),
    torchvision="SVHN",
    splits=("train", "test"),
    advice="fetch train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers",
)
