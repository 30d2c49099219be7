"""The embedded digits, what every description promises, and subsets."""

import hashlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from rp_models.data import DataError, ImageSet, describe, index_digest, load_images, subset
from rp_models.data.augmentation import AUGMENTATIONS
from rp_models.data.catalog import CATALOG
from rp_models.data.datasets import to_bytes, to_float
from rp_models.data.info import SPLITS

FINGERPRINTS = {"train": "d228536e6537227f", "validation": "7b4dcd4b71009767", "test": "a1ddcc21fb4e6c37"}


def test_the_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    levels = datasets.load_digits().images
    own = {split: load_images("digits", split) for split in SPLITS}
    stored = torch.cat([images.images for images in own.values()])[:, 0].numpy()
    expected = np.rint(levels * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, stored)) == sorted(map(bytes, expected))


def test_the_split_is_fixed_for_ever():
    fingerprints = {
        split: hashlib.sha256(load_images("digits", split).images.numpy().tobytes()).hexdigest()[:16]
        for split in SPLITS
    }
    assert fingerprints == FINGERPRINTS


def moments(images):
    """Mean and standard deviation of the bytes of a grey set, as numbers in [0, 1], from their histogram."""
    counts = torch.bincount(images.flatten(), minlength=256).double()
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (counts * levels).sum() / counts.sum()
    return float(mean), float(((counts * (levels - mean) ** 2).sum() / counts.sum()).sqrt())


@pytest.mark.parametrize("name", ["digits", "fashion-mnist"])
def test_each_description_fits_its_images(name):
    info = describe(name)
    try:
        splits = {split: load_images(name, split) for split in SPLITS}
    except DataError as error:
        pytest.skip(str(error))
    for split, images in splits.items():
        assert len(images) == info.split_sizes[split]
        assert set(images.labels.tolist()) == set(range(info.num_classes))
    training = [splits["train"].images]
    if name == "fashion-mnist":  # its usual constants are those of all 60,000 official training images
        training.append(splits["validation"].images)
    # the catalogue rounds to four digits
    assert moments(torch.cat(training)) == pytest.approx((*info.mean, *info.std), abs=6e-5)


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogue_is_complete(name):
    info = describe(name)
    assert info.name == name
    assert len(info.mean) == len(info.std) == info.channels
    assert tuple(info.split_sizes) == SPLITS
    assert len(set(info.class_names)) == info.num_classes
    assert info.eps["linf"] > 0
    assert info.source
    assert info.licence
    assert name in AUGMENTATIONS


def test_the_number_of_classes_is_the_official_one():
    known = {"cifar10": 10, "cifar100": 100, "svhn": 10, "imagenet": 1000, "imagenet-256": 1000, "fashion-mnist": 10}
    assert {name: describe(name).num_classes for name in known} == known
    assert list(describe("cifar100").class_names) == sorted(describe("cifar100").class_names)


def test_describing_a_data_set_does_not_import_torch():
    code = """
import sys
from rp_models.data.augmentation import AUGMENTATIONS
from rp_models.data.catalog import describe
import numpy
numpy.savez("own.npz", images=numpy.zeros((30, 9, 9), "u1"), labels=numpy.arange(30) % 3)
assert describe("own.npz").num_classes == 3
assert not {"torch", "PIL", "scipy"} & sys.modules.keys()
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


def test_batches_are_float_images_in_the_unit_interval():
    x, y = load_images("digits", "test").batch(torch.tensor([3, 1]))
    assert x.dtype == torch.float32
    assert x.shape == (2, 1, 8, 8)
    assert y.dtype == torch.int64
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_bytes_survive_the_way_to_float_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_bytes(to_float(every)), every)


def test_the_fixed_subset_is_the_fields():
    test = load_images("digits", "test")
    chosen = np.random.RandomState(0).choice(len(test), 20, replace=False)
    assert torch.equal(subset(test, 20).labels, test.labels[torch.from_numpy(chosen)])
    assert subset(test, 10_000) is test


def test_the_digest_of_an_index_knows_order_and_nothing_else():
    index = torch.tensor([3, 1, 2])
    words = b"".join(bytes([value, 0, 0, 0, 0, 0, 0, 0]) for value in (3, 1, 2))
    assert index_digest(index) == hashlib.blake2b(words, digest_size=16).hexdigest()
    assert index_digest(index.int()) == index_digest(index)
    assert index_digest(index.flip(0)) != index_digest(index)


def test_unknown_names_get_an_answer():
    with pytest.raises(ValueError, match="did you mean digits"):
        load_images("digit", "test")
    with pytest.raises(ValueError, match="train, validation, test"):
        load_images("digits", "val")


def test_an_image_set_needs_a_label_for_each_image():
    with pytest.raises(DataError, match="one int64 label for each of 2 images"):
        ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), describe("digits"))
