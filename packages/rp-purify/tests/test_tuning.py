"""Tuning denoisers by ADBM and ADDT, and pre-training on noisy images: the objectives, the average, the settings."""

import copy

import pytest
import rp_models
import torch
from rp_models import training
from rp_models.data import load_images, subset
from rp_models.diffusion.edm_loss import EDMLoss, VPLoss
from rp_models.diffusion.precondition import EDMPrecond, VPPrecond
from rp_models.settings import MaeSettings
from rp_purify.addt import ADDTLoss
from rp_purify.bridge import BridgeLoss
from rp_purify.nim import NIMLoss
from rp_purify.nim_training import NIMTrainer, nim_held_out
from rp_purify.settings import ADBMTuningSettings, ADDTTuningSettings
from rp_purify.tuning import DenoiserTuner, TunedAverage

SIZES = {"model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


@pytest.fixture(scope="module")
def images():
    return subset(load_images("digits", "train"), 40)


@pytest.fixture(scope="module")
def classifier():
    with training.seeded(0, "classifier"):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()


def denoiser(kind=EDMPrecond):
    """A tiny network of random weights; the output layer is no longer zero."""
    with training.seeded(0, "denoiser"):
        model = kind(8, 1, model_type="SongUNet", dropout=0.0, **SIZES)
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def tuner(settings, images, classifier, kind=EDMPrecond, **options):
    return DenoiserTuner(settings, denoiser(kind), classifier, images, seed=3, **options)


SMALL = {"steps": 2, "batch_size": 8, "warmup_steps": 1, "flip": False}


def test_adbm_minimises_the_bridge_and_addt_the_sum_or_the_mean_of_its_process(images, classifier) -> None:
    step, own = 5, 3
    adbm = tuner(ADBMTuningSettings(**SMALL, eps=0.1, adversary_steps=2), images, classifier)
    x, labels, draw = adbm.batches.part(step)
    bridge = BridgeLoss(eps=0.1, steps=2)
    each = bridge(adbm.model, classifier, 2 * x - 1, labels, bridge.draw(x.shape[1:], seed=own, index=draw))
    assert torch.equal(adbm.loss(x, labels, draw)[0], each.mean())
    for kind, base, reduce in (
        (EDMPrecond, EDMLoss(), lambda loss: loss.sum() / len(x)),
        (VPPrecond, VPLoss(epsilon_t=1e-3), torch.mean),
    ):
        addt = tuner(ADDTTuningSettings(**SMALL, adversary_steps=1), images, classifier, kind)
        loss = ADDTLoss(base=base, steps=1)
        terms = loss(addt.model, classifier, 2 * x - 1, labels, loss.draw(x.shape[1:], seed=own, index=draw))
        found, logged = addt.loss(x, labels, draw)
        torch.testing.assert_close(found, reduce(terms.loss), rtol=1e-6, atol=0)  # one reduction
        torch.testing.assert_close(logged["denoising_loss"], terms.loss.mean(), rtol=1e-6, atol=0)


def test_the_leak_changes_gradients_and_not_the_loss(images, classifier) -> None:
    gradients, values = [], []
    for leak in (False, True):
        addt = tuner(ADDTTuningSettings(**SMALL, adversary_steps=1, leak=leak), images, classifier)
        loss, _ = addt.loss(*addt.batches.part(0))
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in addt.model.parameters() if p.grad is not None]))
    assert values[0] == values[1]
    assert not torch.allclose(*gradients, rtol=1e-3)


@pytest.mark.parametrize("settings", [ADBMTuningSettings(**SMALL, adversary_steps=1), ADDTTuningSettings(**SMALL)])
def test_steps_move_the_network_and_its_average_and_nothing_else(images, classifier, settings) -> None:
    before = copy.deepcopy(classifier.state_dict())
    trained = tuner(settings, images, classifier)
    start = copy.deepcopy(trained.model.state_dict())
    figures = [trained.step(number) for number in range(2)]
    assert [each["lr"] for each in figures] == [0.0, settings.lr]  # the rate rises from zero
    moved = [key for key, value in trained.model.state_dict().items() if not torch.equal(value, start[key])]
    averaged = [key for key, value in trained.average.state_dict().items() if not torch.equal(value, start[key])]
    assert moved
    assert averaged == moved
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_the_average_follows_the_published_decays() -> None:
    model = torch.nn.Linear(1, 1)
    adbm, addt = (TunedAverage(model, ema=0.999, power=power) for power in (None, 0.75))
    assert [adbm.decay(n) for n in (1, 10, 10**6)] == [2 / 11, 11 / 20, 0.999]
    assert addt.decay(1) == pytest.approx(1 - 2**-0.75)
    assert addt.decay(10**6) == 0.999
    with torch.no_grad():
        start = float(model.weight)
        model.weight += 1.0
    adbm.follow(model, seen=8, batch_size=8)
    assert float(adbm.model.weight) == pytest.approx(start + 9 / 11)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tune_T must be in \[0.1, 1\], got 0.05"):
        ADBMTuningSettings(tune_T=0.05)
    with pytest.raises(ValueError, match="8/255, got 8"):
        ADBMTuningSettings(eps=8)
    with pytest.raises(ValueError, match="largest must be in"):
        ADDTTuningSettings(largest=1.0)


def test_noisy_image_modelling_minimises_its_loss_and_learns(images) -> None:
    settings = MaeSettings(network="mae-digits", mask_rate=0.0, steps=12, batch_size=16, lr=2e-3, warmup_steps=1)
    objective = NIMLoss(shape=4, scale=0.02)
    trainer = NIMTrainer(settings, images, objective=objective, seed=1)
    x, labels, draw = trainer.batches.part(0)
    expected = objective(trainer.model, x, objective.draw(x.shape[1:], seed=1, index=draw)).mean()
    assert torch.equal(trainer.loss(x, labels, draw)[0], expected)
    before = nim_held_out(trainer.model.eval(), images, objective, seed=0)
    trainer.model.train()
    for step in range(12):
        trainer.step(step)
    assert nim_held_out(trainer.model.eval(), images, objective, seed=0) < 0.9 * before
    hidden = nim_held_out(rp_models.load("mae-digits"), images, objective, mask_rate=0.5, seed=0)
    assert hidden != nim_held_out(rp_models.load("mae-digits"), images, objective, seed=0)
