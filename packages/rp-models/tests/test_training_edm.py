"""EDM training and sampling at tiny size."""

import dataclasses

import pytest
import torch
from rp_models import noise
from rp_models.data import load_images, subset
from rp_models.diffusion.edm_augment import Augmentation
from rp_models.diffusion.edm_loss import EDMLoss
from rp_models.diffusion.sampling import balanced_labels, generate
from rp_models.settings import EdmSettings
from rp_models.training import EdmTrainer, RunFolder, train_stage
from rp_models.training.edm import edm_held_out

SETTINGS = EdmSettings(
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    dropout=0.1,
    steps=25,
    batch_size=16,
    lr=5e-3,
    rampup_images=64,
    ema_half_life=200,
)


def trainer(**changes):
    return EdmTrainer(dataclasses.replace(SETTINGS, **changes), subset(load_images("digits", "train"), 64), seed=0)


def test_training_lowers_the_loss_and_resumes_bit_for_bit(tmp_path):
    losses, whole = [], trainer()
    identity = {"settings": "test"}
    folder = RunFolder.open(tmp_path / "a", {}, resume=False)
    train_stage(whole, stage="edm", steps=25, folder=folder, identity=identity, seed=0)
    losses = [record["loss"] for record in folder.metrics("edm")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])

    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    train_stage(trainer(), stage="edm", steps=10, folder=folder, identity=identity, seed=0)
    resumed = trainer()
    train_stage(resumed, stage="edm", steps=25, folder=folder, identity=identity, seed=0)
    for name, module in whole.state.modules.items():
        other = resumed.state.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_a_step_is_adam_on_the_sum_over_values(augment):
    trained, twin = (trainer(augment=augment, dropout=0.0) for _ in range(2))
    x, labels = twin.batches.images.batch(twin.batches.plan.indices(0, 1))
    index, seed = torch.arange(16, 32), noise.derive_seed(0, "edm")
    x, extra = 2 * x - 1, {}
    if augment:
        x, extra["augment_labels"] = Augmentation(p=augment)(x, seed=seed, index=index)
    rnd, unit = EDMLoss().draw(x.shape[1:], seed=seed, index=index)
    loss = EDMLoss()(twin.model, x, labels, rnd=rnd, noise=unit, **extra).sum() / 16
    lr = 5e-3 * 16 / 64  # a quarter of the ramp
    optimizer = torch.optim.Adam(twin.model.parameters(), lr=lr)
    loss.backward()
    optimizer.step()
    metrics = trained.step(1)
    assert metrics == pytest.approx({"loss": loss.item() / 64, "lr": lr})
    for mine, theirs in zip(trained.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)


def test_what_failed_can_be_looked_at():
    shapes = {key: tuple(value.shape) for key, value in trainer(augment=0.5).evidence(0).items()}
    image = (16, 1, 8, 8)
    assert shapes == {"images": image, "labels": (16,), "rnd": (16,), "noise": image, "augment_labels": (16, 9)}
    assert trainer(conditional=False).evidence(0).keys() == {"images", "rnd", "noise"}


def test_the_held_out_loss_does_not_depend_on_the_batch_size():
    denoiser, images = trainer().average, subset(load_images("digits", "validation"), 7)
    losses = [edm_held_out(denoiser, images, seed=0, draws=3, batch_size=size) for size in (7, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != edm_held_out(denoiser, images, seed=1, draws=3)


def test_an_image_is_the_same_in_whatever_batch_it_is_made():
    denoiser = trainer().average
    labels = balanced_labels(7, 10)
    made = [
        generate(denoiser, labels, channels=1, image_size=8, steps=3, seed=5, batch_size=size) for size in (7, 3, 1)
    ]
    assert made[0].shape == (7, 1, 8, 8)
    assert made[0].dtype == torch.uint8
    # another batch size sums in another order; a byte may differ by one where the value lies on the border of two
    for other in made[1:]:
        assert int((made[0].int() - other.int()).abs().max()) <= 1
    assert not torch.equal(made[0][0], made[0][1])


def test_labels_are_balanced():
    assert torch.equal(balanced_labels(23, 10).bincount(), torch.tensor([3] * 3 + [2] * 7))
