"""Classifiers made of a diffusion encoder: features, training, checkpoints, errors."""

from dataclasses import replace

import numpy as np
import pytest
import rp_models
import torch
from rp_attacks.defence import query
from rp_dra import Trades
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.encoder_trainer import EncoderFineTuner, NoisyClassifierTrainer
from rp_dra.settings import AlignmentSettings
from rp_dra.targets import EdmTarget, EncoderTarget
from rp_dra.targets.build import alignment_target
from rp_models import build
from rp_models.checkpoint import CheckpointError
from rp_models.data import load_images, subset
from rp_models.diffusion.encoder_classifier import DiffusionClassifier, EdmEncoder, NoisyClassifier
from rp_models.training import RunFolder, seeded, train_stage
from rp_testing import fill_state

SETTINGS = EncoderSettings(epochs=4, batch_size=32, lr=3e-3, ema_half_life=100, crop_padding=1, flip=False, sigma=0.1)


def edm(kind="SongUNet", **changes):
    """A tiny network with every branch open."""
    sizes = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "augment_dim": 9}
    model = build(
        "edm", **{"img_resolution": 8, "img_channels": 1, "label_dim": 10, "model_type": kind, **sizes, **changes}
    )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()})
    return model


def fresh(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("edm-digits", **{"label_dim": 0, "model_channels": 16, **changes})


def images(count=96, split="train"):
    return subset(load_images("digits", split), count)


@pytest.mark.parametrize("kind", ["SongUNet", "DhariwalUNet"])
@pytest.mark.parametrize("layer", ["enc_last", "mid_in0", "bottleneck"])
def test_the_encoder_is_the_denoisers_own_and_leaves_it_whole(kind, layer):
    denoiser = edm(kind).eval()
    before = {key: value.clone() for key, value in denoiser.state_dict().items()}
    encoder = EdmEncoder(denoiser, layer=layer).eval()
    x, eps = torch.rand(3, 1, 8, 8), torch.randn(3, 1, 8, 8)
    expected = EdmTarget(denoiser, sigma=0.3, layer=layer)(x, None, noise=eps)
    with torch.no_grad():
        torch.testing.assert_close(encoder(2 * x - 1 + 0.3 * eps, 0.3), expected, atol=1e-6, rtol=1e-5)
    assert encoder.width == expected.shape[1]
    assert all(torch.equal(value, before[key]) for key, value in denoiser.state_dict().items())
    own = sum(p.numel() for p in encoder.parameters())
    assert own < 0.6 * sum(p.numel() for p in denoiser.parameters())


def test_every_parameter_of_the_classifier_is_trained():
    model = DiffusionClassifier(edm(), 10).train()
    model(torch.rand(4, 1, 8, 8)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_fine_tuned_encoder_is_a_deterministic_classifier_in_train_mode_too(head):
    model = DiffusionClassifier(edm(dropout=0.5), 10, head=head).train()
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x), model.head(model.forward_features(x)))
    assert model.head.in_features == model.encoder.width == model.forward_features(x).shape[1]
    noisy = DiffusionClassifier(edm(), 10, noise_seed=4).eval()
    same = DiffusionClassifier(edm(), 10, noise_seed=4).eval()
    same.head.load_state_dict(noisy.head.state_dict())
    assert torch.equal(noisy(x), same(x))
    assert not torch.allclose(noisy.forward_features(x), DiffusionClassifier(edm(), 10).forward_features(x), atol=1e-3)


def test_a_noisy_classifier_takes_its_noise_and_offers_it_to_attacks():
    model = NoisyClassifier(edm(label_dim=0), 10, sigma=0.5).eval()
    x, index = torch.rand(4, 1, 8, 8), torch.tensor([5, 6, 7, 8])
    eps = torch.randn(4, 1, 8, 8)
    assert not torch.allclose(model(x, noise=eps), model(x, noise=0 * eps), atol=1e-3)
    assert torch.equal(query(model, x, seed=1, index=index), query(model, x, seed=1, index=index))
    assert not torch.allclose(query(model, x, seed=1, index=index), query(model, x, seed=2, index=index), atol=1e-3)
    target = EncoderTarget(model)
    torch.testing.assert_close(target(x, index, noise=eps), model.forward_features(x, noise=eps).detach())
    assert not any(parameter.requires_grad for parameter in target.parameters())
    with pytest.raises(ValueError, match=r"one noise level, 0\.5"):
        target(x, None, noise=eps, level=torch.zeros(4))


