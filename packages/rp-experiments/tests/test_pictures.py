"""The pictures that purify.py reads: their values, or a refusal."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rp_experiments.purify import read_pictures
from rp_models.data import DataError, describe
from torch import Tensor

Image = pytest.importorskip("PIL.Image")


def read(*files: Path) -> Tensor:
    """Digits' images in some files."""
    names = tuple(map(str, files))
    config = SimpleNamespace(data="digits", input=names, images=None, classifier=None)
    return read_pictures(config, describe("digits"), None).images.images  # type: ignore[arg-type]


def test_grey_levels_of_sixteen_bits_are_kept_to_eight(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "x.png")
    found = read(tmp_path / "x.png")
    assert len(found.unique()) == 64
    assert np.array_equal(found[0, 0].numpy(), (levels / 257).round())


def test_pictures_are_upright_and_opaque(tmp_path: Path) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    Image.fromarray(pixels).save(tmp_path / "side.png", exif=exif)
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[0] = 0
    Image.fromarray(np.stack([pixels, alpha], axis=-1)).save(tmp_path / "some.png")
    side, some = read(tmp_path / "side.png", tmp_path / "some.png")[:, 0].numpy()
    assert np.array_equal(side, np.rot90(pixels, -1))
    assert np.array_equal(some, np.where(alpha == 0, 255, pixels))


def test_pictures_of_32_bits_and_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(DataError, match="32 bits"):
        read(tmp_path / "deep.tiff")
    images = np.zeros((100, 8, 8), np.uint8)
    for labels in (90, 110):
        np.savez(tmp_path / "x.npz", image=images, label=np.zeros(labels, np.int64))
        with pytest.raises(DataError, match="one label for each of 100"):
            read(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", image=images + 3)
    assert torch.equal(read(tmp_path / "x.npz"), torch.full((100, 1, 8, 8), 3, dtype=torch.uint8))
