"""AWP against what the published code computed, against a slow twin of its steps, and its cost in passes."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rp_dra import ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of
from rp_dra.objectives import Adr, Awp, Ikl, Objective, Outcome, PgdAt, Trades, TradesOriginal, awp_directions
from rp_dra.objectives.passes import batch_statistics
from rp_dra.objectives.trades import divergence
from rp_dra.settings import AwpSettings
from rp_models import build
from rp_models.data import load_images, subset
from rp_models.settings import ComputeSettings
from rp_models.training import RunFolder, train_stage
from rp_testing import GOLDEN_FILES, fill_state
from torch import nn
from torch.nn import functional as F


class Small(nn.Module):
    """The recording's network."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, 2, 1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    @property
    def head(self):
        return self.fc

    def forward_features(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))

    def forward(self, x):
        return self.fc(self.forward_features(x))


class Given(Objective):
    """Another objective whose attack finds what was recorded."""

    def __init__(self, base, x_adv):
        self.base, self.x_adv = base, x_adv

    def attack(self, model, x, y, *, start_noise):
        return self.x_adv

    def minimise(self, model, x, y, x_adv, *, trial=False):
        return self.base.minimise(model, x, y, x_adv, trial=trial)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN_FILES / "rb_awp_tiny.npz") as file:
        config = json.loads(str(file["config"]))
        return config, {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("in_", "out_"))}


def recorded_network():
    model = Small()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = fill_state(shapes, 1.3)
    model.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in state.items()})
    return model.train()


