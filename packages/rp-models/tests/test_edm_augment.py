"""EDM's augmentation: identity, exact flips, labels that say what was done, the same in every batch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import noise
from rp_models.diffusion.edm_augment import Augmentation, Transforms

ALL = Augmentation(p=1.0)


def images(batch=4, height=16, width=16, channels=2):
    """Smooth images (a few waves each), so that sampling between pixels is accurate."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    phase = 6 * noise.uniform((3, channels), seed=1, purpose="phase", index=torch.arange(batch))[..., None, None]
    return (2 * x + phase[:, 0]).sin() + (2 * y + phase[:, 1]).sin() + (x + y + phase[:, 2]).cos()


def transforms(batch=4, **values):
    return Transforms(*(torch.full((batch,), float(values.get(name, 0))) for name in Transforms._fields))


def test_probability_zero_is_the_identity_with_zero_labels():
    x = images()
    result, labels = Augmentation(p=0)(x, seed=1, index=torch.arange(4))
    assert torch.equal(result, x)
    assert torch.equal(labels, torch.zeros(4, 9))


def test_flips_are_exact_and_labelled():
    x = images(64)
    result, labels = Augmentation(p=1, scale=0, rotate_frac=0, aniso=0, translate_frac=0)(
        x, seed=2, index=torch.arange(64)
    )
    assert torch.equal(labels[:, 2:], torch.zeros(64, 7))
    kinds = {tuple(row) for row in labels[:, :2].int().tolist()}
    assert kinds == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for image, original, (flip_x, flip_y) in zip(result, x, labels[:, :2].int().tolist(), strict=True):
        axes = [2] * flip_x + [1] * flip_y
        assert torch.equal(image, original.flip(axes) if axes else original)


@settings(deadline=None, max_examples=6)
@given(right=st.integers(-3, 3), down=st.integers(-3, 3))
def test_images_move_by_as_many_pixels_as_the_labels_say(right, down):
    x = images(1)
    moved = transforms(1, shift_x=right / (0.125 * 16), shift_y=down / (0.125 * 16))
    labels = moved.labels()[0]
    assert (labels[7] * 0.125 * 16, labels[8] * 0.125 * 16) == (right, down)
    result = ALL.apply(x, moved)
    rows, columns = slice(max(0, down), 16 + min(0, down)), slice(max(0, right), 16 + min(0, right))
    source_rows, source_columns = slice(max(0, -down), 16 + min(0, -down)), slice(max(0, -right), 16 + min(0, -right))
    # shifts by whole pixels pass the wavelet filters unchanged, up to float32 sums
    torch.testing.assert_close(result[:, :, rows, columns], x[:, :, source_rows, source_columns], rtol=0, atol=2e-5)


def test_a_quarter_turn_is_torch_rot90():
    x = images()
    turned = ALL.apply(x, transforms(angle=math.pi / 2))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), rtol=0, atol=0.05)  # corners show the sharper reflection
    assert (x.rot90(-1, (2, 3)) - x.rot90(1, (2, 3))).abs().max() > 1  # the other direction is far away


@pytest.mark.parametrize(
    ("values", "matrix"),
    [
        ({"log_scale": 2.0}, [[2**0.4, 0], [0, 2**0.4]]),
        ({"log_stretch": 2.0}, [[2**0.4, 0], [0, 2**-0.4]]),
        ({"log_stretch": 2.0, "axis": math.pi / 2}, [[2**-0.4, 0], [0, 2**0.4]]),
    ],
)
def test_images_are_magnified_and_stretched_about_their_centre(values, matrix):
    x = images(2, 17, 17)
    result = ALL.apply(x, transforms(2, **values))
    # the slow twin: for each pixel, the point that it shows, read off the waves' own formula by bilinear sampling
    inverse = torch.linalg.inv(torch.tensor(matrix))
    for row in range(4, 13):
        for column in range(4, 13):
            source = inverse @ torch.tensor([column - 8.0, row - 8.0]) + 8
            left, top = int(source[0]), int(source[1])
            right, bottom = float(source[0]) - left, float(source[1]) - top
            patch = x[:, :, top : top + 2, left : left + 2]
            expected = (1 - bottom) * ((1 - right) * patch[..., 0, 0] + right * patch[..., 0, 1])
            expected = expected + bottom * ((1 - right) * patch[..., 1, 0] + right * patch[..., 1, 1])
            torch.testing.assert_close(result[:, :, row, column], expected, rtol=0, atol=0.02)


def test_labels_have_the_order_of_the_released_models():
    values = dict.fromkeys(("flip_x", "flip_y"), 1) | {"log_scale": 0.5, "angle": 0.3, "log_stretch": -0.7}
    labels = transforms(1, **values, axis=0.2, shift_x=1.5, shift_y=-0.4).labels()[0].tolist()
    stretch = [-0.7 * math.cos(0.2), -0.7 * math.sin(0.2)]
    assert labels == pytest.approx([1, 1, 0.5, math.cos(0.3) - 1, math.sin(0.3), *stretch, 1.5, -0.4], abs=1e-6)


def test_what_is_not_applied_has_zero_labels_and_each_change_has_its_probability():
    index = torch.arange(4000)
    drawn = Augmentation().draw(seed=5, index=index)
    rates = torch.stack([field != 0 for field in drawn]).float().mean(dim=1).tolist()
    # half of the flips show; the stretch's axis is drawn on its own; 4 standard errors
    expected = [0.5, 0.06, 0.12, 0.12, 0.12, 0.5, 0.12, 0.12]
    for rate, wanted in zip(rates, expected, strict=True):
        assert abs(rate - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 4000)
    labels = drawn.labels()
    assert torch.equal(labels[drawn.log_stretch == 0][:, 5:7], torch.zeros(int((drawn.log_stretch == 0).sum()), 2))
    assert torch.equal(drawn.shift_x != 0, drawn.shift_y != 0)
    assert drawn.log_scale[drawn.log_scale != 0].std() == pytest.approx(1, abs=0.15)


def test_an_image_is_augmented_alike_alone_and_in_any_batch():
    x, index = images(6, 8, 12), torch.tensor([3, 900, 17, 4, 2**40, 0])
    together, labels = ALL(x, seed=7, index=index)
    assert together.shape == x.shape
    for i in range(6):
        alone, label = ALL(x[i : i + 1], seed=7, index=index[i : i + 1])
        assert torch.equal(label[0], labels[i])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)
    other, _ = ALL(x, seed=8, index=index)
    assert (other - together).abs().max() > 0.1


def test_the_images_are_left_as_they_are():
    x = images()
    copy = x.clone()
    ALL(x, seed=1, index=torch.arange(4))
    assert torch.equal(x, copy)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 4 images"):
        ALL.apply(images(3), transforms(4))
