"""Standard classifiers at tiny size, and the batches that all trainers take."""

import dataclasses

import pytest
import torch
from rp_models.data import Augmentation, load_images, subset
from rp_models.data.augment import augment
from rp_models.settings import ComputeSettings, StandardSettings
from rp_models.training import Minibatches, Processes, RunFolder, StandardTrainer, train_stage
from rp_models.training.standard import standard_held_out
from torch.nn import functional as F

SETTINGS = StandardSettings(
    network="dm-wide-resnet",
    sizes={"depth": 10, "width": 1},
    steps=30,
    batch_size=16,
    lr=0.1,
    weight_decay=5e-3,
    label_smoothing=0.1,
    crop_padding=1,
    flip=False,
    ema_half_life=100,
)


def digits(count=64):
    return subset(load_images("digits", "train"), count)


def test_a_step_is_nesterov_sgd_on_the_smoothed_cross_entropy():
    settings = dataclasses.replace(SETTINGS, crop_padding=0)
    trainer, twin = (StandardTrainer(settings, digits(), seed=0) for _ in range(2))
    x, labels, _ = twin.batches.part(0)
    log_p = twin.model(x).log_softmax(dim=1)
    loss = -(0.9 * log_p[range(16), labels] + 0.1 * log_p.mean(dim=1)).mean()
    loss.backward()
    metrics = trainer.step(0)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for mine, start in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        grad = start.grad + (5e-3 * start if start.dim() > 1 else 0)
        # the first step with Nesterov momentum 0.9 is 1.9 times the gradient
        torch.testing.assert_close(mine, start - 0.1 * 1.9 * grad, atol=1e-6, rtol=1e-5)


def test_training_lowers_the_loss_and_resumes_bit_for_bit(tmp_path):
    whole = StandardTrainer(SETTINGS, digits(), seed=0)
    folder = RunFolder.open(tmp_path / "a", {}, resume=False)
    train_stage(whole, stage="standard", steps=30, folder=folder, identity={}, seed=0)
    losses = [record["loss"] for record in folder.metrics("standard")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    resumed = None
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    for steps in (11, 30):
        resumed = StandardTrainer(SETTINGS, digits(), seed=0)
        train_stage(resumed, stage="standard", steps=steps, folder=folder, identity={}, seed=0)
    for name, module in whole.state.modules.items():
        other = resumed.state.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())


def test_the_held_out_figures_are_those_of_the_network_in_eval_mode():
    trainer, images = StandardTrainer(SETTINGS, digits(), seed=0), digits(20)
    trainer.step(0)
    loss, accuracy = standard_held_out(trainer.model, images, batch_size=7)
    assert trainer.model.training
    x, labels = images.batch(slice(None))
    logits = trainer.model.eval()(x)
    assert loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_every_option_of_the_computation_trains():
    compute = ComputeSettings(precision="bf16", channels_last=True, clip_norm=1.0)
    trainer = StandardTrainer(SETTINGS, digits(), seed=0, compute=compute)
    first, *_, last = [trainer.step(step) for step in range(12)]
    assert last["loss"] < first["loss"]
    assert first.keys() == {"loss", "accuracy", "gradient_norm", "lr"}


def test_a_network_that_does_not_take_the_data_is_refused():
    with pytest.raises(ValueError, match="num_classes"):
        StandardTrainer(dataclasses.replace(SETTINGS, network="mae-digits", sizes={}), digits(), seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("warmup_steps", 31),
        ("label_smoothing", 1.0),
        ("crop_scale", 1.5),
        ("cutout", -1),
        ("batch_size", 0),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"standard\.{field} must"):
        dataclasses.replace(SETTINGS, **{field: value})


class OnDisk:
    """Images that are read batch by batch."""

    def __init__(self, images):
        self.images, self.info, self.labels, self.device = images, images.info, images.labels, images.device

    def __len__(self):
        return len(self.images)

    def batch(self, index):
        return self.images.batch(index)


def test_a_batch_is_the_plan_s_images_augmented_by_their_number():
    images, augmentation = digits(), Augmentation(crop_padding=2, flip=True)
    batches = Minibatches(images, 24, seed=5, purpose="test", augmentation=augmentation)
    step = 7  # in the third epoch of three batches
    x, labels, draw = batches.part(step)
    assert torch.equal(draw, torch.arange(24 * step, 24 * (step + 1)))
    plain, expected = images.batch(batches.plan.indices(2, 1))
    assert torch.equal(labels, expected)
    assert torch.equal(x, augment(plain, augmentation, seed=5, purpose="test", index=draw))
    assert not torch.equal(x, plain)


def test_processes_share_a_batch_and_read_ahead_without_a_change():
    images = digits()
    whole = Minibatches(images, 24, seed=5, purpose="test", augmentation=Augmentation(flip=True))
    parts = [
        Minibatches(
            OnDisk(images),
            24,
            seed=5,
            purpose="test",
            augmentation=Augmentation(flip=True),
            processes=Processes(rank, 3),
        )
        for rank in range(3)
    ]
    for step in (0, 1, 2, 8, 9, 4):  # in order, and with jumps as after a resume
        for value, *shares in zip(whole.part(step), *(part.part(step) for part in parts), strict=True):
            assert torch.equal(torch.cat(shares), value)
    for value, other in zip(whole.whole(3), parts[1].whole(3), strict=True):
        assert torch.equal(value, other)


def test_a_batch_that_cannot_be_divided_is_refused_before_training():
    with pytest.raises(ValueError, match="a batch of 16 cannot be divided among 3 processes"):
        Minibatches(digits(), 16, seed=0, purpose="test", processes=Processes(0, 3))


def test_a_foreign_network_that_normalises_by_itself_is_trained(tmp_path):
    code = (
        "from torch import nn\n\n"
        "def net(num_classes, in_channels, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 8), nn.Flatten(), nn.Linear(width, num_classes))\n"
    )
    (tmp_path / "net.py").write_text(code)
    settings = dataclasses.replace(SETTINGS, network=f"{tmp_path / 'net.py'}:net", sizes={"width": 6})
    trainer = StandardTrainer(settings, digits(), seed=0)
    assert trainer.model[0].out_channels == 6
    before = trainer.model[2].weight.clone()
    assert trainer.step(0)["loss"] > 0
    assert not torch.equal(trainer.model[2].weight, before)
