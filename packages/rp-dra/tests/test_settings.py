"""Settings: what is refused and how it is said; what follows from them: objectives, rates, groups, augmentation."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra import (
    METHODS,
    Adr,
    AlignmentSettings,
    ClassifierSettings,
    Ikl,
    PgdAt,
    Standard,
    Trades,
    TradesOriginal,
    objective_of,
)
from rp_dra import TrainingSettings as Recipe
from rp_dra.rates import average_decay, make_optimizer, rate
from rp_dra.settings import uses_alignment, uses_synthetic
from rp_models import build
from rp_models.training.lion import Lion


def test_settings_do_not_import_torch():
    code = "import rp_dra.settings, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(eps=8), "units of"),
        (lambda: Recipe(epochs=0), "training.epochs must be at least 1"),
        (lambda: Recipe(validation_batch=0), "training.validation_batch must be at least 1"),
        (lambda: Recipe(lr=-1), "training.lr must be positive"),
        (lambda: Recipe(cutout=-1), "training.cutout must not be negative"),
        (lambda: Recipe(synthetic_fraction=2), "training.synthetic_fraction"),
        (lambda: ClassifierSettings(depth=12), "6 n"),
        (lambda: ClassifierSettings(network="vit", width=0), "classifier.width must be at least 1"),
        (lambda: ClassifierSettings(bn_momentum=2), "classifier.bn_momentum must be in"),
        (lambda: AlignmentSettings(sigma=(0.0,)), "alignment.sigma must be positive"),
        (lambda: AlignmentSettings(time=(0.0,)), "alignment.time must be in"),
        (lambda: AlignmentSettings(target="lightningdit"), "alignment.target=lightningdit needs alignment.checkpoint"),
    ],
)
def test_settings_out_of_range_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_l2_radius_may_exceed_one():
    assert Recipe(norm="l2", eps=1.5).eps == 1.5


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("trades", Trades),
        ("trades-original", TradesOriginal),
        ("pgd-at", PgdAt),
        ("ikl", Ikl),
        ("adr", Adr),
        ("adr-trades", Adr),
        ("standard", Standard),
    ],
)
def test_each_objective_is_made_with_the_recipes_constants(name, kind):
    recipe = Recipe(objective=name, eps=0.07, step_size=0.02, attack_steps=3, norm="l2")
    made = objective_of(recipe, num_classes=7)
    assert isinstance(made, kind)
    attacked = made.base if isinstance(made, Adr) else made
    if name not in ("standard", "ikl"):
        assert (attacked.eps, attacked.step_size, attacked.steps, attacked.norm) == (0.07, 0.02, 3, "l2")
    if name == "ikl":
        assert (made.num_classes, made.eps, made.steps) == (7, 0.07, 2)


def test_a_method_that_names_its_objective_goes_before_the_setting():
    recipe = Recipe(objective="pgd-at")
    assert isinstance(objective_of(recipe, method="at"), PgdAt)
    assert isinstance(objective_of(recipe, method="dm-at+ikl+dra", num_classes=10), Ikl)
    assert isinstance(objective_of(recipe, method="at+adr").base, PgdAt)
    assert isinstance(objective_of(recipe, method="standard"), Standard)
    assert isinstance(objective_of(recipe, robust=False), Standard)
    with pytest.raises(ValueError, match="give objective_of num_classes"):
        objective_of(recipe, method="at+ikl")


def test_methods_say_by_their_names_what_they_use():
    assert {m for m in METHODS if uses_synthetic(m)} == {m for m in METHODS if m.startswith("dm-at")}
    assert {m for m in METHODS if uses_alignment(m)} == {"at+dra", "dm-at+dra", "dm-at+ikl+dra"}


def test_dm_ats_groups_spare_batch_norms_by_name_and_timms_rule_spares_vectors_and_positions():
    wrn, vit = build("dm-wide-resnet", depth=10, width=1), build("vit-digits")
    decayed, spared = make_optimizer(Recipe(), wrn, None).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0.0)
    names = {id(p): name for name, p in wrn.named_parameters()}
    assert all("batchnorm" in names[id(p)] for p in spared["params"])
    assert "logits.bias" in {names[id(p)] for p in decayed["params"]}
    recipe = Recipe(optimizer="lion", lr=1e-4, weight_decay=0.5, undecayed="vectors")
    optimizer = make_optimizer(recipe, vit, None)
    assert isinstance(optimizer, Lion)
    names = {id(p): name for name, p in vit.named_parameters()}
    spared = {names[id(p)] for p in optimizer.param_groups[1]["params"]}
    assert {"pos_embed", "cls_token", "head.bias", "norm.weight"} <= spared
    assert not any(name.endswith("mlp.fc1.weight") for name in spared)


def test_the_one_cycle_is_torchs_stepped_once_an_epoch():
    recipe = Recipe(epochs=80)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, pct_start=0.025, total_steps=80)
    for epoch in range(80):
        group = optimizer.param_groups[0]
        lr, momentum = rate(recipe, 3 * epoch + 1, steps_per_epoch=3)
        assert lr == pytest.approx(group["lr"], rel=1e-9)
        assert momentum == pytest.approx(group["momentum"], rel=1e-9)
        optimizer.step()
        if epoch < 79:
            schedule.step()


def test_momentum_is_left_alone_unless_sgd_cycles_it():
    assert rate(Recipe(cycle_momentum=False), 0, steps_per_epoch=5)[1] is None
    assert rate(Recipe(optimizer="lion"), 0, steps_per_epoch=5)[1] is None
    assert rate(Recipe(schedule="cosine"), 0, steps_per_epoch=5)[1] is None


@settings(deadline=None, max_examples=30)
@given(epochs=st.integers(1, 60), steps=st.integers(1, 9), warmup=st.floats(0, 0.9), data=st.data())
def test_the_cosine_rises_then_falls_between_zero_and_its_peak(epochs, steps, warmup, data):
    recipe = Recipe(epochs=epochs, schedule="cosine", lr=0.3, warmup=warmup)
    step = data.draw(st.integers(0, epochs * steps - 1))
    here, _ = rate(recipe, step, steps_per_epoch=steps)
    after, _ = rate(recipe, step + 1, steps_per_epoch=steps)
    assert 0 <= here <= 0.3 + 1e-12
    if step + 1 <= warmup * epochs * steps:
        assert after >= here
    elif step >= warmup * epochs * steps:
        assert after <= here


def test_a_plain_average_keeps_tau_from_the_first_step_and_dm_ats_starts_as_a_copy():
    assert average_decay(Recipe(averaging="ema", tau=0.9), 0, steps_per_epoch=10) == 0.9
    recipe = Recipe(epochs=400, tau=0.995)
    assert average_decay(recipe, 0, steps_per_epoch=98) == 0.0
    assert average_decay(recipe, 978, steps_per_epoch=98) == 0.0
    assert average_decay(recipe, 979, steps_per_epoch=98) == 0.1  # the 980th step ends the warm-up
    assert average_decay(recipe, 39_000, steps_per_epoch=98) == 0.995


def test_the_augmentation_has_all_its_parts():
    made = Recipe(crop_padding=2, flip=False, rotation_degrees=15, cutout=8, resized_crop=(0.25, 1.0)).augmentation
    assert (made.crop_padding, made.flip, made.rotation_degrees, made.cutout) == (2, False, 15, 8)
    assert made.resized_crop.scale == (0.25, 1.0)
    assert Recipe().augmentation.resized_crop is None
