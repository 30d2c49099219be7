import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.mask import random_mask
from rp_models.noise import uniform
from rp_purify import MAEPure, MAEView, MaskDiTView, variation
from rp_purify.amv import Convention, attention_variation, curve_over_radii, curve_over_steps
from rp_purify.hidden_patch import central_target, moved_attention, target_attention
from rp_testing import GOLDEN_FILES

from .models import tiny_images, tiny_mae, tiny_maskdit

GOLDEN = np.load(GOLDEN_FILES / "analysis_amv.npz")
CLEAN, ADVERSARIAL = (torch.from_numpy(GOLDEN[f"in_attn_{name}_mae"]).double() for name in ("clean", "adv"))


def _layers(convention: Convention) -> torch.Tensor:
    """Golden attention (samples, layers, heads, n, n) to variations (samples, layers)."""
    return torch.stack(
        [attention_variation(CLEAN[:, t], ADVERSARIAL[:, t], convention) for t in range(CLEAN.shape[1])], dim=1
    )


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_norms_and_heads_agree_with_an_independent_implementation(norm: str) -> None:
    short = {"frobenius": "fro", "spectral": "spectral"}[norm]
    assert json.loads(str(GOLDEN["config"]))["reference"] == "independent float64 numpy"
    each = _layers(Convention(norm=norm))  # type: ignore[arg-type]
    mean = _layers(Convention(norm=norm, heads="mean"))  # type: ignore[arg-type]
    per_head, joined = GOLDEN[f"out_{short}_per_head_mae"], GOLDEN[f"out_{short}_headmean_matrix_mae"]
    np.testing.assert_allclose(each, per_head.mean(axis=2), rtol=1e-9)  # float64 on both sides
    np.testing.assert_allclose(mean, joined, rtol=1e-9)
    np.testing.assert_allclose(each.mean(dim=0), GOLDEN[f"out_{short}_layer_mean_mae"], rtol=1e-9)


def test_squares_are_taken_before_the_mean_over_heads() -> None:
    squared = _layers(Convention(squared=True)).mean(dim=0)
    np.testing.assert_allclose(squared, GOLDEN["out_fro_sq_layer_mean_mae"], rtol=1e-9)


