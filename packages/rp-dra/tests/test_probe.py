"""Linear probes on diffusion features: fixed noise, fresh noise, and how much of a robustness EOT takes away."""

import pytest
import torch
from rp_attacks import FixedNoise
from rp_attacks.defence import query
from rp_dra import EdmTarget, fit_probe
from rp_dra.attention_head import AttentionHead
from rp_dra.encoder_settings import ProbeSettings
from rp_dra.probe import NoisyProbe, eot_gap
from rp_dra.probe_trainer import ProbeTrainer
from rp_dra.targets import JoinedTarget, ModuleTarget
from rp_models import build
from rp_models.data import load_images, subset
from rp_models.noise import derive_seed, normal
from rp_models.training import RunFolder, train_stage
from torch import nn


def edm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("edm-digits")


def random_features():
    """Random features of noisy images: unlike those of an untrained EDM they classify well, and hear their noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU())
    return ModuleTarget(network, sigma=0.4)


def images(count=300, split="train"):
    return subset(load_images("digits", split), count)


@pytest.fixture(scope="module")
def fitted():
    return fit_probe(EdmTarget(edm()), images(), seed=0)


@pytest.fixture(scope="module")
def noisy():
    """A random classifier."""
    return NoisyProbe(fit_probe(random_features(), images(), seed=0, noise="per-image", draws=4), seed=1)


def test_a_probe_on_random_features_beats_chance_and_is_deterministic(fitted):
    x, y = images(100, "validation").batch(slice(None))
    logits = fitted(x)
    assert float((logits.argmax(dim=1) == y).float().mean()) > 0.4  # chance is 0.1
    assert torch.equal(logits, fitted(x))
    torch.testing.assert_close(fitted(x[:1]), logits[:1], atol=1e-4, rtol=1e-4)  # no image depends on its batch


@pytest.mark.parametrize("noise", ["shared", "per-image"])
def test_the_fit_is_a_stationary_point_of_the_penalised_loss(noise):
    probe = fit_probe(EdmTarget(edm()), images(), seed=0, noise=noise)
    x, y = images().batch(slice(None))
    eps = None
    if noise == "per-image":
        eps = normal((1, 8, 8), seed=derive_seed(0, "fit", 0), purpose="probe noise", index=torch.arange(300))
    features = probe.forward_features(x, eps).detach()
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(features.shape[1]), atol=1e-4, rtol=0)
    loss = nn.functional.cross_entropy(probe.head(features), y) + 1e-3 * probe.head.weight.square().sum() / 2
    gradient = torch.autograd.grad(loss, probe.head.weight)[0]
    assert float(gradient.abs().max()) < 1e-4  # the solver stops at 1e-7 in float64; float32 features round to 1e-5


def test_the_gradient_reaches_the_image_through_the_diffusion_model(fitted):
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(fitted(x)[:, 0].sum(), x)
    step = 1e-3
    direction = gradient / gradient.norm()
    with torch.no_grad():
        change = (fitted(x + step * direction)[:, 0] - fitted(x - step * direction)[:, 0]).sum() / (2 * step)
    torch.testing.assert_close(change, gradient.norm(), rtol=2e-2, atol=1e-3)  # central difference in float32


def test_several_noise_levels_and_layers_fit_at_once():
    model = edm()
    parts = [EdmTarget(model, sigma=0.1), EdmTarget(model, sigma=0.5, layer="enc_last")]
    probe = fit_probe(JoinedTarget(parts), images(50), seed=0)
    x, _ = images(5).batch(slice(None))
    assert probe.noise.shape == (1, 2, 8, 8)
    assert probe.head.in_features == sum(part.width(1, 8) for part in parts)
    assert probe(x).shape == (5, 10)


def test_a_noisy_probe_has_fresh_noise_at_every_call_and_the_same_for_the_same_seed(noisy):
    x, _ = images(6, "validation").batch(slice(None))
    first, second = noisy(x), noisy(x)
    assert not torch.allclose(first, second, atol=1e-2)
    assert not torch.allclose(first[0], noisy(x[:1].expand_as(x))[1], atol=1e-2)
    index = torch.tensor([4, 9, 2, 0, 7, 1])
    whole = query(noisy, x, seed=3, index=index)
    torch.testing.assert_close(query(noisy, x[2:3], seed=3, index=index[2:3]), whole[2:3], atol=1e-4, rtol=1e-4)
    known = FixedNoise(noisy, seed=8)
    assert torch.equal(query(known, x, seed=1, index=index), query(known, x, seed=2, index=index))


def test_averaging_over_the_noise_takes_robustness_away_and_known_noise_takes_more(noisy):
    x, y = images(40, "validation").batch(slice(None))
    gap = eot_gap(noisy, x, y, eps=0.03, steps=4, passes=6, seed=0, batch_size=40)
    assert gap.with_eot.estimate < gap.without_eot.estimate < gap.clean.estimate
    assert gap.fixed_noise.estimate < gap.with_eot.estimate
    assert gap.noise.estimate > gap.without_eot.estimate
    assert gap.passes == 6
    for interval in gap[:5]:
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1


def test_training_with_fresh_noise_learns_and_resumes_bit_for_bit(tmp_path):
    target = random_features()
    settings = ProbeSettings(epochs=3, batch_size=50, lr=3e-2, crop_padding=1, flip=False)

    def train(trainer, folder, steps=None):
        train_stage(trainer, stage="p", steps=steps or trainer.steps, folder=folder, identity={}, seed=0)
        return trainer

    whole = train(ProbeTrainer(target, images(), settings, seed=2), RunFolder.open(tmp_path / "a", {}, resume=False))
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    train(ProbeTrainer(target, images(), settings, seed=2), folder, steps=7)
    again = train(ProbeTrainer(target, images(), settings, seed=2), folder)
    assert torch.equal(whole.model.head.weight, again.model.head.weight)
    assert whole.state.modules.keys() == {"head"}  # the frozen network is not stored with the training
    x, y = images(100, "validation").batch(slice(None))
    assert float((NoisyProbe(whole.model, seed=0)(x).argmax(dim=1) == y).float().mean()) > 0.3  # chance is 0.1


def test_the_rate_falls_as_a_cosine_once_an_epoch():
    trainer = ProbeTrainer(EdmTarget(edm()), images(60), ProbeSettings(epochs=2, batch_size=30, lr=0.5), seed=2)
    assert [trainer.step(step)["lr"] for step in range(4)] == pytest.approx([0.5, 0.5, 0.25, 0.25])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fit_probe(EdmTarget(edm()), images(20), seed=0, noise="fresh"), "'shared' or 'per-image'"),
        (lambda: fit_probe(EdmTarget(edm()), images(20), seed=0, draws=3), "draws must be 1 with shared noise"),
        (lambda: ProbeSettings(epochs=0), "probe.epochs must be at least 1"),
        (lambda: ProbeSettings(lr=0), "probe.lr must be positive"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_attention_head_is_trained_on_all_positions(tmp_path):
    settings = ProbeSettings(head="attention", heads=4, epochs=6, batch_size=50, lr=3e-3, crop_padding=1, flip=False)
    target = EdmTarget(edm(), label="null", sigma=0.2)
    trainer = ProbeTrainer(target, images(), settings, seed=2)
    losses = [trainer.step(step)["loss"] for step in range(trainer.steps)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    x, y = images(4, "validation").batch(slice(None))
    eps = normal(x.shape[1:], seed=3, purpose="test", index=torch.arange(4))
    features = trainer.model.forward_features(x, eps)
    assert features.dim() == 3  # positions, not their average
    moved = features.clone()
    moved[:, 0] += 1
    moved[:, 1] -= 1  # the average is the same
    assert not torch.allclose(trainer.model.head(moved), trainer.model.head(features))
    gap = eot_gap(NoisyProbe(trainer.model, seed=1), x, y, eps=0.02, steps=2, passes=2, seed=0, autoattack=True)
    assert 0 <= gap.autoattack.low <= gap.autoattack.estimate <= 1
    assert not any(parameter.requires_grad for parameter in target.parameters())
    with pytest.raises(ValueError, match="with positions"):
        trainer.model.head(features.mean(dim=1))
    with pytest.raises(ValueError, match="heads divide 64"):
        AttentionHead(64, 10, heads=5)
