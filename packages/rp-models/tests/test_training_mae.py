"""MAE training at tiny size, and the checkpoint that comes with the package."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rp_models import build, load, noise, save
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import ImageSet, load_images
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import MaeSettings, OptimizerName
from rp_models.training import MaeTrainer, RunFolder, train_stage
from rp_models.training.mae import build_mae, mae_loss
from torch import nn

SETTINGS = MaeSettings(network="mae-digits", steps=6, batch_size=8, warmup_steps=2, lr=2e-3)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    images = load_images("digits", "train")
    return ImageSet(images.images[:40], images.labels[:40], images.info)


def test_the_loss_falls(digits: ImageSet) -> None:
    trainer = MaeTrainer(dataclasses.replace(SETTINGS, steps=25), digits, seed=0)
    before = mae_loss(trainer.model, digits, mask_rate=0.75, seed=0)
    for step in range(25):
        trainer.step(step)
    assert mae_loss(trainer.model, digits, mask_rate=0.75, seed=0) < 0.5 * before


def test_a_step_is_adamw_on_the_mean_loss_with_decay_on_matrices_alone(digits: ImageSet) -> None:
    trainer, twin = (MaeTrainer(SETTINGS, digits, seed=3) for _ in range(2))
    model = twin.model
    matrices = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))  # half of the peak: step 1 of 2 warm-up steps
    index = torch.arange(8, 16)
    mask = random_mask(noise.uniform((16,), seed=3, purpose="mae masks", index=index), 0.75)
    x, _ = digits.batch(twin.batches.plan.indices(0, 1))
    loss = model.loss(x, mask).mean()
    loss.backward()
    optimizer.step()
    metrics = trainer.step(1)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert metrics["lr"] == pytest.approx(1e-3)
    for mine, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)  # the groups are updated in another order


def test_a_second_cosine_follows_the_first(digits: ImageSet) -> None:
    settings = dataclasses.replace(SETTINGS, steps=6, second_steps=2, second_lr=1e-4)
    rates = [MaeTrainer(settings, digits, seed=0).step(step)["lr"] for step in range(6)]
    assert rates == pytest.approx([0.0, 1e-3, 2e-3, 1e-3, 1e-4, 5e-5])  # two steps of warm-up, two down, two lower


def test_the_average_follows_by_the_half_life(digits: ImageSet) -> None:
    trainer = MaeTrainer(dataclasses.replace(SETTINGS, ema_half_life=8), digits, seed=0)
    expected = {key: value.clone() for key, value in trainer.average.state_dict().items()}
    for step in range(3):
        trainer.step(step)
        seen = 8 * (step + 1)
        kept = 0.5 ** (8 / min(8, 0.05 * seen))
        for key, value in trainer.model.state_dict().items():
            expected[key] = kept * expected[key] + (1 - kept) * value
    for key, value in trainer.average.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5)  # one rounding a step
    assert trainer.state.modules.keys() == {"model", "average"}
    plain = MaeTrainer(SETTINGS, digits, seed=0)
    assert plain.average is plain.model


@pytest.mark.parametrize("name", ["adam", "sgd", "lion"])
def test_other_optimisers_lower_the_loss(digits: ImageSet, name: OptimizerName) -> None:
    lr = {"adam": 2e-3, "sgd": 0.02, "lion": 2e-4}[name]
    trainer = MaeTrainer(dataclasses.replace(SETTINGS, steps=20, optimizer=name, lr=lr), digits, seed=0)
    losses = [trainer.step(step)["loss"] for step in range(20)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_what_failed_can_be_looked_at(digits: ImageSet) -> None:
    batch = MaeTrainer(SETTINGS, digits, seed=0).evidence(2)
    assert {key: tuple(value.shape) for key, value in batch.items()} == {"images": (8, 1, 8, 8), "ranks": (8, 16)}


def test_sizes_change_the_network() -> None:
    model = build_mae(dataclasses.replace(SETTINGS, sizes={"image_size": 12, "width": 32}))
    assert model.tokens == 36
    assert model.norm.weight.shape == (32,)


def test_augmented_batches_are_other_images(digits: ImageSet) -> None:
    plain = MaeTrainer(SETTINGS, digits, seed=0).step(0)["loss"]
    cropped = MaeTrainer(dataclasses.replace(SETTINGS, crop_padding=1, flip=True), digits, seed=0).step(0)["loss"]
    zoomed = MaeTrainer(dataclasses.replace(SETTINGS, crop_scale=0.2), digits, seed=0).step(0)["loss"]
    assert len({plain, cropped, zoomed}) == 3


def test_training_goes_on_bit_for_bit(digits: ImageSet, tmp_path: Path) -> None:
    whole = _run(digits, tmp_path / "whole", stop=None)
    with pytest.raises(KeyboardInterrupt):
        _run(digits, tmp_path / "parts", stop=3)
    resumed = _run(digits, tmp_path / "parts", stop=None)
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def _run(digits: ImageSet, folder: Path, *, stop: int | None) -> nn.Module:
    trainer = MaeTrainer(SETTINGS, digits, seed=1)
    run = RunFolder.open(folder, dataclasses.asdict(SETTINGS), resume=True)

    def interrupt(done: int) -> dict[str, float]:
        if stop is not None and done > stop:
            raise KeyboardInterrupt
        return {}

    train_stage(
        trainer,
        stage="mae",
        steps=SETTINGS.steps,
        folder=run,
        identity=dataclasses.asdict(SETTINGS),
        seed=1,
        save_seconds=0.0,
        after_step=interrupt,
    )
    return trainer.model


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="'vit-digits' is another network"):
        build_mae(dataclasses.replace(SETTINGS, network="vit-digits"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mask_rate", 1.0),
        ("mask_rate", -0.1),
        ("steps", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("warmup_steps", 7),
        ("weight_decay", -0.1),
        ("crop_padding", -1),
        ("crop_scale", 0.0),
        ("second_steps", 6),
        ("second_lr", 0.0),
        ("ema_half_life", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"mae\.{field} must"):
        dataclasses.replace(SETTINGS, **{field: value})


def test_the_shipped_autoencoder_is_found_by_name_and_reconstructs_unseen_digits() -> None:
    mae = load("mae-digits")
    assert isinstance(mae, MaskedAutoencoder)
    assert next(mae.parameters()).dtype == torch.float32
    held_out = load_images("digits", "validation")
    notes = read_header("mae-digits").notes
    loss = mae_loss(mae, held_out, mask_rate=notes["mask_rate"], seed=notes["seed"])
    assert loss == pytest.approx(notes["validation_loss"], abs=2e-4)  # stored in half precision
    pixels, _ = held_out.batch(slice(None))
    assert loss < 0.6 * float(pixels.var())  # the mean grey level as a guess has the variance as its error


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(build("mae-digits", norm_pix=True), "mae-digits", notes={"mine": True})
    assert read_header("mae-digits").notes == {"mine": True}


def test_an_unknown_checkpoint_name_lists_those_that_are_there() -> None:
    with pytest.raises(CheckpointError, match=r"no such checkpoint file; by name there are .*mae-digits"):
        load("mae-digit")