def train(trainer, folder, steps=None):
    train_stage(trainer, stage="t", steps=steps or trainer.steps, folder=folder, identity={}, seed=0)
    return {key: value.clone() for key, value in trainer.state.modules["average"].state_dict().items()}


def test_training_on_noisy_images_learns_and_resumes_bit_for_bit(tmp_path):
    def trainer():
        with seeded(0, "weights"):
            model = NoisyClassifier(fresh(), 10)
        return NoisyClassifierTrainer(model, images(), replace(SETTINGS, epochs=8), seed=1)

    made = trainer()
    whole = train(made, RunFolder.open(tmp_path / "a", {}, resume=False))
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    train(trainer(), folder, steps=20)
    resumed = train(trainer(), folder)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    held_out = images(100, "validation")
    x, y = held_out.batch(torch.arange(100))
    right = made.average.with_noise(seed=0, index=torch.arange(100))(x).argmax(dim=1) == y
    assert right.float().mean() > 0.25  # chance is 0.1


def test_fine_tuning_by_trades_lowers_its_loss_and_changes_encoder_and_head():
    with seeded(0, "weights"):
        model = DiffusionClassifier(fresh(), 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trades = Trades(eps=0.02, step_size=0.01, steps=2)
    tuner = EncoderFineTuner(model, images(32), replace(SETTINGS, epochs=16, lr=1e-2), objective=trades, seed=1)
    losses = [tuner.step(step)["loss"] for step in range(tuner.steps)]
    assert losses[-1] < 0.9 * losses[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"head.weight", "encoder.denoiser.model.enc.8x8_conv.weight"} <= changed
    assert not tuner.average.training


@pytest.mark.parametrize("kind", [DiffusionClassifier, NoisyClassifier])
def test_a_checkpoint_gives_the_same_classifier_again(tmp_path, kind):
    options = {"noise_seed": 3} if kind is DiffusionClassifier else {}
    model = kind(edm(), 10, sigma=0.2, head="mlp", layer="mid_in0", **options).eval()
    rp_models.save(model, tmp_path / "e.safetensors")
    again = rp_models.load(tmp_path / "e.safetensors")
    assert type(again) is kind
    assert not again.training
    x, eps = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    given = {} if kind is DiffusionClassifier else {"noise": eps}
    assert torch.equal(again(x, **given), model(x, **given))


def test_what_is_no_encoder_checkpoint_is_told(tmp_path):
    settings = AlignmentSettings(target="encoder", checkpoint=str(tmp_path / "edm.safetensors"))
    rp_models.save(edm(), tmp_path / "edm.safetensors")
    with pytest.raises(CheckpointError, match="expected a NoisyClassifier, the checkpoint is a EDMPrecond"):
        alignment_target(settings, None, torch.device("cpu"))
    with pytest.raises(ValueError, match="network must name an EDM network, got dm-wide-resnet"):
        rp_models.build("noisy-classifier", network="dm-wide-resnet", network_arguments={}, num_classes=10)
    denoiser = edm()
    del denoiser.recipe
    with pytest.raises(CheckpointError, match=r"rp_models\.build"):
        rp_models.save(DiffusionClassifier(denoiser, 10), tmp_path / "e.safetensors")


def test_a_fine_tuned_encoder_is_a_classifier_for_every_app(tmp_path):
    from rp_models.loading import load_classifier

    rp_models.save(DiffusionClassifier(edm(), 10).eval(), tmp_path / "e.safetensors")
    assert isinstance(load_classifier(str(tmp_path / "e.safetensors"), images(1).info), DiffusionClassifier)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionClassifier(edm(), 10, layer="before_up"), "enc_last, mid_in0 or bottleneck"),
        (lambda: DiffusionClassifier(edm(), 10, sigma=0), "sigma must be positive"),
        (lambda: NoisyClassifier(edm(), 10, head="conv"), "'linear' or 'mlp'"),
        (lambda: EncoderSettings(epochs=0), "encoder.epochs must be at least 1"),
        (lambda: EncoderSettings(lr=-1), "encoder.lr must be positive"),
        (lambda: EncoderSettings(warmup=2), r"encoder.warmup must be in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
