import math
from collections.abc import Callable

import pytest
import torch
from rp_models import build
from rp_models.mask import complement, random_mask
from rp_models.noise import normal, uniform
from rp_purify import (
    DiffPure,
    GaussianNoise,
    LikelihoodMaximisation,
    MAEReconstruction,
    OneStepDenoise,
    Purifier,
)
from rp_purify.diffpure import GRADUAL_CIFAR10, GRADUAL_IMAGENET, GRADUAL_SVHN, vp_levels
from torch import nn

from .models import ShrinkingDenoiser, tiny_images, tiny_mae


def test_reconstruction_takes_each_patch_from_the_pass_that_hides_it() -> None:
    x, mae, index = tiny_images(), tiny_mae(), torch.arange(3)
    purifier = MAEReconstruction(mae, mask_rate=0.75)
    mask = random_mask(uniform((16,), seed=5, purpose="mask", index=index), 0.75)
    first, second = mae.reconstruct(x, mask), mae.reconstruct(x, complement(mask))
    purified = purifier(x, seed=5)
    for image in range(3):
        for patch in range(16):
            rows, columns = slice(patch // 4 * 2, patch // 4 * 2 + 2), slice(patch % 4 * 2, patch % 4 * 2 + 2)
            expected = (first if mask.mask[image, patch] else second)[image, 0, rows, columns].clamp(0, 1)
            torch.testing.assert_close(purified[image, 0, rows, columns], expected)
    kept = MAEReconstruction(mae, mask_rate=0.75, keep_visible=True)(x, seed=5)
    torch.testing.assert_close(kept, first.clamp(0, 1))


def test_noise_levels_are_those_of_diffpures_schedule() -> None:
    # from the product of 1 - beta over the first t of 1,000 steps, beta linear from 1e-4 to 0.02
    for times, sigma in ((75, 0.2546), (100, 0.3388), (125, 0.4264), (150, 0.5182), (200, 0.7193)):
        assert vp_levels(times, times)[0] == pytest.approx(sigma, abs=5e-5)
    levels = vp_levels(100, 10)
    assert len(levels) == 11
    assert levels[-1] == 0.0
    assert levels[5] == pytest.approx(vp_levels(50, 1)[0])


def test_gradual_purification_has_its_rounds() -> None:
    assert [len(each.steps) for each in DiffPure(nn.Identity(), times=GRADUAL_CIFAR10).rounds] == [
        30,
        30,
        30,
        30,
        50,
        50,
        125,
        125,
    ]


def test_the_rounds_of_gradual_purification_are_the_published_ones() -> None:
    # Lee and Kim 2023: four rounds of 30, two of 50, and two that depend on the data
    for rounds, last in ((GRADUAL_CIFAR10, 125), (GRADUAL_SVHN, 80), (GRADUAL_IMAGENET, 200)):
        assert rounds == (30, 30, 30, 30, 50, 50, last, last)
    whole = vp_levels(1000, 1)  # all of the time is allowed: no signal is left
    assert whole[0] > 100
    assert whole[1] == 0


def test_the_deterministic_reverse_process_follows_the_exact_solution_for_gaussian_data() -> None:
    # for data N(m, s^2) the probability flow maps x at level sigma to m + (x - m) s / sqrt(s^2 + sigma^2)
    x, index = tiny_images(low=0.4, high=0.6).double(), torch.arange(3)
    denoiser = ShrinkingDenoiser(0.2, 0.5).double()
    purified = DiffPure(denoiser, times=100, solver="ode")(x, seed=0)
    sigma = vp_levels(100, 1)[0]
    start = 2 * x - 1 + sigma * normal((1, 8, 8), seed=0, purpose="noise of round 0", index=index, dtype=x.dtype)
    exact = 0.2 + (start - 0.2) * 0.5 / math.hypot(0.5, sigma)
    # Heun with 100 steps; the last, an Euler step from sigma = 0.01, leaves about 0.01^2
    torch.testing.assert_close(purified, ((exact + 1) / 2).clamp(0, 1), atol=5e-4, rtol=0)


def test_the_stochastic_reverse_process_restores_the_distribution_of_gaussian_data() -> None:
    # noised data denoised with the data's own denoiser: mean and deviation stay what they were, at any t*
    generator = torch.Generator().manual_seed(0)
    data = 0.2 + 0.1 * torch.randn(200, 1, 8, 8, generator=generator)
    purified = DiffPure(ShrinkingDenoiser(0.2, 0.1), times=50)((data + 1) / 2, seed=0)
    result = 2 * purified - 1
    assert float(result.mean()) == pytest.approx(0.2, abs=0.004)  # 12,800 values: standard error 0.0009
    assert float(result.std()) == pytest.approx(0.1, abs=0.004)


def test_one_step_denoising_calls_the_denoiser_once_at_its_level() -> None:
    x, index = tiny_images(), torch.arange(3)
    unit = normal((1, 8, 8), seed=3, purpose="noise", index=index)
    expected = ShrinkingDenoiser()(2 * x - 1 + 0.4 * unit, torch.full((3,), 0.4))
    purified = OneStepDenoise(ShrinkingDenoiser(), sigma=0.4)(x, seed=3)
    torch.testing.assert_close(purified, ((expected + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("make", [OneStepDenoise, lambda net: DiffPure(net, times=20, steps=2)])
def test_an_edm_network_of_the_zoo_is_a_denoiser(make: Callable[[nn.Module], Purifier]) -> None:
    sizes = {"img_resolution": 8, "img_channels": 1, "label_dim": 0, "model_channels": 16, "channel_mult": [1]}
    network = build("edm", **sizes, num_blocks=1, attn_resolutions=[]).eval()
    x = tiny_images().requires_grad_()
    purified = make(network)(x, seed=0)
    (grad,) = torch.autograd.grad(purified.sum(), x)
    assert purified.shape == x.shape
    assert torch.isfinite(grad).all()
    assert grad.abs().sum() > 0


def test_likelihood_maximisation_moves_images_towards_the_data() -> None:
    x = torch.full((2, 1, 8, 8), 0.9)
    purified = LikelihoodMaximisation(ShrinkingDenoiser(0.0, 0.2), steps=5)(x)
    assert (purified < x).double().mean() > 0.9  # the data's mean, 0 in [-1, 1], is 0.5 in pixels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(-1.0), "std must not be negative"),
        (lambda: OneStepDenoise(nn.Identity(), sigma=0.0), "sigma must be positive"),
        (lambda: MAEReconstruction(tiny_mae(), mask_rate=0.0), "hides none"),
        (lambda: DiffPure(nn.Identity(), times=0), "1 <= steps <= times <= 1000"),
        (lambda: DiffPure(nn.Identity(), times=0.1), "100 for t\\* = 0.1"),
        (
            lambda: DiffPure(nn.Identity(), solver="euler"),
            "one of sde, ode, euler-maruyama, ddpm, predictor-corrector",
        ),
        (lambda: LikelihoodMaximisation(nn.Identity(), sigma=(0.5, 0.1)), "two rising positive levels"),
        (lambda: LikelihoodMaximisation(nn.Identity(), grad="adjoint"), "has the gradients identity"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