@given(seed=st.integers(0, 1000), tokens=st.integers(2, 6), sharpness=st.sampled_from([0.1, 3.0, 100.0]))
@settings(deadline=None, max_examples=20)
def test_variation_keeps_its_bounds(seed: int, tokens: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(2, 3, 2, tokens, tokens, generator=generator, dtype=torch.float64)
    first, second = logits.softmax(dim=-1)
    frobenius = attention_variation(first, second)
    spectral = attention_variation(first, second, Convention(norm="spectral"))
    assert (frobenius <= math.sqrt(2 * tokens) + 1e-9).all()
    assert (spectral <= frobenius + 1e-9).all()
    assert (attention_variation(first, second, Convention(drop_cls=True)) <= frobenius + 1e-9).all()
    assert (attention_variation(first, first) == 0).all()


def test_a_view_uses_the_mask_of_the_index_for_every_image_alike() -> None:
    x, index, mae = tiny_images(4), torch.tensor([3, 8, 1, 0]), tiny_mae()
    view = MAEView(model=mae, seed=2)
    mask = random_mask(uniform((16,), seed=2, purpose="amv mask", index=index), 0.5)
    result = variation(view, x, 1 - x, index=index, batch_size=3)
    torch.testing.assert_close(result.clean_loss, mae.loss(x, mask).detach())
    torch.testing.assert_close(result.loss, mae.loss(1 - x, mask).detach())
    maps = zip(mae.attention_maps(x, mask), mae.attention_maps(1 - x, mask), strict=True)
    expected = torch.stack([attention_variation(a, b) for a, b in maps], dim=1).detach()
    torch.testing.assert_close(result.layers, expected)
    assert result.layers.shape == (4, 2)
    assert not result.layers.requires_grad


def test_maskdit_is_seen_at_its_noise_level_with_the_same_noise_for_all() -> None:
    x, index = tiny_images(), torch.arange(3)
    view = MaskDiTView(model=tiny_maskdit(), sigma=0.5)
    same, other = (variation(view, x, images, index=index) for images in (x, 1 - x))
    assert (same.layers == 0).all()
    assert (other.layers > 0).all()
    assert torch.equal(same.loss, same.clean_loss)


def test_the_curve_over_radii_starts_at_zero() -> None:
    x = tiny_images(low=0.3, high=0.7)
    points = curve_over_radii(
        MAEView(model=tiny_mae()), x, lambda eps: x + eps * (x - 0.5).sign(), [0.0, 0.05, 0.2], index=torch.arange(3)
    )
    assert [point.position for point in points] == [0.0, 0.05, 0.2]
    assert points[0].amv == 0.0
    assert points[0].loss == points[0].clean_loss
    assert 0 < points[1].amv < points[2].amv
    assert points[2].amv == points[2].layers[-1]
    last = variation(MAEView(model=tiny_mae()), x, x + 0.2 * (x - 0.5).sign(), index=torch.arange(3))
    assert points[2].amv_error == pytest.approx(np.std(last.layers[:, -1].numpy(), ddof=1) / np.sqrt(3), rel=1e-4)
    assert points[2].loss_error == pytest.approx(np.std(last.loss.numpy(), ddof=1) / np.sqrt(3), rel=1e-4)


def test_the_curve_over_steps_has_first_last_and_every_nth_step() -> None:
    x, index = tiny_images(), torch.arange(3)
    attacked = (x + 0.1).clamp(0, 1)
    purifier, view = MAEPure(tiny_mae(), steps=5), MAEView(model=tiny_mae())
    points = curve_over_steps(view, x, attacked, purifier, seed=0, index=index, every=2)
    assert [point.position for point in points] == [0.0, 2.0, 4.0, 5.0]
    last = variation(view, x, purifier(attacked, seed=0), index=index)
    assert points[-1].amv == pytest.approx(float(last.layers[:, -1].mean()), rel=1e-5)
    assert points[-1].loss == pytest.approx(float(last.loss.mean()), rel=1e-5)


def test_the_attention_of_a_target_patch_is_its_row_over_visible_patches() -> None:
    x, mae = tiny_images(1), tiny_mae()
    view = MAEView(model=mae)
    index = torch.tensor([4])
    mask = view.mask(index)
    hidden, visible = int(mask.mask[0].argmax()), int(mask.mask[0].argmin())
    attention = view(x, index).attention[-1]
    weights = target_attention(attention, mask, hidden)
    assert weights.shape == (1, 16)
    assert torch.isnan(weights[mask.mask == 1]).all()
    assert weights[0, visible] == pytest.approx(float(attention[0, :, 1 + hidden, 1 + visible].mean()))
    with pytest.raises(ValueError, match="must be a hidden patch"):
        target_attention(attention, mask, visible)
    with pytest.raises(ValueError, match="expected attention over a class token and 16 patches"):
        target_attention(attention[..., 1:, 1:], mask, hidden)


def test_every_image_can_have_a_target_of_its_own() -> None:
    x, index, view = tiny_images(), torch.arange(3), MAEView(model=tiny_mae())
    mask, attention = view.mask(index), view(x, index).attention[-1]
    target = central_target(mask)
    weights = target_attention(attention, mask, target)
    for i in range(3):
        hidden = [patch for patch in range(16) if mask.mask[i, patch] == 1]
        nearest = min(hidden, key=lambda patch: (patch // 4 - 1.5) ** 2 + (patch % 4 - 1.5) ** 2)
        assert int(target[i]) == nearest
        alone = random_mask(uniform((16,), seed=0, purpose="amv mask", index=index[i : i + 1]), 0.5)
        single = target_attention(attention[i : i + 1], alone, nearest)
        assert torch.equal(weights[i].nan_to_num(-1), single[0].nan_to_num(-1))
    with pytest.raises(ValueError, match="must be a hidden patch"):
        target_attention(attention, mask, torch.full((3,), 16))


def test_moved_attention_is_the_share_that_lies_elsewhere() -> None:
    nan = float("nan")
    before = torch.tensor([[0.2, nan, 0.2, 0.4], [0.1, nan, 0.3, 0.0]])
    after = torch.tensor([[0.1, nan, 0.1, 0.2], [0.0, nan, 0.0, 0.5]])
    torch.testing.assert_close(moved_attention(before, after), torch.tensor([0.0, 1.0]))
    nearly = torch.tensor([[0.4, nan, 0.2, 0.2]])
    torch.testing.assert_close(moved_attention(before[:1], nearly), torch.tensor([0.25]))  # a quarter of 0.8 moved


def test_reconstructions_keep_visible_patches_and_the_unit_range() -> None:
    x, index = tiny_images(), torch.arange(3)
    view = MAEView(model=tiny_mae())
    image = view.reconstruction(x, index)
    assert 0 <= image.min() <= image.max() <= 1
    kept = (image == x).double().mean()
    assert 0.5 <= kept < 0.6  # half of the patches, and predictions that clipping happens to put right


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Convention(norm="nuclear"), "'frobenius' or 'spectral'"),  # type: ignore[arg-type]
        (lambda: Convention(heads="max"), "'each' or 'mean'"),  # type: ignore[arg-type]
        (lambda: attention_variation(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 4, 4)), "use the same mask"),
        (
            lambda: variation(MAEView(model=tiny_mae()), tiny_images(2), tiny_images(3), index=torch.arange(2)),
            "two batches of one shape",
        ),
    ],
)
def test_bad_arguments_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
