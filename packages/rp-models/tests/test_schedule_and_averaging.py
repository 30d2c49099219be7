"""Schedules and weight averages against what DM-AT's and torch's code computes."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.training.averaging import average_, dmat_decay, ema_decay
from rp_models.training.optimizer import decay_groups, set_rate
from rp_models.training.schedule import cosine, one_cycle
from rp_testing import GOLDEN_FILES
from torch import nn

SCHEDULES = np.load(GOLDEN_FILES / "dmat_lr_schedule.npz")


@pytest.mark.parametrize(("peak", "epochs"), [(0.2, 400), (0.2, 100), (0.2, 2400), (0.4, 81)])
def test_one_cycle_equals_dm_ats_schedule(peak, epochs):
    computed = np.array([one_cycle(epoch, steps=epochs, peak=peak) for epoch in range(epochs)])
    # the recorded values are float32
    np.testing.assert_allclose(computed[:, 0], SCHEDULES[f"out_lr_{peak}_{epochs}"], rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(computed[:, 1], SCHEDULES[f"out_momentum_{peak}_{epochs}"], rtol=2e-6)


@pytest.mark.parametrize("epochs", [10, 20, 39, 41, 60])
def test_one_cycle_equals_the_reference_where_the_warm_up_is_shorter_than_an_epoch(epochs):
    recorded = json.loads(str(SCHEDULES["config"]))["notes"][f"epochs {epochs}"]
    computed = [one_cycle(epoch, steps=epochs, peak=0.2)[0] for epoch in range(5)]
    np.testing.assert_allclose(computed, recorded, atol=1e-6)  # the record has six digits


def test_one_cycle_starts_at_the_peak_where_torch_divides_by_zero():
    assert one_cycle(0, steps=40, peak=0.2) == (0.2, 0.85)
    rates = [one_cycle(epoch, steps=40, peak=0.2)[0] for epoch in range(40)]
    assert rates == sorted(rates, reverse=True)


def test_a_single_epoch_trains_at_the_peak_and_not_at_the_last_rate():
    assert one_cycle(0, steps=1, peak=0.2) == (0.2, 0.85)


def test_cosine_warms_up_and_falls_to_its_final_value():
    values = [cosine(step, steps=100, peak=2.0, warmup=10, final=0.5) for step in range(101)]
    assert values[0] == 0.0
    assert values[5] == pytest.approx(1.0)
    assert values[10] == pytest.approx(2.0)
    assert values[55] == pytest.approx(1.25)
    assert values[100] == pytest.approx(0.5)
    assert cosine(150, steps=100, peak=2.0, final=0.5) == pytest.approx(0.5)


class Holder(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = nn.Parameter(value.clone())
        self.register_buffer("count", torch.zeros(1))


def test_averaging_equals_dm_ats():
    golden = np.load(GOLDEN_FILES / "dmat_ema.npz")
    config = json.loads(str(golden["config"]))
    params = torch.from_numpy(golden["in_params"])
    average = Holder(params[0])
    for step in range(1, config["steps"] + 1):
        decay = dmat_decay(step, warmup_steps=config["warmup_steps"], tau=config["tau"])
        average_(average, Holder(params[step]), decay)
        # one rounding a step in float32
        np.testing.assert_allclose(average.weight.detach(), golden["out_average"][step - 1], atol=1e-6)


def test_buffers_are_taken_over():
    average, model = Holder(torch.ones(2)), Holder(torch.zeros(2))
    model.count.fill_(7)
    average_(average, model, 0.9)
    assert average.count.item() == 7
    torch.testing.assert_close(average.weight.detach(), torch.full((2,), 0.9))


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 0.0), (1.0, 1.0), (0.25, 0.25)])
def test_the_decay_is_the_share_that_is_kept(decay, expected):
    average, model = Holder(torch.ones(2)), Holder(torch.zeros(2))
    average_(average, model, decay)
    assert average.weight.tolist() == [expected] * 2


def test_a_plain_copy_forgets_an_average_that_is_no_number():
    average = Holder(torch.tensor([torch.nan, torch.inf]))
    average_(average, Holder(torch.tensor([1.0, 2.0])), 0.0)
    assert average.weight.tolist() == [1.0, 2.0]


@settings(deadline=None, max_examples=30)
@given(half_life=st.floats(100, 1e6), batch=st.integers(1, 512))
def test_the_half_life_halves_a_weight(half_life, batch):
    decay = ema_decay(1e12, batch_size=batch, half_life=half_life, ramp=None)
    assert decay ** (half_life / batch) == pytest.approx(0.5)


def test_the_ramp_shortens_the_half_life_at_the_beginning():
    assert ema_decay(1000, batch_size=50, half_life=1e6, ramp=0.05) == pytest.approx(0.5)
    assert ema_decay(0, batch_size=50, half_life=1e6, ramp=0.05) == 0.0


def test_decay_groups_split_by_name_and_skip_frozen_parameters():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1).requires_grad_(False))
    decayed, spared = decay_groups(model, 0.1, without_decay=lambda name, _: name.startswith("1."))
    assert [p.shape for p in decayed["params"]] == [torch.Size([3, 2]), torch.Size([3])]
    assert len(spared["params"]) == 2
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    optimizer = torch.optim.SGD([decayed, spared], lr=1.0, momentum=0.5)
    set_rate(optimizer, 0.25, 0.75)
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.25, 0.75)] * 2
    set_rate(optimizer, 0.5)
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.5, 0.75)] * 2
