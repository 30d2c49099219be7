import dataclasses
from pathlib import Path

import pytest
import torch
from rp_models import load, noise
from rp_models.data import ImageSet, load_images
from rp_models.diffusion.maskdit_loss import log_normal_sigma, masked_denoising_loss
from rp_models.mask import random_mask
from rp_models.settings import ComputeSettings
from rp_models.training import RunFolder, train_stage
from rp_models.training.distributed import Processes
from rp_purify import (
    Defended,
    Finetuner,
    FinetuneSettings,
    GaussianNoise,
    MAEPure,
    MAEReconstruction,
    MaskDiTPure,
    OneStepDenoise,
    Purifier,
    adversarial_images,
)
from rp_purify.finetune import PairBatches
from torch import Tensor, nn
from torch.nn import functional as F

from .models import ShrinkingDenoiser, TinyClassifier, tiny_mae, tiny_maskdit

SETTINGS = FinetuneSettings(steps=4, batch_size=8, lr=1e-3)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    images = load_images("digits", "train")
    return ImageSet(images.images[:24], images.labels[:24], images.info)


def sign_step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf)
    return (x + 0.05 * g.sign()).clamp(0, 1)


def test_stage_one_attacks_noisy_images_through_the_whole_system(digits: ImageSet) -> None:
    seen: list[Tensor] = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        return sign_step(model, x, y)

    defended = Defended(MAEReconstruction(tiny_mae()), TinyClassifier())
    done: list[int] = []
    adversarial = adversarial_images(defended, digits, attack, noise_std=0.25, seed=3, batch_size=10, done=done.append)
    x, _ = digits.batch(slice(None))
    unit = noise.normal((1, 8, 8), seed=3, purpose="stage I noise", index=torch.arange(24))
    torch.testing.assert_close(torch.cat(seen), (x + 0.25 * unit).clamp(0, 1))
    assert adversarial.shape == x.shape
    assert not adversarial.requires_grad
    assert 0 < (adversarial - torch.cat(seen)).abs().max() <= 0.05 + 1e-6
    assert done == [10, 20, 24]
    assert any(parameter.requires_grad for parameter in defended.parameters())


