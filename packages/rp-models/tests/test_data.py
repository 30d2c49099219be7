"""The embedded digits, synthetic sets on disk, subsets, and augmentation."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.data import (
    DataError,
    ImageSet,
    crop_and_flip,
    describe,
    load_images,
    read_synthetic,
    subset,
    write_synthetic,
)
from rp_models.data.catalog import CATALOG, SPLITS
from rp_models.data.datasets import to_bytes, to_float

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


@pytest.mark.parametrize("name", CATALOG)
def test_each_description_fits_its_images(name):
    info = describe(name)
    for split in SPLITS:
        images = load_images(name, split)
        assert len(images) == info.split_sizes[split]
        assert set(images.labels.tolist()) == set(range(info.num_classes))
    x, _ = load_images(name, "train").batch(slice(None))
    # the catalogue rounds to four digits
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.tensor(info.mean), atol=6e-5, rtol=0)
    torch.testing.assert_close(x.std(dim=(0, 2, 3)), torch.tensor(info.std), atol=6e-5, rtol=0)


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


def test_unknown_names_get_an_answer():
    with pytest.raises(ValueError, match="did you mean digits"):
        load_images("digit", "test")
    with pytest.raises(ValueError, match="train, validation, test"):
        load_images("digits", "val")


def test_a_synthetic_set_survives_the_disk_in_dm_ats_layout(tmp_path):
    info = describe("digits")
    images = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(7)
    write_synthetic(images, labels, tmp_path / "deep" / "set.npz")
    with np.load(tmp_path / "deep" / "set.npz") as file:
        assert file["image"].shape == (7, 8, 8, 1)
        assert file["label"].dtype == np.int64
    back = read_synthetic(tmp_path / "deep" / "set.npz", info)
    assert torch.equal(back.images, images)
    assert torch.equal(back.labels, labels)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set.npz"]


def test_damaged_synthetic_files_are_refused(tmp_path):
    info = describe("digits")
    with pytest.raises(DataError, match="no such file"):
        read_synthetic(tmp_path / "none.npz", info)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match="`image` and `label`"):
        read_synthetic(tmp_path / "cut.npz", info)
    np.savez(tmp_path / "large.npz", image=np.zeros((2, 9, 9, 1), np.uint8), label=np.zeros(2, np.int64))
    with pytest.raises(DataError, match="expected uint8 images"):
        read_synthetic(tmp_path / "large.npz", info)
    np.savez(tmp_path / "labels.npz", image=np.zeros((2, 8, 8, 1), np.uint8), label=np.array([0, 10]))
    with pytest.raises(DataError, match=r"labels must be in 0\.\.9"):
        read_synthetic(tmp_path / "labels.npz", info)


def test_an_image_set_needs_a_label_for_each_image():
    with pytest.raises(DataError, match="one int64 label for each of 2 images"):
        ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), describe("digits"))


def crop_and_flip_one(image, row, column, mirror, padding):
    """The obvious twin: pad, mirror what the crop sees, crop."""
    height, width = image.shape[-2:]
    padded = torch.nn.functional.pad(image, (padding,) * 4)
    crop = padded[:, row : row + height, column : column + width]
    return crop.flip(-1) if mirror else crop


def test_augmentation_is_a_crop_of_the_padded_image_and_a_mirror():
    x = torch.rand(60, 2, 5, 5)
    out = crop_and_flip(x, padding=1, flip=True, seed=0, purpose="t", index=torch.arange(60))
    seen = set()
    for image, result in zip(x, out, strict=True):
        matches = [
            (row, column, mirror)
            for row in range(3)
            for column in range(3)
            for mirror in (False, True)
            if torch.equal(crop_and_flip_one(image, row, column, mirror, 1), result)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 12  # of 18 possible


@settings(deadline=None, max_examples=10)
@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 100))
def test_an_images_augmentation_does_not_depend_on_its_batch(padding, flip, seed):
    x = torch.rand(4, 1, 6, 6)
    index = torch.tensor([5, 9, 2, 7])
    whole = crop_and_flip(x, padding=padding, flip=flip, seed=seed, purpose="a", index=index)
    for i in range(4):
        alone = crop_and_flip(x[i : i + 1], padding=padding, flip=flip, seed=seed, purpose="a", index=index[i : i + 1])
        assert torch.equal(alone[0], whole[i])


def test_no_padding_and_no_flip_is_the_identity():
    x = torch.rand(3, 1, 6, 6)
    assert torch.equal(crop_and_flip(x, padding=0, flip=False, seed=0, purpose="", index=torch.arange(3)), x)
