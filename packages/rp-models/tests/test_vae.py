"""The KL autoencoder of VA-VAE and SD-VAE: the reference's numbers, the latent normalisation, and honest errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import build
from rp_models.networks.vae import AutoencoderKL, LatentNormalization, Posterior
from rp_testing import Golden
from torch import Tensor

VA_VAE = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (False, True), "z_channels": 4}
SD_VAE = {**VA_VAE, "attention": (False, False)}


def tiny(**arguments) -> AutoencoderKL:
    return Golden("vavae_tiny").fill(AutoencoderKL(**{**VA_VAE, **arguments})).eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outside(inside: Tensor) -> Tensor:
    """Images in [0, 1] from the reference's in [-1, 1]."""
    return (inside + 1) / 2


def test_va_vae_equals_the_reference():
    golden = Golden("vavae_tiny")
    model, image = tiny(), golden["in_image"]
    with torch.no_grad():
        posterior = model.encode(outside(image))
        golden.check(
            out_encoder=model.encoder(image),
            out_moments=model.quant_conv(model.encoder(image)),
            out_mean=posterior.mean,
            out_logvar=posterior.logvar,
            out_std=posterior.std,
            out_decoded=2 * model.decode(golden["in_z"]) - 1,
            out_reconstruction=2 * model(outside(image)) - 1,
        )


def test_sd_vae_equals_the_reference():
    golden = Golden("maskdit_sdvae_tiny")
    model = golden.fill(AutoencoderKL(**SD_VAE)).eval()
    latents = LatentNormalization(4, multiplier=golden.config["scale_factor"])
    with torch.no_grad():
        moments = model.encode(outside(golden["in_image"]))
        golden.check(
            out_moments=torch.cat([moments.mean, moments.logvar], dim=1),
            out_decoded=2 * model.decode(latents.inverse(golden["in_z"])) - 1,
        )


@pytest.mark.parametrize(
    ("name", "file"), [("vavae-f16d32", "full_vavae-f16d32"), ("sdvae-f8d4", "full_maskdit-sdvae")]
)
def test_the_full_size_configuration_equals_the_reference(name, file):
    golden = Golden(file)
    with torch.device("meta"):
        model = build(name)
    golden.check_keys(model)
    assert sum(p.numel() for p in model.parameters()) == golden.config["parameters"]


def test_a_posterior_is_sampled_with_given_noise_and_its_variance_is_limited():
    posterior = Posterior(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]).log())
    torch.testing.assert_close(posterior.sample(torch.tensor([5.0, -1.0])), torch.tensor([1.0, 0.0]))
    model = tiny()
    with torch.no_grad():
        model.quant_conv.bias[4:] = 1e3
        assert model.encode(torch.rand(1, 3, 4, 4)).logvar.max() == 20


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), multiplier=st.floats(0.1, 3.0))
def test_normalised_latents_have_unit_statistics_and_come_back(seed, multiplier):
    z = 3 * draw(4, 5, 3, 3, seed=seed) + torch.arange(5.0).view(-1, 1, 1)
    normalization = LatentNormalization.fit(z, multiplier)
    normal = normalization(z) / multiplier
    torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalization.inverse(normalization(z)), z, rtol=0, atol=1e-4)


def test_the_size_need_not_be_square_and_gradients_reach_the_image():
    x = torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = tiny()(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad.abs().min() > 0


def test_bfloat16_autocast_channels_last_and_compilation_keep_the_numbers():
    model, x = tiny(), Golden("vavae_tiny")["in_image"]
    x = outside(x[:, :, :8, :8])
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=0, atol=1e-5)
        last = tiny().to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(last, expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x)
    torch.testing.assert_close(low.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item())  # 8-bit mantissa


def test_bad_input_is_refused():
    model = tiny()
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\) with sides divisible by 2, got \(1, 1, 8, 8\)"):
        model.encode(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="divisible by 2"):
        model.encode(torch.rand(1, 3, 7, 8))
    with pytest.raises(ValueError, match=r"latents \(batch, 4, height, width\)"):
        model.decode(torch.rand(1, 8, 4, 4))
    with pytest.raises(ValueError, match="one attention flag per level"):
        AutoencoderKL(**{**VA_VAE, "attention": (True,)})
