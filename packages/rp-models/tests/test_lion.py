"""Lion against timm's and its own definition; saving, groups, bad input."""

import json

import numpy as np
import pytest
import torch
from rp_models.training import TrainingState
from rp_models.training.lion import Lion
from rp_testing import GOLDEN_FILES
from torch import nn

GOLDEN = GOLDEN_FILES / "lion_quadratic.npz"


@pytest.mark.parametrize("run", ["plain", "lr_change", "big"])
def test_a_quadratic_is_descended_as_by_timm(run):
    with np.load(GOLDEN) as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("in_", "out_"))}
        config = json.loads(str(file["config"]))
    lr, steps = config["runs"][run]["lr"], config["runs"][run]["steps"]
    w = nn.Parameter(golden["in_w0"].clone())
    optimizer = Lion([w], lr=lr, betas=tuple(config["betas"]), weight_decay=config["weight_decay"])
    for step in range(steps):
        if run == "lr_change":
            optimizer.param_groups[0]["lr"] = lr * (step + 1) / steps
        optimizer.zero_grad()
        (0.5 * golden["in_a"] * (w - golden["in_b"]) ** 2).sum().backward()
        optimizer.step()
        # float32 rounding of the averages
        torch.testing.assert_close(w.detach(), golden[f"out_w_{run}"][step], rtol=1e-6, atol=1e-7)
        average = optimizer.state[w]["exp_avg"]
        torch.testing.assert_close(average, golden[f"out_exp_avg_{run}"][step], rtol=1e-5, atol=1e-7)


def test_groups_have_their_own_decay_and_parameters_without_gradient_stay():
    decayed, spared, idle = (nn.Parameter(torch.ones(3)) for _ in range(3))
    optimizer = Lion([{"params": [decayed], "weight_decay": 0.5}, {"params": [spared, idle]}], lr=0.1)
    decayed.grad, spared.grad = torch.zeros(3), torch.tensor([1.0, -1.0, 0.0])
    optimizer.step()
    torch.testing.assert_close(decayed.detach(), torch.full((3,), 0.95))  # the sign of 0 is 0
    torch.testing.assert_close(spared.detach(), torch.tensor([0.9, 1.1, 1.0]))
    assert torch.equal(idle.detach(), torch.ones(3))
    assert idle not in optimizer.state


def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    def trained(path, save_at, steps, resume):
        model = nn.Linear(4, 2)
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)
        state = TrainingState({"model": model}, Lion(model.parameters(), lr=0.01, weight_decay=0.1))
        x = torch.arange(12.0).reshape(3, 4) / 12
        for step in range(state.restore(path, {}) if resume else 0, steps):
            if step == save_at:
                state.save(path, step, {})
            model.zero_grad()
            (model(x) - 1.0).square().sum().backward()
            state.optimizer.step()
        return model.weight.detach()

    once = trained(tmp_path / "state", 3, 6, resume=False)
    assert torch.equal(once, trained(tmp_path / "state", None, 6, resume=True))


def test_a_closure_gives_the_loss():
    w = nn.Parameter(torch.ones(1))
    optimizer = Lion([w], lr=0.1)

    def closure():
        loss = (w**2).sum()
        loss.backward()
        return loss.item()

    assert float(optimizer.step(closure)) == 1.0
    assert w.item() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": -1.0}, "lr must not be negative"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lion([nn.Parameter(torch.ones(1))], **arguments)
