"""What single comparison purifiers add to what all promise."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rp_models.diffusion.heun import sample_heun
from rp_models.diffusion.vp_schedule import continuous_abar
from rp_models.networks.vae import AutoencoderKL
from rp_models.noise import normal
from rp_purify import LikelihoodMaximisation, Purifier
from rp_purify.adp import ADP
from rp_purify.coup import COUP
from rp_purify.ddim_purify import DDIMPurify
from rp_purify.diffpure import DiffPure
from rp_purify.edm_purify import EDMPurify
from rp_purify.gdmp import GDMP
from rp_purify.gradual import GradualPurify
from rp_purify.latent_maskdit import LatentMaskDiTPure, LatentOneStep, LatentSteps
from rp_purify.nim import NIMReconstruction
from rp_purify.resized import Resized
from rp_purify.scoreopt import ScoreOptN
from rp_purify.soap import SOAP
from rp_purify.ssim import ssim
from rp_purify.vp_steps import LangevinCorrector, predictor_corrector_steps
from torch import nn

from .every_purifier import MAKE, BentDenoiser, latent_networks, saved_bytes, soap
from .models import ShrinkingDenoiser, TinyClassifier, tiny_images, tiny_mae

INDEX = torch.tensor([7, 3, 11, 0])


def test_the_adjoint_is_near_the_exact_gradient_and_keeps_the_result_alone() -> None:
    purifier, x = MAKE["euler-maruyama"](), tiny_images(2, low=0.3, high=0.7).requires_grad_()
    (exact,) = torch.autograd.grad(purifier(x, seed=1).square().sum(), x)
    (adjoint,) = torch.autograd.grad(purifier.with_gradient("adjoint")(x, seed=1).square().sum(), x)
    assert not torch.equal(exact, adjoint)
    assert float((adjoint - exact).norm() / exact.norm()) < 0.05  # first order in steps of 1/1000
    few, many = (
        saved_bytes(DiffPure(BentDenoiser(), times=n, solver="euler-maruyama", grad="adjoint"), x) for n in (2, 12)
    )
    assert few == many
    with pytest.raises(ValueError, match="has the gradients exact, identity, got 'adjoint'"):
        DiffPure(BentDenoiser(), grad="adjoint")


def test_the_corrector_leaves_noised_gaussian_data_what_they_are() -> None:
    # at time t the noised data have the score that the data's own denoiser gives, and Langevin steps keep them
    generator = torch.Generator().manual_seed(0)
    t, spread = 0.3, 0.5
    abar = continuous_abar(t)
    scale = (abar * spread**2 + 1 - abar) ** 0.5
    state = 0.2 * abar**0.5 + scale * torch.randn(400, 1, 8, 8, generator=generator)
    corrected, denoiser = state, ShrinkingDenoiser(0.2, spread)
    with torch.no_grad():
        for _ in range(3):
            unit = torch.randn(state.shape, generator=generator)
            corrected = LangevinCorrector(t)(denoiser, corrected, unit, lambda seen: 0.0)
    assert float(corrected.mean()) == pytest.approx(0.2 * abar**0.5, abs=0.02)  # 25,600 values: standard error 0.006
    assert float(corrected.std()) == pytest.approx(scale, rel=0.03)
    assert not torch.equal(corrected, state)
    steps = predictor_corrector_steps(101)
    assert (len(steps), steps[-1].random) == (202, False)
    assert steps[0].t == pytest.approx(0.101, abs=1e-9)
    assert steps[-1].t == pytest.approx(0.001, abs=1e-9)


def test_coups_guidance_raises_the_confidence_and_what_is_detached_shows() -> None:
    classifier, x = TinyClassifier(), tiny_images(4, low=0.3, high=0.7)
    weak, strong = (COUP(BentDenoiser(), classifier, times=5, weight=weight) for weight in (0.0, 300.0))
    confidence = [classifier(purifier(x, seed=0)).softmax(1).amax(1).mean() for purifier in (weak, strong)]
    assert confidence[1] > confidence[0]
    leaf = x.clone().requires_grad_()
    grads = {
        rule: torch.autograd.grad(strong.with_gradient(rule)(leaf, seed=0).sum(), leaf)[0]
        for rule in ("exact", "detached")
    }
    assert float((grads["exact"] - grads["detached"]).abs().max()) > 1e-4
    assert "noised=False" in repr(strong)
    assert not torch.equal(COUP(BentDenoiser(), classifier, times=5, noised=True)(x, seed=0), weak(x, seed=0))
    assert not strong.train().classifier.training
    with pytest.raises(ValueError, match="guided by the classifier that it defends"):
        COUP(BentDenoiser(), None)  # type: ignore[arg-type]


def test_gdmp_pulls_towards_the_image_and_its_published_pull_depends_on_the_batch() -> None:
    x = tiny_images(4, low=0.3, high=0.7)
    free, pulled = (GDMP(BentDenoiser(), times=20, rounds=1, guidance=g, weight=2000.0) for g in ("none", "mse"))
    away = [float((purifier(x, seed=0) - x).abs().mean()) for purifier in (free, pulled)]
    assert away[1] < 0.9 * away[0]
    published = GDMP(BentDenoiser(), times=5, rounds=1, per="batch", weight=60_000.0)
    together, alone = published(x, seed=0, index=INDEX), published(x[:1], seed=0, index=INDEX[:1])
    assert float((together[:1] - alone).abs().max()) > 1e-3
    similar = GDMP(BentDenoiser(), times=20, rounds=1, guidance="ssim", weight=100.0)
    likeness = [float(ssim(purifier(x, seed=0), x).mean()) for purifier in (free, similar)]
    assert likeness[1] > likeness[0]


def test_structural_similarity_is_that_of_the_definition_pixel_by_pixel() -> None:
    x, y = tiny_images(1, size=6), tiny_images(2, size=6)[1:]
    taps = torch.tensor([math.exp(-(i**2) / 4.5) for i in range(-5, 6)], dtype=torch.float64)
    window = torch.outer(taps, taps) / taps.sum() ** 2
    wide = [nn.functional.pad(image[0, 0].double(), (5, 5, 5, 5)) for image in (x, y)]
    values = []
    for row in range(6):
        for column in range(6):
            a, b = (image[row : row + 11, column : column + 11] for image in wide)
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * a * a).sum() - mean_a**2, (window * b * b).sum() - mean_b**2
            both = (window * a * b).sum() - mean_a * mean_b
            above = (2 * mean_a * mean_b + 0.01**2) * (2 * both + 0.03**2)
            values.append(above / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
    assert float(ssim(x, y)) == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)
    torch.testing.assert_close(ssim(x, x), torch.ones(1))


def test_soap_keeps_the_best_ball_of_each_image_and_the_published_choice_is_the_batchs() -> None:
    ball = {"delta": 0.09, "step": 0.15, "steps": 5, "levels": 4}
    x, purifier = tiny_images(4), soap(**ball)
    tried, losses = zip(*purifier.candidates(x), strict=True)
    for level, image in enumerate(tried):
        assert float((image - x).abs().max()) <= level * purifier.delta + 1e-6
    best = torch.stack(losses).min(dim=0).values
    torch.testing.assert_close(purifier.auxiliary(purifier(x)).detach(), best)
    chosen = torch.stack(losses).argmin(dim=0)
    assert len(chosen.unique()) > 1  # else the next lines would say nothing
    assert torch.equal(soap(per="batch", **ball)(x), tried[int(torch.stack(losses).mean(dim=1).argmin())])
    for wrong in ({"levels": 0}, {"per": "step"}, {"delta": 0.5}):
        with pytest.raises(ValueError, match=r"at least one radius|per must be"):
            SOAP(purifier.model, purifier.auxiliary, **wrong)  # type: ignore[arg-type]


def test_an_image_that_has_stopped_stays_whatever_the_others_do() -> None:
    x = tiny_images(3, low=0.3, high=0.7)
    unit = torch.zeros_like(x)
    options: dict[str, Any] = {"steps": 4, "sigma": 0.0, "lam": 0.01, "stop": 0.0}
    purifier, published = (ADP(BentDenoiser(), per=per, **options) for per in ("image", "batch"))
    with torch.no_grad():
        sizes = next(size for number, (_, size) in enumerate(purifier.trajectory(x, unit)) if number == 1)
    assert len(sizes.unique()) == 3
    stop = float(sizes.sort().values[0]) * 1.01  # the first image to stop does so at once
    for each in (purifier, published):
        each.stop = stop
    stopped = int(sizes.argmin())
    with torch.no_grad():
        ours, theirs = (list(each.trajectory(x, unit)) for each in (purifier, published))
    assert all(float(size[stopped]) == 0 for _, size in ours[1:])
    assert torch.equal(ours[-1][0][stopped], ours[0][0][stopped])
    assert not torch.equal(theirs[-1][0][stopped], ours[0][0][stopped])
    assert not torch.equal(ours[-1][0], ours[0][0])


def test_the_published_score_optimisation_depends_on_the_batch_and_ours_does_not() -> None:
    x = tiny_images(3)
    published = LikelihoodMaximisation(BentDenoiser(), steps=2, per="batch")
    assert len(published.levels(0, x, seed=0, index=torch.arange(3)).unique()) == 1
    assert len(LikelihoodMaximisation(BentDenoiser()).levels(0, x, seed=0, index=torch.arange(3)).unique()) == 3
    for purifier in (published, ScoreOptN(BentDenoiser(), steps=2, per="batch")):
        assert purifier(x, seed=0).shape == x.shape


def test_a_latent_purifier_keeps_to_its_ball_and_its_gradient_goes_through_the_encoder() -> None:
    maskdit, vae = latent_networks()
    purifier = LatentMaskDiTPure(maskdit, vae, steps=3).double()
    x, index = tiny_images(2, low=0.4, high=0.6).double(), torch.arange(2)
    assert float((purifier(x, seed=0) - x).abs().max()) <= 4 / 255 + 1e-9
    g = purifier.loss_gradient(x, seed=0, index=index, step=1)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)

    def loss(t: float) -> float:
        return float(purifier.loss(x + t * direction, seed=0, index=index, step=1).sum().detach())

    assert float((g * direction).sum()) == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6, abs=1e-8)
    chunked = LatentMaskDiTPure(maskdit, vae, steps=3, chunk=1).loss_gradient(x, seed=0, index=index, step=1)
    torch.testing.assert_close(chunked, g)
    steps = LatentSteps(maskdit, vae, steps=2, eta=0.02).double()
    assert float((steps(x, seed=0) - x).abs().max()) <= 0.02 + 1e-9
    with pytest.raises(ValueError, match="the MaskDiT models 4 channels and the autoencoder has 3"):
        LatentOneStep(maskdit, AutoencoderKL(width=32, multipliers=(1,), attention=(False,), z_channels=3))
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        LatentMaskDiTPure(maskdit, vae, chunk=0)


def test_edms_sampler_is_the_one_that_generates_from_a_start_of_noised_images() -> None:
    x, index = tiny_images(2, low=0.3, high=0.7), torch.arange(2)
    denoiser = BentDenoiser().double()
    noise = {
        purpose: normal((1, 8, 8), seed=1, purpose=purpose, index=index, dtype=torch.float64)
        for purpose in ("noise of round 0", *(f"step {step} of round 0" for step in range(4)))
    }
    start = (2 * x.double() - 1) / 0.5 + noise["noise of round 0"]
    with torch.no_grad():
        sampled = sample_heun(
            lambda y, sigma, labels: denoiser(y, sigma.expand(len(y))),
            start,
            num_steps=4,
            sigma_max=0.5,
            S_churn=6.0,
            noise=lambda step: noise[f"step {step} of round 0"],
        )
        purified = EDMPurify(denoiser, steps=4)(x.double(), seed=1)
    torch.testing.assert_close(purified, ((sampled + 1) / 2).clamp(0, 1), atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="churn must not be negative"):
        EDMPurify(denoiser, churn=-1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffPure(nn.Identity(), solver="ddpm", steps=5), "one step each thousandth"),
        (lambda: DiffPure(nn.Identity(), solver="euler-maruyama", times=0), r"times must be in 1\.\.1000"),
        (lambda: GradualPurify(nn.Identity(), times=(30,), steps=(5, 5)), "one number of steps belongs to each of 1"),
        (lambda: GradualPurify(nn.Identity(), times=(30,), steps=(31,)), "1 <= steps <= times <= 1000"),
        (lambda: GradualPurify(nn.Identity(), eta=2.0), r"eta must be in \[0, 1\]"),
        (lambda: DDIMPurify(nn.Identity(), steps=0), "1 <= steps <= times < 1000"),
        (lambda: DDIMPurify(nn.Identity(), schedule="cosine"), "schedule must be one of adbm, vp, got 'cosine'"),
        (lambda: DDIMPurify(nn.Identity(), stack=0), "stack must be at least 1"),
        (lambda: DDIMPurify(nn.Identity(), times=0.1), "100 for t\\* = 0.1"),
        (lambda: GDMP(nn.Identity(), rounds=0), "rounds must be at least 1"),
        (lambda: GDMP(nn.Identity(), guidance="l1"), "guidance must be one of mse, ssim, none"),
        (lambda: GDMP(nn.Identity(), respacing=20), r"times must be in 1\.\.20, got 37"),
        (lambda: GDMP(nn.Identity(), per="pixel"), "per must be one of image, batch"),
        (lambda: ScoreOptN(nn.Identity(), sigma=0.0), "sigma must be positive"),
        (lambda: LikelihoodMaximisation(nn.Identity(), stay=-1.0), "stay must not be negative"),
        (lambda: LikelihoodMaximisation(nn.Identity(), sigma=(0.6, 0.4)), "two rising positive levels"),
        (lambda: LikelihoodMaximisation(nn.Identity(), steps=-1), "steps must not be negative"),
        (lambda: ScoreOptN(nn.Identity(), lr=0.0), "lr must be positive"),
        (lambda: ADP(nn.Identity(), lam=0.0), "lam must be positive"),
        (lambda: NIMReconstruction(tiny_mae(), std=-1.0), "std must not be negative"),
        (lambda: Resized(DiffPure(nn.Identity()), 0), "the size must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Purifier], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_learned_variance_needs_a_network_that_has_one() -> None:
    with pytest.raises(ValueError, match="needs a network of guided-diffusion that predicts one, got a BentDenoiser"):
        GDMP(BentDenoiser(), times=2, variance="learned")