@pytest.mark.parametrize(
    "make",
    [
        lambda: MAEReconstruction(tiny_mae()),
        lambda: MAEPure(tiny_mae(), steps=2, grad="ste-tanh"),
        lambda: MaskDiTPure(tiny_maskdit(), steps=1, grad="normalised"),
        lambda: OneStepDenoise(tiny_maskdit()),
        lambda: OneStepDenoise(ShrinkingDenoiser()),
    ],
    ids=["one-shot MAE", "unrolled MAE", "unrolled MaskDiT", "one-shot MaskDiT", "one-shot EDM"],
)
def test_stage_two_trains_the_purifiers_model_and_nothing_else(make: object, digits: ImageSet) -> None:
    purifier: Purifier = make()  # type: ignore[operator]
    classifier = TinyClassifier()
    before = [parameter.clone() for parameter in classifier.parameters()]
    weights = [parameter.clone() for parameter in purifier.parameters() if parameter.requires_grad]
    x, _ = digits.batch(slice(None))
    trainer = Finetuner(SETTINGS, purifier, classifier, digits, (x + 0.1).clamp(0, 1), seed=0)
    metrics = trainer.step(0)
    assert metrics["loss"] == pytest.approx(metrics["class_loss"] + metrics["own_loss"], rel=1e-5)
    moved = [p for p in purifier.parameters() if p.requires_grad]
    assert any(not torch.equal(old, new) for old, new in zip(weights, moved, strict=True))
    assert all(torch.equal(old, new) for old, new in zip(before, classifier.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_a_step_is_adamw_on_class_loss_and_own_loss_written_out(digits: ImageSet) -> None:
    settings = dataclasses.replace(SETTINGS, class_weight=0.3, mu=2.0, mask_rate=0.5)
    x, y = digits.batch(slice(None))
    adversarial, classifier = (x + 0.1).clamp(0, 1), TinyClassifier()
    trainer, twin = (
        Finetuner(settings, MAEReconstruction(tiny_mae()), classifier, digits, adversarial, seed=7) for _ in range(2)
    )
    trainer.step(0)
    chosen, index, mae = twin.batches.plan.indices(0, 0), torch.arange(8), twin.model
    purified = twin.purifier.differentiable(adversarial[chosen], seed=7, index=index)
    mask = random_mask(noise.uniform((16,), seed=7, purpose="own mask", index=index), 0.5)
    loss = 0.3 * F.cross_entropy(classifier(purified), y[chosen]) + 2.0 * mae.loss(x[chosen], mask).mean()
    optimizer = torch.optim.AdamW([p for p in mae.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    loss.backward()
    optimizer.step()
    for mine, theirs in zip(trainer.model.parameters(), mae.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-5)


def test_maskdits_own_loss_is_its_training_loss_on_images_in_the_range_of_minus_one_to_one(digits: ImageSet) -> None:
    x, _ = digits.batch(slice(None))
    trainer = Finetuner(SETTINGS, OneStepDenoise(tiny_maskdit()), TinyClassifier(), digits, x, seed=7)
    chosen, index, model = trainer.batches.plan.indices(0, 0), torch.arange(8), tiny_maskdit()
    mask = random_mask(noise.uniform((16,), seed=7, purpose="own mask", index=index), 0.75)
    sigma = log_normal_sigma(noise.normal((), seed=7, purpose="own level", index=index))
    unit = noise.normal((1, 8, 8), seed=7, purpose="own noise", index=index)
    expected = masked_denoising_loss(model, 2 * x[chosen] - 1, sigma=sigma, noise=unit, mask=mask).mean()
    # the order of summation may differ between the two calls
    assert trainer.step(0)["own_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_parts_of_two_processes_make_the_batch_and_the_loss_of_one(digits: ImageSet) -> None:
    x, _ = digits.batch(slice(None))
    trainer = Finetuner(SETTINGS, MAEReconstruction(tiny_mae()), TinyClassifier(), digits, x.flip(3), seed=0)
    whole = trainer.batches.whole(1)
    parts = [
        PairBatches(digits, x.flip(3), 8, seed=0, processes=Processes(rank=rank, count=2)).part(1) for rank in range(2)
    ]
    assert all(torch.equal(torch.cat(column), one) for column, one in zip(zip(*parts, strict=True), whole, strict=True))
    losses = torch.stack([trainer.loss(*part)[0] for part in parts])
    torch.testing.assert_close(losses.mean(), trainer.loss(*whole)[0])
    with pytest.raises(ValueError, match="cannot be divided among 3 processes"):
        PairBatches(digits, x, 8, seed=0, processes=Processes(rank=0, count=3))


@pytest.mark.parametrize("make", [MAEReconstruction, lambda mae: MAEPure(mae, steps=2, grad="ste-tanh")])
def test_bfloat16_changes_the_losses_by_rounding_and_leaves_weights_in_float32(make: object, digits: ImageSet) -> None:
    x, _ = digits.batch(slice(None))
    exact, rounded = (
        Finetuner(SETTINGS, make(tiny_mae()), TinyClassifier(), digits, x, compute=compute, seed=0)  # type: ignore[operator]
        for compute in (None, ComputeSettings(precision="bf16"))
    )
    one, other = exact.step(0), rounded.step(0)
    assert one["loss"] != other["loss"]
    assert other["loss"] == pytest.approx(one["loss"], rel=0.05)  # bfloat16 keeps 8 bits
    assert all(parameter.dtype == torch.float32 for parameter in rounded.model.parameters())


def test_images_of_a_set_train_as_those_of_a_tensor(digits: ImageSet) -> None:
    stored = ImageSet(digits.images.flip(3), digits.labels.roll(1), digits.info)  # whose labels are not the clean ones
    x, _ = stored.batch(slice(None))
    settings = dataclasses.replace(SETTINGS, noise_std=0.0)
    one, other = (
        Finetuner(settings, MAEReconstruction(tiny_mae()), TinyClassifier(), digits, adversarial, seed=3)
        for adversarial in (x, stored)
    )
    assert one.step(0) == other.step(0)
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    few = ImageSet(stored.images[:3], stored.labels[:3], stored.info)
    with pytest.raises(ValueError, match=r"one adversarial image for each clean one .* got \(3, 1, 8, 8\)"):
        Finetuner(settings, MAEReconstruction(tiny_mae()), TinyClassifier(), digits, few, seed=3)


def test_fine_tuning_lowers_the_class_loss_on_the_shipped_autoencoder(digits: ImageSet) -> None:
    purifier, classifier = MAEReconstruction(load("mae-digits")), TinyClassifier()
    settings = dataclasses.replace(SETTINGS, steps=12, batch_size=24, mu=0.0)
    defended = Defended(purifier, classifier)
    adversarial = adversarial_images(defended, digits, sign_step, noise_std=0.1, seed=0)
    trainer = Finetuner(settings, purifier, classifier, digits, adversarial, seed=0)
    losses = [trainer.step(step)["class_loss"] for step in range(12)]
    assert min(losses[-3:]) < losses[0]


def test_training_goes_on_bit_for_bit(digits: ImageSet, tmp_path: Path) -> None:
    def run(folder: Path, stop: int) -> nn.Module:
        x, _ = digits.batch(slice(None))
        trainer = Finetuner(SETTINGS, MAEReconstruction(tiny_mae()), TinyClassifier(), digits, x, seed=0)

        def interrupt(done: int) -> dict[str, float]:
            if done > stop:
                raise KeyboardInterrupt
            return {}

        train_stage(
            trainer,
            stage="finetune",
            steps=4,
            folder=RunFolder.open(folder, {}, resume=True),
            identity={},
            seed=0,
            save_seconds=0.0,
            after_step=interrupt,
        )
        return trainer.model

    whole = run(tmp_path / "whole", stop=4)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=2)
    for mine, theirs in zip(run(tmp_path / "parts", stop=4).parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAEPure(tiny_mae(), steps=2), "no gradient through sign steps with grad='exact'"),
        (lambda: MaskDiTPure(tiny_maskdit(), steps=2), "no gradient through sign steps with grad='exact'"),
        (lambda: MAEReconstruction(tiny_mae(), grad="identity"), "no gradient through grad='identity'"),
        (lambda: MAEReconstruction(tiny_mae().requires_grad_(False)), "no trainable parameters"),
        (lambda: MAEPure(tiny_mae(), steps=0, grad="ste-tanh"), "no weight gets a gradient through MAEPure"),
    ],
)
def test_a_purifier_that_gives_the_weights_no_gradient_is_refused(make: object, message: str, digits: ImageSet) -> None:
    x, _ = digits.batch(slice(None))
    with pytest.raises(ValueError, match=message):
        Finetuner(SETTINGS, make(), TinyClassifier(), digits, x, seed=0)  # type: ignore[operator]


def test_bad_arguments_are_refused(digits: ImageSet) -> None:
    with pytest.raises(ValueError, match="one adversarial image for each clean one"):
        Finetuner(SETTINGS, MAEReconstruction(tiny_mae()), TinyClassifier(), digits, torch.zeros(3, 1, 8, 8), seed=0)
    x, _ = digits.batch(slice(None))
    with pytest.raises(TypeError, match="GaussianNoise has no model"):
        Finetuner(SETTINGS, GaussianNoise(0.1), TinyClassifier(), digits, x, seed=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("batch_size", 0), ("lr", 0.0), ("class_weight", 0.0), ("mu", -1.0), ("noise_std", -1.0)],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"finetune\.{field} must"):
        dataclasses.replace(SETTINGS, **{field: value})
