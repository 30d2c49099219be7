"""One interface for all diffusion models: images by number, whatever the batch; honest errors; full sizes on paper."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import build, noise
from rp_models.diffusion.heun import sample_heun, to_uint8
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.sampler_settings import FlowSettings, HeunSettings
from rp_models.diffusion.samplers import FlowSampler, HeunSampler, LatentDecoder, sampler_of
from rp_models.diffusion.sampling import balanced_labels, conditional, generate, sample_images
from rp_models.diffusion.transport import time_grid
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.vae import LatentNormalization
from rp_testing import fill_state
from torch import Tensor, nn

THREE = HeunSettings(steps=3)
CHURN = HeunSettings(steps=4, S_churn=3.0, S_min=0.05, S_max=50.0, S_noise=1.003)


def opened(model: nn.Module) -> nn.Module:
    """The model with every weight away from zero, so that no branch is closed."""
    weights = {key: tuple(p.shape) for key, p in model.named_parameters() if p.requires_grad}
    model.load_state_dict({key: torch.from_numpy(value) for key, value in fill_state(weights).items()}, strict=False)
    return model.eval()


def edm(classes: int = 3) -> nn.Module:
    sizes = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    return opened(build("edm-digits", label_dim=classes, **sizes))


def maskdit(**arguments) -> MaskDiT:
    sizes = {"image_size": 8, "in_channels": 1, "width": 16, "depth": 1, "heads": 2, "num_classes": 3}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    return opened(MaskDiT(**{**sizes, **decoder, **arguments}))


def lightningdit(**arguments) -> LightningDiT:
    sizes = {"image_size": 4, "in_channels": 4, "width": 24, "depth": 2, "heads": 2, "num_classes": 3}
    return opened(LightningDiT(**{**sizes, **arguments}))


def decoder(channels: int = 4) -> LatentDecoder:
    vae = build("autoencoder-kl", width=32, multipliers=[1, 2], blocks=1, attention=[False, True], z_channels=channels)
    latents = LatentNormalization(channels, 0.5)
    latents.mean += 0.3
    latents.std *= 1.5
    return LatentDecoder(opened(vae), latents).eval()


SAMPLERS = {
    "edm": lambda: sampler_of(edm(), heun=THREE),
    "edm with churn": lambda: sampler_of(edm(), heun=CHURN),
    "maskdit": lambda: sampler_of(maskdit(), heun=THREE),
    "guided maskdit": lambda: sampler_of(maskdit(), heun=HeunSettings(steps=3, guidance=1.5)),
    "guided lightningdit with vae": lambda: sampler_of(
        lightningdit(), flow=FlowSettings(points=4, guidance=3.0, start=0.1), decoder=decoder()
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_depends_on_its_number_and_label_alone(name):
    sampler, labels = SAMPLERS[name](), balanced_labels(7, 3)
    whole = sample_images(sampler, range(7), labels, seed=5, batch_size=4)
    assert whole.shape == (7, *sampler.image_shape)
    assert whole.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in whole}) == 7
    # the same batches, one call each: the same bytes
    parts = [
        sample_images(sampler, part, labels[part.start : part.stop], seed=5, batch_size=4)
        for part in (range(4), range(4, 7))
    ]
    assert torch.equal(torch.cat(parts), whole)
    # alone or in another order: sums are split another way, a byte may fall on the other side of a border
    order = torch.tensor([5, 2, 6])
    assert off_by_one_at_most(sampler(order, labels[order], seed=5), whole[order])
    assert off_by_one_at_most(sampler(order[:1], labels[order[:1]], seed=5), whole[order[:1]])
    assert not torch.equal(sampler(order, labels[order], seed=6), whole[order])
    assert not torch.equal(sampler(order, (labels[order] + 1) % 3, seed=5), whole[order])


def off_by_one_at_most(a: Tensor, b: Tensor) -> bool:
    difference = (a.int() - b.int()).abs()
    return int(difference.max()) <= 1 and float(difference.float().mean()) < 0.01


def test_heun_images_are_those_of_the_published_loop_for_each_image():
    """The slow twin: one image, its own noise, the bytes of `sample_heun`."""
    denoiser, labels = edm(), torch.tensor([2, 0])
    images = sample_images(sampler_of(denoiser, heun=CHURN), range(2), labels, seed=1, batch_size=2)
    for i, label in enumerate(labels):
        index = torch.tensor([i])
        with torch.no_grad():
            x = sample_heun(
                denoiser,
                noise.normal((1, 8, 8), seed=1, purpose="latents", index=index),
                class_labels=label[None],
                num_steps=4,
                S_churn=3.0,
                S_min=0.05,
                S_max=50.0,
                S_noise=1.003,
                noise=lambda step, index=index: noise.normal((1, 8, 8), seed=1, purpose=f"churn {step}", index=index),
            )
        assert off_by_one_at_most(images[i : i + 1], to_uint8(x))


def test_flow_images_are_those_of_euler_steps_written_out():
    model, y, scale, start = lightningdit(), torch.tensor([1, 2]), 4.0, 0.3
    vae = decoder()
    settings = FlowSettings(points=5, shift=0.6, guidance=scale, start=start, channels=3)
    images = sampler_of(model, flow=settings, decoder=vae)(torch.arange(2), y, seed=9)
    times = time_grid(5, 0.6).tolist()
    assert times[1] < start < times[3]  # guided and unguided steps
    z = noise.normal((4, 4, 4), seed=9, purpose="latents", index=torch.arange(2))
    with torch.no_grad():
        for t, t_next in itertools.pairwise(times):
            v = model(z, t, y)
            if t >= start:
                without = model(z, t)
                v[:, :3] = without[:, :3] + scale * (v[:, :3] - without[:, :3])
            z = z + (t_next - t) * v
        expected = vae.vae.decode(z * 1.5 / 0.5 + 0.3)
    assert off_by_one_at_most(images, to_uint8(2 * expected - 1))
    assert images.shape == (2, 3, 8, 8)


def test_guidance_of_one_is_none_and_more_moves_the_images():
    model, index, y = maskdit(), torch.arange(3), torch.tensor([0, 1, 2])
    plain, same, guided = (
        sampler_of(model, heun=HeunSettings(steps=3, guidance=scale))(index, y, seed=0) for scale in (1.0, 1.0001, 2.0)
    )
    assert (plain.int() - same.int()).abs().max() <= 1
    assert (plain.int() - guided.int()).abs().max() > 5
    flow = lightningdit(in_channels=3)
    everywhere = FlowSampler(flow, FlowSettings(points=3, guidance=3.0, channels=None))(index, y, seed=0)
    first = FlowSampler(flow, FlowSettings(points=3, guidance=3.0, channels=1))(index, y, seed=0)
    assert not torch.equal(everywhere, first)


def test_churn_adds_noise_that_belongs_to_the_image_and_the_step():
    still, churned = (sampler_of(edm(), heun=s) for s in (HeunSettings(steps=4), CHURN))
    index, y = torch.arange(2), torch.tensor([0, 1])
    assert not torch.equal(still(index, y, seed=0), churned(index, y, seed=0))
    assert torch.equal(churned(index, y, seed=0), churned(index, y, seed=0))


def test_no_label_is_the_condition_without_a_class():
    index = torch.arange(2)
    for sampler in (sampler_of(edm(), heun=THREE), sampler_of(maskdit(), heun=THREE)):
        assert sampler.num_classes == 3
        assert not torch.equal(sampler(index, None, seed=0), sampler(index, torch.tensor([0, 1]), seed=0))
    flow = sampler_of(lightningdit(in_channels=3), flow=FlowSettings(points=3, guidance=2.0))
    null = torch.full((2,), 3)
    assert torch.equal(flow(index, None, seed=0), FlowSampler(flow.model, FlowSettings(points=3))(index, null, seed=0))
    assert sampler_of(edm(0), heun=THREE).num_classes == 0


def test_bfloat16_changes_the_images_a_little():
    sampler, index, y = sampler_of(edm(), heun=THREE), torch.arange(4), torch.tensor([0, 1, 2, 0])
    exact = sampler(index, y, seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = sampler(index, y, seed=0)
    assert not torch.equal(half, exact)
    assert float((half.int() - exact.int()).abs().float().mean()) < 5.0


@pytest.mark.parametrize(
    ("name", "vae", "shape", "classes"),
    [
        ("edm-cifar10-cond-vp", "", (3, 32, 32), 10),
        ("edm-ffhq-uncond-ve", "", (3, 64, 64), 0),
        ("edm-imagenet64-cond-adm", "", (3, 64, 64), 1000),
        ("maskdit-xl-2-256", "sdvae-f8d4", (3, 256, 256), 1000),
        ("lightningdit-xl-1", "vavae-f16d32", (3, 256, 256), 1000),
    ],
)
def test_the_published_models_get_a_sampler_of_their_images(name, vae, shape, classes):
    with torch.device("meta"):
        latent = LatentDecoder(build(vae), LatentNormalization(4 if "sd" in vae else 32)) if vae else None
        sampler = sampler_of(build(name), decoder=latent)
    assert sampler.image_shape == shape
    assert sampler.num_classes == classes


@settings(deadline=None, max_examples=8)
@given(count=st.integers(1, 6), batch_size=st.integers(1, 7), seed=st.integers(0, 3))
def test_generate_makes_the_first_images_of_a_seed_and_reports_them(count, batch_size, seed):
    denoiser, seen = edm(), []
    sizes = {"channels": 1, "image_size": 8, "steps": 2, "seed": seed, "batch_size": batch_size}
    images = generate(denoiser, balanced_labels(count, 3), done=seen.append, **sizes)
    assert seen[-1] == count
    assert len(seen) == -(-count // batch_size)
    assert off_by_one_at_most(
        images,
        sampler_of(denoiser, heun=HeunSettings(steps=2))(torch.arange(count), balanced_labels(count, 3), seed=seed),
    )


def test_a_model_without_classes_needs_a_count():
    denoiser = edm(0)
    sizes = {"channels": 1, "image_size": 8, "steps": 2, "seed": 0, "batch_size": 4}
    assert generate(denoiser, None, count=5, **sizes).shape == (5, 1, 8, 8)
    assert not conditional(denoiser)
    assert conditional(maskdit())
    with pytest.raises(ValueError, match="count must say how many"):
        generate(denoiser, None, **sizes)
    with pytest.raises(ValueError, match="a label for each of 5 images, got 3"):
        generate(edm(), balanced_labels(3, 3), count=5, **sizes)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: sampler_of(build("mae-digits")), TypeError, "expected an EDM model.*got a MaskedAutoencoder"),
        (lambda: sampler_of(edm(), heun=HeunSettings(guidance=2.0)), ValueError, "know no guidance"),
        (lambda: sampler_of(maskdit(num_classes=0), heun=HeunSettings(guidance=2.0)), ValueError, "knows no classes"),
        (lambda: sampler_of(lightningdit()), ValueError, "latents of 4 channels; it needs its VAE"),
        (lambda: sampler_of(lightningdit(in_channels=3), decoder=decoder()), ValueError, "VAE decodes 4"),
        (
            lambda: sampler_of(lightningdit(class_dropout_prob=0.0), flow=FlowSettings(guidance=2), decoder=decoder()),
            ValueError,
            "null class",
        ),
        (lambda: LatentDecoder(decoder().vae, LatentNormalization(8)), ValueError, "8 latent channels, the VAE has 4"),
        (lambda: HeunSettings(steps=1), ValueError, "heun.steps must be at least 2, got 1"),
        (lambda: HeunSettings(sigma_min=90.0), ValueError, "heun.sigma_min < heun.sigma_max"),
        (lambda: HeunSettings(S_min=2.0, S_max=1.0), ValueError, "heun.S_max must not be below"),
        (lambda: FlowSettings(points=1), ValueError, "flow.points must be at least 2"),
        (lambda: FlowSettings(start=1.5), ValueError, r"flow.start must be in \[0, 1\], got 1.5"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_guidance_of_a_wrapped_denoiser_is_refused_when_it_is_called():
    sampler = HeunSampler(edm(), (1, 8, 8), 3, HeunSettings(steps=2, guidance=2.0))
    with pytest.raises(ValueError, match="guidance needs a MaskDiT"):
        sampler(torch.arange(1), torch.tensor([0]), seed=0)
