"""The LightningDiT target: the reference's features, every open choice, and the released sizes without weights."""

import json

import numpy as np
import pytest
import torch
from rp_dra.targets import LightningDitTarget, fit_image
from rp_models.networks.lightningdit import MASSIVE_CHANNELS, LightningDiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization, Posterior
from rp_testing import GOLDEN_FILES, fill_state


class Recorded(AutoencoderKL):
    """An autoencoder whose posterior is given."""

    posterior: Posterior

    def encode(self, x):
        assert x.shape[2:] == (8, 8)
        return self.posterior


def fill(model):
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()})
    return model


def tiny_vae(channels=8, kind=AutoencoderKL):
    return kind(width=32, multipliers=(1, 1), blocks=1, attention=(False, False), z_channels=channels)


def tiny_dit(**changes):
    sizes = {"image_size": 4, "in_channels": 8, "width": 48, "depth": 4, "heads": 4, "num_classes": 10}
    return fill(LightningDiT(**{**sizes, **changes}))


def tiny(**options):
    """A whole target on tiny networks for 8x8 images; the latents are 4x4."""
    normalization = LatentNormalization.fit(
        3 + 2 * torch.randn(50, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    )
    options = {"blocks": 2, "zero_channels": (5, 11), **options}
    return LightningDitTarget(tiny_dit(), fill(tiny_vae()), normalization, **options)


def test_a_grey_image_is_shown_in_three_channels():
    x, y, noise = batch()
    for options in ({}, {"noise_in": "none"}):
        target = tiny(**options)
        grey = target(x[:, :1], y, noise=noise)
        torch.testing.assert_close(grey, target(x[:, :1].expand(-1, 3, -1, -1), y, noise=noise))


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 8, 8, generator=generator)
    return x, torch.tensor([1, 5, 9]), torch.randn(3, 8, 4, 4, generator=generator)


def test_features_equal_the_references_at_its_own_times_and_labels():
    path = GOLDEN_FILES / "lightningdit_tiny.npz"
    with np.load(path) as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("in_", "out_"))}
        config = json.loads(str(file["config"]))
    t = golden["in_t"]
    assert ((t > 0) & (t < 1)).all()
    vae = tiny_vae(kind=Recorded)
    # without noise x_t = t z, so that the recorded input is reached from the latent x_t / t
    latent = golden["in_x"] / t[:, None, None, None]
    vae.posterior = Posterior(latent, torch.zeros_like(latent))
    target = LightningDitTarget(
        tiny_dit(),
        vae,
        LatentNormalization(8),
        blocks=config["middle_block"] + 1,
        zero_channels=config["zero_channels"],
    )
    x, level = torch.zeros(2, 3, 8, 8), t.logit()
    got = target(x, golden["in_y"].long(), noise=torch.zeros(2, 8, 4, 4), level=level)
    expected = golden["out_next_adaln_zero_before_norm"].mean(dim=1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)  # float32 sums in another order


def test_the_pass_is_encode_normalise_mix_with_noise_and_average():
    target = tiny()
    x, y, eps = batch()
    with torch.no_grad():
        z = target.normalization(target.autoencoder.encode(x).mean)
        tokens = target.transformer.features(0.8 * z + 0.2 * eps, 0.8, y, blocks=2, zero_channels=(5, 11))
    torch.testing.assert_close(target(x, y, noise=eps), tokens.mean(dim=1), atol=1e-5, rtol=1e-5)
    assert target.width(3, 8) == 48 == target(x, y, noise=eps).shape[1]
    assert target.noise_shape((3, 224, 224)) == (8, 4, 4)


def test_all_three_networks_are_frozen_for_ever():
    target = tiny().train()
    assert not any(module.training for module in target.modules())
    assert {name.partition(".")[0] for name, _ in target.named_parameters()} == {"transformer", "autoencoder"}
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_a_sampled_latent_takes_its_draw_from_the_second_half_of_the_noise():
    target = tiny(latent="sample")
    x, y, eps = batch()
    draw = torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    assert target.noise_shape((3, 8, 8)) == (16, 4, 4)
    with torch.no_grad():
        z = target.normalization(target.autoencoder.encode(x).sample(draw))
        tokens = target.transformer.features(0.8 * z + 0.2 * eps, 0.8, y, blocks=2, zero_channels=(5, 11))
    got = target(x, y, noise=torch.cat([eps, draw], dim=1))
    torch.testing.assert_close(got, tokens.mean(dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 3},
        {"modulated_by": "same"},
        {"modulated_by": None},
        {"zero_at": "after_norm"},
        {"zero_channels": ()},
        {"noise_in": "none"},
        {"t": 0.5},
        {"label": "null"},
    ],
)
def test_every_open_choice_changes_the_features(options):
    x, y, eps = batch()
    assert not torch.allclose(tiny(**options)(x, y, noise=eps), tiny()(x, y, noise=eps), atol=1e-3)


def test_no_label_is_the_null_class_and_a_clean_latent_needs_no_noise():
    x, y, eps = batch()
    null = tiny(label="null")
    assert torch.equal(null(x, y, noise=eps), tiny()(x, None, noise=eps))
    assert torch.equal(null(x, y, noise=eps), tiny()(x, torch.full((3,), 10), noise=eps))
    clean = tiny(noise_in="none")
    assert torch.equal(clean(x, y, noise=eps), clean(x, y, noise=0 * eps))


def test_bf16_is_close_and_comes_back_in_float32():
    x, y, eps = batch()
    exact, rounded = tiny()(x, y, noise=eps), tiny(precision="bf16")(x, y, noise=eps)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (torch.cosine_similarity(exact, rounded) > 0.99).all()


def test_images_are_scaled_and_cropped_in_the_centre():
    x = torch.rand(2, 3, 16, 24)
    assert torch.equal(fit_image(x[..., :16], 16), x[..., :16])
    assert torch.equal(fit_image(x, 16), x[..., 4:20])
    steps = torch.linspace(0, 1, 28).expand(1, 3, 28, 28)
    for size in (32, 14):
        scaled = fit_image(steps, size)
        assert scaled.shape == (1, 3, size, size)
        assert 0 <= float(scaled.min()) <= float(scaled.max()) <= 1
        assert (scaled[0, 0, 0].diff() > 0).all()  # a ramp stays a ramp
        torch.testing.assert_close(scaled.mean(), steps.mean(), atol=1e-3, rtol=0)  # up to the border's handling


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LightningDitTarget(tiny_dit(), tiny_vae(4), LatentNormalization(8)), "8, 4, 8"),
        (lambda: tiny(t=0), r"t must be in \(0, 1\]"),
        (lambda: tiny(latent="mode"), "one of mean, sample, got 'mode'"),
        (
            lambda: tiny(zero_channels=MASSIVE_CHANNELS)(*batch()[:2], noise=batch()[2]),
            r"zero_channels must be in 0\.\.",
        ),
        (lambda: tiny(blocks=4)(*batch()[:2], noise=batch()[2]), "blocks to run"),
        (lambda: tiny()(*batch()[:2], noise=torch.zeros(3, 3, 8, 8)), r"noise must have shape \(3, 8, 4, 4\)"),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()
