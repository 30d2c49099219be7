"""What goes beyond the paper's alignment: other losses, weights over time, control targets, positions."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra import Alignment, AlignmentSettings, ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of
from rp_dra.alignment import alignment_loss, shuffled
from rp_dra.positions import Maps, Tap, resample
from rp_dra.rates import alignment_weight
from rp_dra.relational import cka_loss, distance_loss, similarity_loss
from rp_dra.targets import JoinedTarget, LightningDitTarget, SitTarget
from rp_dra.targets.build import alignment_target
from rp_models import build, save
from rp_models.data import load_images, subset
from rp_models.networks.vae import LatentNormalization
from torch.nn import functional as F


def features(b=5, d=4, seed=0):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_similarity(x, y):
    total = 0.0
    for i in range(len(x)):
        mine, theirs = (torch.stack([part[i] @ part[j] for j in range(len(x))]) for part in (x, y))
        total = total + (mine / mine.norm() - theirs / theirs.norm()).square().sum()
    return total / len(x) ** 2


def slow_distance(x, y):
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    mine, theirs = (torch.stack([(part[i] - part[j]).norm() for i, j in pairs]) for part in (x, y))
    gaps = (mine / mine.mean() - theirs / theirs.mean()).abs()
    return torch.where(gaps < 1, 0.5 * gaps.square(), gaps - 0.5).mean()


def slow_cka(x, y):
    centre = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return 1 - (k @ m).trace() / ((k @ k).trace() * (m @ m).trace()).sqrt()


@pytest.mark.parametrize(
    ("loss", "slow"), [(similarity_loss, slow_similarity), (distance_loss, slow_distance), (cka_loss, slow_cka)]
)
def test_relational_losses_are_their_papers_formulas_with_their_gradients(loss, slow):
    x, y = features().requires_grad_(), features(d=7, seed=1).requires_grad_()
    value, expected = loss(x, y), slow(x, y)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x)[0])
    assert torch.autograd.grad(loss(x, y), y, allow_unused=True)[0] is None
    assert loss(x, 3 * x).item() == pytest.approx(0, abs=1e-12)  # the same relations at another scale


@settings(deadline=None, max_examples=20)
@given(count=st.integers(2, 9), seed=st.integers(0, 10**6), within=st.booleans())
def test_shuffling_is_a_permutation_that_keeps_classes_if_it_shall(count, seed, within):
    y = torch.arange(count) % 3
    target = torch.arange(count)[:, None, None].float()
    found = shuffled(target, y, within_class=within, seed=seed, draw=torch.arange(count))
    place = found[:, 0, 0].long()
    assert sorted(place.tolist()) == list(range(count))
    if within:
        assert torch.equal(y[place], y)


def test_the_weight_goes_from_the_first_to_the_last_and_stops():
    at = [alignment_weight(AlignmentSettings(weight=2, stop=0.5), share) for share in (0, 0.49, 0.5, 0.9)]
    assert at == [2, 2, 0, 0]
    linear = AlignmentSettings(weight=2, final_weight=1, weight_schedule="linear")
    assert [alignment_weight(linear, share) for share in (0, 0.5, 0.75)] == [2, 1.5, 1.25]
    cosine = replace(linear, weight_schedule="cosine")
    assert [alignment_weight(cosine, share) for share in (0, 0.5, 1 / 3)] == pytest.approx([2, 1.5, 1.75])


def edm():
    torch.manual_seed(0)
    sizes = {"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": "SongUNet", "model_channels": 8}
    return build("edm", **sizes, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[4])


INFO = load_images("digits", "train").info
CPU = torch.device("cpu")
TRAINING = TrainingSettings(
    epochs=2, batch_size=8, epoch_images=16, eps=0.1, step_size=0.05, attack_steps=1, crop_padding=1, validate_every=0
)


def trainer(alignment, recipe=TRAINING, **options):
    denoiser = edm()
    target = alignment_target(alignment, denoiser, CPU, info=INFO, seed=5) if alignment.aligns else None
    return ClassifierTrainer(
        ClassifierSettings(depth=10, width=1),
        recipe,
        subset(load_images("digits", "train"), 32),
        objective=objective_of(recipe),
        target=target,
        alignment=alignment,
        seed=3,
        **options,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "cka"},
        {"loss": "similarity"},
        {"loss": "distance"},
        {"loss": "tokens"},
        {"loss": "tokens", "positions": "layer.1", "consistency": 0.3},
        {"loss": "tokens", "target": "untrained-network", "network": ClassifierSettings(depth=10, width=2)},
        {"sigma": (0.1, 0.5), "layer": ("bottleneck", "enc_last")},
        {"images": "both", "consistency": 0.3},
        {"target": "untrained-edm", "shuffle": "class", "random_level": "yes", "shared_head": True},
    ],
)
def test_every_option_takes_part_in_a_step(changes):
    plain = trainer(AlignmentSettings(hidden=8, weight=0)).step(0)
    made = trainer(AlignmentSettings(hidden=8, weight=0.7, **changes))
    metrics = made.step(0)
    extra = 0.3 * metrics["consistency"] if "consistency" in metrics else 0.0
    assert metrics["loss"] == pytest.approx(plain["loss"] + 0.7 * metrics["alignment"] + extra, abs=1e-5)
    assert made.head.representations == (2 if "random_level" in changes else 1)
    assert all(p.grad is not None for p in made.head.parameters())


def test_the_term_is_left_out_when_its_weight_is_zero():
    made = trainer(AlignmentSettings(hidden=8, stop=0.5))
    assert "alignment" in made.step(1)
    assert "alignment" not in made.step(2)
    assert "consistency" in trainer(AlignmentSettings(weight=0, consistency=1.2)).step(0)


def test_consistency_pulls_adversarial_features_to_the_natural_ones_alone():
    made = trainer(AlignmentSettings(weight=0, consistency=0.5))
    x, y, draw = made.batches.part(0)
    outcome = made.objective(made.model, x, y, start_noise=made.objective.start_noise(x, seed=3, draw=draw))
    expected = -F.cosine_similarity(outcome.features, outcome.features_nat, dim=1).mean()
    _, metrics = made.loss(x, y, draw)
    torch.testing.assert_close(metrics["consistency"], expected, atol=1e-5, rtol=1e-5)
    pgd = trainer(AlignmentSettings(weight=0, consistency=0.5), replace(TRAINING, objective="pgd-at"))
    with pytest.raises(ValueError, match="no pass of natural images"):
        pgd.step(0)


def test_the_tokens_loss_is_the_cosine_at_each_position():
    alignment = Alignment(4, 3, hidden=5, loss="tokens")
    x, target = torch.randn(2, 1 + 4, 4), torch.randn(2, 1, 16, 3)  # 2x2 and 4x4 positions
    grid = target[:, 0].reshape(2, 2, 2, 2, 2, 3).mean(dim=(2, 4)).reshape(2, 4, 3)
    expected = -F.cosine_similarity(alignment.head(x[:, 1:]), grid, dim=-1).mean()
    torch.testing.assert_close(alignment(x, target), expected)
    wider = F.pad(torch.cat([x[:, :1], torch.randn(2, 1, 4), x[:, 1:]], dim=1), (0, 3))  # a class token, wide features
    torch.testing.assert_close(alignment(wider, target), expected)
    assert alignment_loss(x, x).item() == pytest.approx(-1, abs=1e-5)


def test_positions_are_the_last_maps_before_the_average():
    model = build("dm-wide-resnet", depth=10, width=1, in_channels=1).eval()
    x = torch.rand(2, 1, 8, 8)
    tap = Tap(model, None, x[:1])
    assert tap.name == "batchnorm"
    pooled = model.forward_features(x)
    torch.testing.assert_close(F.silu(tap.take()).mean(dim=1), pooled)
    with pytest.raises(ValueError, match=r"maps .* or tokens"):
        tap.take()
    assert (tap.width, Tap(model, "layer.1", x[:1]).width) == (64, 32)
    with pytest.raises(ValueError, match="has no module 'gone'"):
        Tap(model, "gone", x[:1])
    with pytest.raises(ValueError, match=r"the output of 'logits' must be maps .* got none: no features come from it"):
        Tap(model, "logits", x[:1])
    vit = build("vit-digits", depth=1, width=16, heads=2)
    tokens = Maps(vit)(x)
    torch.testing.assert_close(tokens, vit.forward_tokens(x))
    assert resample(tokens, tokens.shape[1] - 1).shape[1] == tokens.shape[1] - 1  # the class token is left out


def test_a_compiled_network_cannot_give_positions():
    from rp_models.settings import ComputeSettings

    with pytest.raises(ValueError, match=r"alignment\.loss=tokens"):
        trainer(AlignmentSettings(hidden=8, loss="tokens"), compute=ComputeSettings(compile=True))


def test_untrained_targets_depend_on_the_seed_alone_and_leave_the_denoiser_as_it_is():
    denoiser, x = edm(), torch.rand(2, 1, 8, 8)
    weights = {key: value.clone() for key, value in denoiser.state_dict().items()}
    for target in ("untrained-edm", "untrained-network"):
        chosen = AlignmentSettings(target=target, network=ClassifierSettings(depth=10, width=1))
        one, again, other = (alignment_target(chosen, denoiser, CPU, info=INFO, seed=seed) for seed in (1, 1, 2))
        noise = torch.zeros(2, 1, 8, 8)
        assert torch.equal(one(x, None, noise=noise), again(x, None, noise=noise))
        assert not torch.equal(one(x, None, noise=noise), other(x, None, noise=noise))
    assert all(torch.equal(value, weights[key]) for key, value in denoiser.state_dict().items())


def test_several_levels_and_layers_stand_side_by_side():
    denoiser, x = edm(), torch.rand(2, 1, 8, 8)
    chosen = AlignmentSettings(sigma=(0.1, 0.5), layer=("bottleneck", "enc_last"))
    target = alignment_target(chosen, denoiser, CPU)
    assert isinstance(target, JoinedTarget)
    noise = torch.randn(2, 4, 8, 8)
    parts = [
        alignment_target(AlignmentSettings(sigma=(sigma,), layer=(layer,)), denoiser, CPU)(x, None, noise=eps)
        for (layer, sigma), eps in zip(
            [("bottleneck", 0.1), ("bottleneck", 0.5), ("enc_last", 0.1), ("enc_last", 0.5)],
            noise.split(1, dim=1),
            strict=True,
        )
    ]
    assert torch.equal(target(x, None, noise=noise), torch.cat(parts, dim=1))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latent")
    torch.manual_seed(0)
    sizes = {
        "image_size": 4,
        "patch_size": 2,
        "width": 24,
        "depth": 3,
        "heads": 2,
        "num_classes": 5,
        "encoder_depth": 1,
    }
    save(build("sit", in_channels=4, target_widths=[8], projector_hidden=8, **sizes), folder / "sit.safetensors")
    save(
        build("autoencoder-kl", width=32, multipliers=[1, 1], blocks=1, attention=[False] * 2, z_channels=4),
        folder / "vae.safetensors",
    )
    return folder


def test_sits_features_are_those_of_its_own_time(latents):
    chosen = AlignmentSettings(
        target="sit", checkpoint=str(latents / "sit.safetensors"), autoencoder=str(latents / "vae.safetensors")
    )
    made = alignment_target(replace(chosen, blocks=(2,), time=(0.7,)), None, CPU)
    assert isinstance(made, SitTarget)
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([1, 3])
    noise = torch.randn(2, *made.noise_shape((3, 8, 8)))
    z = LatentNormalization(4, 0.18215)(made.autoencoder.encode(x).mean)
    expected = made.transformer.features(0.7 * z + 0.3 * noise, 0.3, y, blocks=2).mean(dim=1)
    torch.testing.assert_close(made(x, y, noise=noise), expected, atol=1e-5, rtol=1e-5)
    level = torch.zeros(2)  # the middle of a uniform time
    middle = made.transformer.features(0.5 * z + 0.5 * noise, 0.5, y, blocks=2).mean(dim=1)
    torch.testing.assert_close(made(x, y, noise=noise, level=level), middle, atol=1e-5, rtol=1e-5)
    pixels = alignment_target(replace(chosen, blocks=(2,), time=(0.8,), noise_in="pixels"), None, CPU)
    assert pixels.noise_shape((3, 8, 8)) == (12, 4, 4)
    drawn = torch.randn(2, 12, 4, 4)
    noisy = pixels.autoencoder.encode(x + 0.125 * F.pixel_shuffle(drawn, 2)).mean  # (1 - t) / t, halved for [0, 1]
    expected = pixels.transformer.features(pixels.normalization(noisy), 0.2, y, blocks=2).mean(dim=1)
    torch.testing.assert_close(pixels(x, y, noise=drawn), expected, atol=1e-5, rtol=1e-5)
    several = alignment_target(replace(chosen, blocks=(1, 2)), None, CPU)
    assert several.width(3, 8) == 48
    assert not issubclass(SitTarget, LightningDitTarget)


def test_a_pretrained_network_is_shown_large_images_in_three_channels(tmp_path):
    timm = pytest.importorskip("timm")
    name = "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m"
    torch.manual_seed(0)
    torch.save(timm.create_model(name, num_classes=0).state_dict(), tmp_path / "weights.pt")
    network = ClassifierSettings(
        network="vit-b16-dinov3", arguments={"model": name}, pretrained=str(tmp_path / "weights.pt")
    )
    chosen = AlignmentSettings(target="pretrained-network", network=network, image_size=32)
    target = alignment_target(chosen, None, CPU, info=INFO)
    x = torch.rand(2, 1, 8, 8)
    large = F.interpolate(x, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1).expand(-1, 3, -1, -1)
    expected = target.network.network.forward_features(large)
    torch.testing.assert_close(target(x, None, noise=torch.zeros_like(x)), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"needs alignment.network.pretrained"):
        AlignmentSettings(target="pretrained-network")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": ()}, "sigma needs at least one value"),
        ({"blocks": (3, 3)}, "names a value twice"),
        ({"stop": 1.5}, r"alignment.stop must be in \[0, 1\]"),
        ({"target": "sit"}, "alignment.target=sit needs alignment.checkpoint"),
        ({"consistency": -1}, "alignment.consistency must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AlignmentSettings(**changes)


def test_a_target_without_positions_says_so():
    denoiser = edm()
    made = alignment_target(AlignmentSettings(loss="tokens"), denoiser, CPU)
    assert made(torch.rand(2, 1, 8, 8), None, noise=torch.zeros(2, 1, 8, 8)).shape == (2, 16, 16)
    with pytest.raises(ValueError, match=r"needs alignment\.checkpoint"):
        alignment_target(AlignmentSettings(target="network"), None, CPU)
