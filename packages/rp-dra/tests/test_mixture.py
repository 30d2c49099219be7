"""Batches: parts of several processes make up the whole, sets that do not fit are refused, files are read ahead."""

import dataclasses

import pytest
import torch
from rp_dra import TrainingSettings
from rp_dra.mixture import Mixture
from rp_models.data import DataError, ImageSet, describe, load_images, read_synthetic, subset, write_synthetic
from rp_models.data.augment import crop_and_flip
from rp_models.training import Processes

RECIPE = TrainingSettings(batch_size=8, epoch_images=24, synthetic_fraction=0.5, crop_padding=1, flip=False)


@pytest.fixture(scope="module")
def real():
    return subset(load_images("digits", "train"), 20)


@pytest.fixture(scope="module")
def made():
    return subset(load_images("digits", "validation"), 30)


@pytest.mark.parametrize("count", [2, 4])
def test_the_processes_parts_make_up_the_whole_batch(real, made, count):
    whole = Mixture(RECIPE, real, made, seed=1).whole(5)
    parts = [Mixture(RECIPE, real, made, seed=1, processes=Processes(rank, count)).part(5) for rank in range(count)]
    for own, joined in zip(whole, map(torch.cat, zip(*parts, strict=True)), strict=True):
        assert torch.equal(own, joined)


def test_a_batch_is_what_the_plan_says_augmented_by_the_numbers_of_its_images(real, made):
    mixture = Mixture(RECIPE, real, made, seed=1)
    batch = mixture.part(4)
    images = torch.cat([real.images, made.images])
    labels = torch.cat([real.labels, made.labels])
    chosen = mixture.plan.indices(1, 1)
    plain = images[chosen].float() / 255
    index = torch.arange(32, 40)
    assert torch.equal(batch.draw, index)
    assert torch.equal(batch.y, labels[chosen])
    expected = crop_and_flip(plain, padding=1, flip=False, seed=1, purpose="training", index=index)
    assert torch.equal(batch.x, expected)


def test_only_synthetic_images_make_a_batch_too(real, made):
    recipe = dataclasses.replace(RECIPE, synthetic_fraction=1.0, crop_padding=0)
    batch = Mixture(recipe, real, made, seed=0).part(0)
    known = {bytes(image.numpy().tobytes()) for image in made.images}
    assert all((image * 255).round().to(torch.uint8).numpy().tobytes() in known for image in batch.x)


def test_images_in_files_give_the_same_batches_in_any_order_of_steps(real, made, tmp_path):
    write_synthetic(made.images, made.labels, tmp_path / "s.npz")
    mapped = read_synthetic(tmp_path / "s.npz", made.info)
    memory, files = Mixture(RECIPE, real, made, seed=2), Mixture(RECIPE, real, mapped, seed=2)
    for step in (0, 1, 2, 7, 3):
        assert all(torch.equal(a, b) for a, b in zip(memory.part(step), files.part(step), strict=True))


def test_larger_synthetic_images_are_scaled_to_the_real_ones_size(real):
    info = dataclasses.replace(describe("digits"), image_size=16)
    grey = ImageSet(torch.full((4, 1, 16, 16), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), info)
    recipe = dataclasses.replace(RECIPE, synthetic_fraction=1.0, crop_padding=0)
    batch = Mixture(recipe, real, grey, seed=0).part(0)
    assert batch.x.shape == (8, 1, 8, 8)
    torch.testing.assert_close(batch.x, torch.full_like(batch.x, 128 / 255))


def test_what_does_not_fit_is_refused(real, made):
    with pytest.raises(DataError, match="batch_size 8 cannot be divided among 3 processes"):
        Mixture(RECIPE, real, made, seed=0, processes=Processes(0, 3))
    info = dataclasses.replace(made.info, class_names=tuple("01234567890"))
    with pytest.raises(DataError, match="11 classes, 1 channels, 8 pixels"):
        Mixture(RECIPE, real, ImageSet(made.images, made.labels, info), seed=0)
    small = dataclasses.replace(made.info, image_size=4)
    with pytest.raises(DataError, match="do not fit digits"):
        Mixture(RECIPE, real, ImageSet(made.images[:, :, :4, :4], made.labels, small), seed=0)
