"""Augmentation on the device: against slow twins of one image, and independent of the batch."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise
from rp_models.data import Augmentation, ResizedCrop, load_images
from rp_models.data.augment import augment, augmented_batch, crop_and_flip, cut_out, resized_parts, rotate
from rp_models.data.crops import random_boxes


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


def rotated_one(image, degrees):
    """The obvious twin: each pixel asks which pixel of the original lies nearest to where it comes from."""
    height, width = image.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            y, x = row - (height - 1) / 2, column - (width - 1) / 2
            source_x, source_y = cos * x - sin * y + (width - 1) / 2, sin * x + cos * y + (height - 1) / 2
            i, j = round(source_y), round(source_x)
            if 0 <= i < height and 0 <= j < width:
                out[:, row, column] = image[:, i, j]
    return out


def test_rotation_takes_the_nearest_pixel():
    x = torch.rand(3, 2, 7, 10)
    degrees = torch.tensor([12.3, -33.0, 89.0])
    for image, angle, result in zip(x, degrees.tolist(), rotate(x, degrees), strict=True):
        assert torch.equal(result, rotated_one(image, angle)), angle


def test_positive_angles_turn_counter_clockwise():
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(rotate(x, torch.tensor([90.0])), x.rot90(1, (2, 3)))


def test_cutout_is_a_square_cut_off_at_the_border():
    x = torch.ones(3, 1, 8, 9)
    row, column = torch.tensor([0, 4, 7]), torch.tensor([0, 4, 2])
    for size in (1, 3, 4):
        out = cut_out(x, row, column, size=size)
        for image, i, j in zip(out[:, 0], row.tolist(), column.tolist(), strict=True):
            expected = torch.ones(8, 9)
            top, left = i - size // 2, j - size // 2
            expected[max(0, top) : top + size, max(0, left) : left + size] = 0
            assert torch.equal(image, expected)


def box_one(height, width, draws, scale, ratio):
    """The obvious twin: try ten times, else take the middle."""
    for area, shape, below, right in draws.T.tolist():
        target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * shape)
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(below * (height - h + 1)), int(right * (width - w + 1)), h, w]
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize("crop", [ResizedCrop(), ResizedCrop(scale=(0.9, 1.0)), ResizedCrop(ratio=(1.0, 1.0))])
def test_random_parts_are_drawn_as_the_field_draws_them(crop):
    index = torch.arange(60)
    height, width = 20 + 7 * index, 20 + 300 * (index % 3)
    boxes = random_boxes(height, width, crop, seed=3, purpose="t", index=index)
    draws = noise.uniform((4, 10), seed=3, purpose="part/t", index=index, dtype=torch.float64)
    sizes = zip(height.tolist(), width.tolist(), draws, strict=True)
    assert boxes.tolist() == [box_one(h, w, draw, crop.scale, crop.ratio) for h, w, draw in sizes]


def test_a_stretched_part_knows_nothing_of_its_surroundings():
    x = torch.rand(4, 2, 9, 12)
    boxes = torch.tensor([[0, 0, 9, 12], [2, 3, 4, 5], [8, 11, 1, 1], [1, 0, 8, 3]])
    for image, (top, left, h, w), result in zip(x, boxes.tolist(), resized_parts(x, boxes), strict=True):
        part = image[None, :, top : top + h, left : left + w]
        expected = torch.nn.functional.interpolate(part, (9, 12), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)  # float32 positions, up to 12 pixels


FULL = Augmentation(resized_crop=ResizedCrop(), crop_padding=2, flip=True, rotation_degrees=20.0, cutout=3)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**40))
def test_the_whole_augmentation_does_not_depend_on_the_batch(seed):
    x, index = torch.rand(3, 3, 8, 8), torch.tensor([5, 2**33, 0])
    before = x.clone()
    whole = augment(x, FULL, seed=seed, purpose="a", index=index)
    assert torch.equal(x, before)
    for i in range(3):
        assert torch.equal(augment(x[i : i + 1], FULL, seed=seed, purpose="a", index=index[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("field", dataclasses.fields(Augmentation), ids=lambda field: field.name)
def test_each_field_changes_the_images_and_another_seed_or_epoch_changes_them_otherwise(field):
    one = Augmentation(**{field.name: getattr(FULL, field.name)})
    x, index = torch.rand(8, 1, 8, 8), torch.arange(8)
    first, again, second = (augment(x, one, seed=0, purpose=p, index=index) for p in ("0", "0", "1"))
    other, shifted = (augment(x, one, seed=s, purpose="0", index=index + 8 * (1 - s)) for s in (1, 0))
    assert torch.equal(first, again)
    assert not torch.equal(first, x)
    for differs in (second, other, shifted):  # another epoch, another seed, other numbers of the images
        assert not torch.equal(first, differs)


def test_no_augmentation_is_the_identity():
    x = torch.rand(2, 1, 4, 4)
    assert augment(x, Augmentation(), seed=0, purpose="", index=torch.arange(2)) is x
    assert len(augment(x[:0], FULL, seed=0, purpose="", index=torch.arange(0))) == 0


def test_an_augmented_batch_is_the_batch_augmented():
    digits, index, draw = load_images("digits", "test"), torch.tensor([7, 0]), torch.tensor([100, 101])
    x, y = augmented_batch(digits, index, FULL, seed=1, purpose="p", draw=draw)
    plain, labels = digits.batch(index)
    assert torch.equal(x, augment(plain, FULL, seed=1, purpose="p", index=draw))
    assert torch.equal(y, labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Augmentation(cutout=-1), "cutout must not be negative"),
        (lambda: ResizedCrop(scale=(0.5, 1.5)), r"shares of the area in \(0, 1\]"),
        (lambda: ResizedCrop(ratio=(0.0, 1.0)), "positive"),
    ],
)
def test_impossible_augmentations_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
