"""MaskDiT training at tiny size: masked, then unmasked."""

import dataclasses

import pytest
import torch
from rp_models import noise
from rp_models.data import load_images, subset
from rp_models.diffusion.maskdit_loss import log_normal_sigma, masked_denoising_loss
from rp_models.mask import random_mask
from rp_models.settings import MaskDitSettings
from rp_models.training import MaskDitTrainer, RunFolder, train_stage
from rp_models.training.maskdit import build_maskdit, maskdit_held_out

SETTINGS = MaskDitSettings(
    network="maskdit-digits",
    sizes={"width": 32, "heads": 2, "depth": 1, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    num_classes=10,
    label_dropout=0.5,
    steps=6,
    unmasked_steps=3,
    batch_size=16,
    lr=3e-3,
    unmasked_lr=1e-3,
    ema_half_life=200,
)


def trainer(**changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return MaskDitTrainer(settings, subset(load_images("digits", "train"), 64), seed=0)


@pytest.mark.parametrize("step", [1, 4], ids=["masked", "unmasked"])
def test_a_step_is_adamw_on_the_mean_loss(step):
    trained, twin = trainer(), trainer()
    x, labels = twin.batches.images.batch(twin.batches.plan.indices(*divmod(step, 4)))
    index = torch.arange(16 * step, 16 * (step + 1))
    draw = {"seed": 0, "index": index}
    rnd = noise.normal((), purpose="maskdit sigma", **draw)
    unit = noise.normal(x.shape[1:], purpose="maskdit noise", **draw)
    ranks = noise.uniform((16,), purpose="maskdit mask", **draw)
    kept = noise.uniform((1,), purpose="maskdit label dropout", **draw) >= 0.5
    assert 0 < int(kept.sum()) < 16
    loss = masked_denoising_loss(
        twin.model,
        2 * x - 1,
        torch.eye(10)[labels] * kept,
        sigma=log_normal_sigma(rnd),
        noise=unit,
        mask=random_mask(ranks, 0.5) if step == 1 else None,
    ).mean()
    lr = 3e-3 if step == 1 else 1e-3
    optimizer = torch.optim.AdamW([p for p in twin.model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    loss.backward()
    optimizer.step()
    assert trained.step(step) == pytest.approx({"loss": loss.item(), "lr": lr})
    for mine, theirs in zip(trained.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-7, rtol=1e-6)


def test_training_lowers_the_loss_and_resumes_bit_for_bit(tmp_path):
    images, whole = subset(load_images("digits", "train"), 64), trainer(steps=30)
    before = maskdit_held_out(whole.model, images, mask_rate=0.5, mae_weight=0.1, seed=0)
    folder = RunFolder.open(tmp_path / "a", {}, resume=False)
    train_stage(whole, stage="maskdit", steps=30, folder=folder, identity={}, seed=0)
    assert maskdit_held_out(whole.model, images, mask_rate=0.5, mae_weight=0.1, seed=0) < 0.9 * before

    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    train_stage(trainer(steps=30), stage="maskdit", steps=28, folder=folder, identity={}, seed=0)
    resumed = trainer(steps=30)
    train_stage(resumed, stage="maskdit", steps=30, folder=folder, identity={}, seed=0)
    for name, module in whole.state.modules.items():
        other = resumed.state.modules[name].state_dict()
        assert all(torch.equal(value, other[key]) for key, value in module.state_dict().items())


def test_the_mask_token_rests_while_nothing_is_masked():
    trained = trainer()
    token = trained.model.model.mask_token
    start = token.detach().clone()
    trained.step(4)
    assert torch.equal(token, start)
    trained.step(0)
    assert not torch.equal(token, start)


def test_what_failed_can_be_looked_at():
    assert trainer().evidence(0).keys() == {"data", "labels", "rnd", "noise", "ranks"}
    assert trainer(num_classes=0).evidence(4).keys() == {"data", "rnd", "noise"}


def test_another_network_is_refused():
    with pytest.raises(ValueError, match="'mae-digits' is another network"):
        build_maskdit(MaskDitSettings(network="mae-digits"))