@pytest.mark.parametrize("kind", ["at", "trades"])
def test_losses_directions_gradients_and_statistics_are_the_published_codes(golden, kind):
    config, arrays = golden
    model, twin = recorded_network(), recorded_network()
    x, x_adv, y = arrays["in_x"], arrays["in_x_adv"], arrays["in_y"]
    base = PgdAt() if kind == "at" else TradesOriginal(beta=config["trades"]["beta"])
    # the published direction is a difference of float32 weights; its own two runs differ by 5e-6
    with batch_statistics(twin):
        loss = base.minimise(twin, x, y, x_adv, trial=True).loss
    torch.testing.assert_close(loss, arrays[f"out_{kind}_loss_before"], atol=2e-6, rtol=1e-6)
    directions = awp_directions(twin, loss)
    expected = {key.split("/")[1]: value for key, value in arrays.items() if key.startswith(f"out_{kind}_diff/")}
    assert directions.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(directions[name], value, atol=5e-5, rtol=1e-4)
    awp = Awp(Given(base, x_adv), gamma=config[kind]["gamma"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = awp(model, x, y, start_noise=torch.zeros_like(x))
    torch.testing.assert_close(outcome.loss, arrays[f"out_{kind}_loss_perturbed"], atol=2e-6, rtol=1e-6)
    for name, direction in directions.items():
        moved = before[name] + awp.gamma * direction
        torch.testing.assert_close(model.state_dict()[name], moved, atol=1e-6, rtol=1e-5)
    outcome.loss.backward()
    for key, value in arrays.items():
        name = key.partition("/")[2]
        if key.startswith(f"out_{kind}_gradient_at_perturbed/"):
            torch.testing.assert_close(model.get_parameter(name).grad, value, atol=2e-5, rtol=1e-4)
        if key.startswith(f"out_{kind}_buffers_after_perturbed_forward/"):
            torch.testing.assert_close(model.get_buffer(name), value, atol=1e-5, rtol=1e-5)
    awp.before_update(model)
    awp.after_update(model)
    for name, parameter in model.named_parameters():  # added and subtracted: the same to rounding
        torch.testing.assert_close(parameter, before[name], atol=1e-6, rtol=1e-6)


def small(seed=0):
    torch.manual_seed(seed)
    return Small().train()


def batch(seed=1):
    torch.manual_seed(seed)
    return torch.rand(6, 3, 8, 8), torch.arange(6) % 5, torch.randn(6, 3, 8, 8)


def plain_loss(model, x, y, x_adv, beta):
    """TRADES in the order of DM-AT, by hand."""
    logits, logits_adv = model(x), model(x_adv)
    return F.cross_entropy(logits, y) + beta * divergence(logits, logits_adv)


def by_hand(model, base, batch, gamma, variant, lr=0.1, decay=0.01, momentum=0.9):
    """One step with a proxy as in AWP's code, or with a saved copy as in ADR's: weights and statistics afterwards."""
    x, y, noise = batch
    x_adv = base.attack(model, x, y, start_noise=noise)
    first = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    (-plain_loss(first, x, y, x_adv, base.beta)).backward()
    moves = {
        name: -p.grad * p.detach().norm() / p.grad.norm() * gamma
        for name, p in first.named_parameters()
        if p.dim() > 1 and "weight" in name
    }
    saved = copy.deepcopy(model.state_dict())
    for name, move in moves.items():
        model.get_parameter(name).data += move
    statistics = {name: value for name, value in first.state_dict().items() if "running" in name or "tracked" in name}
    plain_loss(model, x, y, x_adv, base.beta).backward()
    if variant == "restored":
        for name in moves:
            model.get_parameter(name).data = saved[name]
        model.load_state_dict(statistics, strict=False)
    optimizer.step()
    if variant == "original":
        for name, move in moves.items():
            model.get_parameter(name).data -= move
    return model.state_dict()


@pytest.mark.parametrize("variant", ["original", "restored"])
def test_a_step_is_that_of_a_slow_twin(variant):
    base = Trades(beta=5.0, label_smoothing=0.0, eps=0.1, step_size=0.05, steps=2)
    x, y, noise = batch()
    expected = by_hand(small(), base, batch(), 0.02, variant)
    model, awp = small(), Awp(base, gamma=0.02, variant=variant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    awp(model, x, y, start_noise=noise).loss.backward()
    awp.before_update(model)
    optimizer.step()
    awp.after_update(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-6, rtol=1e-5)  # float32 sums in another order


def count_passes(objective, model):
    """Forward passes of the network, and backward passes to its first weight, in one step."""
    counts = {"forward": 0, "weight gradients": 0}
    x, y, noise = batch()

    def counted(module, inputs, output):
        counts["forward"] += 1
        if module.conv1.weight.requires_grad and output.requires_grad:
            output.register_hook(lambda grad: counts.update({"backward": counts.get("backward", 0) + 1}))

    original = model.forward_features
    model.forward_features = lambda x: (lambda out: (counted(model, (x,), out), out)[1])(original(x))
    outcome = objective(model, x, y, start_noise=noise)
    outcome.loss.backward()
    objective.before_update(model)
    objective.after_update(model)
    return counts["forward"], counts.get("backward", 0)


@pytest.mark.parametrize(
    ("base", "loss_passes"), [(TradesOriginal(steps=4), 3), (Trades(steps=4), 2), (PgdAt(steps=4), 1)]
)
@pytest.mark.parametrize("variant", ["original", "restored"])
def test_it_costs_one_loss_forward_and_backward_more(base, loss_passes, variant):
    plain, perturbed = count_passes(base, small()), count_passes(Awp(base, variant=variant), small())
    assert np.subtract(perturbed, plain).tolist() == [loss_passes, loss_passes]


def test_before_its_first_epoch_the_base_alone_is_computed():
    base = Trades(eps=0.1, step_size=0.05, steps=2)
    awp = Awp(base, gamma=0.5, start_epoch=2)
    for step, active in ((0, False), (7, False), (8, True)):
        awp.begin_step(small(), step=step, steps_per_epoch=4, epochs=9)
        assert awp.active is active
    awp.begin_step(small(), step=7, steps_per_epoch=4, epochs=9)
    x, y, noise = batch()
    a, b = awp(small(), x, y, start_noise=noise), base(small(), x, y, start_noise=noise)
    assert torch.equal(a.loss, b.loss)


def test_half_precision_sees_the_perturbed_weights():
    base = Trades(eps=0.1, step_size=0.05, steps=2)
    x, y, noise = batch()
    with torch.autocast("cpu", torch.bfloat16):
        awp = Awp(base, gamma=0.3)
        loss = awp(small(), x, y, start_noise=noise).loss
        plain = base(small(), x, y, start_noise=noise).loss
    assert loss.item() > plain.item() + 0.05  # far beyond the rounding of three digits


def test_ikls_class_means_count_a_batch_once():
    ikl = Ikl(num_classes=5, steps=1, eps=0.1)
    alone = Ikl(num_classes=5, steps=1, eps=0.1)
    x, y, noise = batch()
    for objective in (Awp(ikl, gamma=1e-6), alone):
        objective.modules(small())
        objective(small(), x, y, start_noise=noise)
    torch.testing.assert_close(ikl.means.sums, alone.means.sums, atol=1e-5, rtol=1e-5)


def test_what_makes_no_sense_is_refused():
    for options, message in (
        ({"gamma": 0}, "gamma must be positive"),
        ({"start_epoch": -1}, "start_epoch"),
        ({"variant": "adr"}, "original or restored"),
    ):
        with pytest.raises(ValueError, match=message):
            Awp(PgdAt(), **options)
    awp, model = Awp(PgdAt(steps=1)), small()
    x, y, noise = batch()
    awp(model, x, y, start_noise=noise)
    with pytest.raises(RuntimeError, match="after_update"):
        awp(model, x, y, start_noise=noise)


RECIPE = TrainingSettings(
    epochs=2, batch_size=16, epoch_images=32, eps=0.1, step_size=0.05, attack_steps=2, crop_padding=1, validate_every=0
)


def trained(folder, *, steps=4, **changes):
    recipe = replace(RECIPE, **changes)
    made = ClassifierTrainer(
        ClassifierSettings(depth=10, width=1),
        recipe,
        subset(load_images("digits", "train"), 40),
        objective=objective_of(recipe, num_classes=10),
        compute=ComputeSettings(),
        seed=3,
    )
    train_stage(made, stage="t", steps=steps, folder=folder, identity={}, seed=0)
    return {
        f"{name}.{key}": value.clone()
        for name, module in made.state.modules.items()
        for key, value in module.state_dict().items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"awp": AwpSettings(gamma=0.01)},
        {"objective": "adr", "awp": AwpSettings(gamma=0.005, variant="restored"), "averaging": "ema-all"},
        {"objective": "ikl", "awp": AwpSettings(gamma=0.005, start_epoch=1), "averaging": "epochs", "tau": 0.9},
        {"objective": "pgd-at", "attack_mode": "train", "awp": AwpSettings(gamma=0.01), "nesterov": False},
    ],
)
def test_training_with_it_resumes_bit_for_bit(changes, tmp_path):
    whole = trained(RunFolder.open(tmp_path / "a", {}, resume=False), **changes)
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    trained(folder, steps=3, **changes)
    resumed = trained(folder, **changes)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    plain = trained(RunFolder.open(tmp_path / "c", {}, resume=False), **{**changes, "awp": AwpSettings()})
    assert not torch.equal(whole["model.logits.weight"], plain["model.logits.weight"])


def test_settings_choose_it_also_inside_adr():
    on = {"awp": AwpSettings(gamma=0.01, start_epoch=9, variant="restored")}
    made = objective_of(TrainingSettings(**on), method="at+adr")
    assert isinstance(made, Adr)
    assert isinstance(made.base, Awp)
    assert (made.base.gamma, made.base.start_epoch, made.base.variant) == (0.01, 9, "restored")
    assert isinstance(objective_of(TrainingSettings(**on), method="at"), Awp)
    assert not isinstance(objective_of(TrainingSettings(**on), robust=False), Awp)


def test_a_frozen_group_has_no_direction_and_a_full_size_network_has_one_for_each_matrix():
    with torch.device("meta"):
        model = build("wrn-34-10", sub_block=True)
    names = {name for name, p in model.named_parameters() if p.dim() > 1 and p.requires_grad}
    assert not any(name.startswith("sub_block1") for name in names)
    loss = model(torch.rand(2, 3, 32, 32, device="meta")).sum()
    assert awp_directions(model, loss).keys() == names


def test_outcomes_carry_the_natural_features():
    x, y, noise = batch()
    found = Trades(steps=1)(small(), x, y, start_noise=noise)
    assert isinstance(found, Outcome)
    assert found.features_nat.shape == found.features.shape
    assert PgdAt(steps=1)(small(), x, y, start_noise=noise).features_nat is None
