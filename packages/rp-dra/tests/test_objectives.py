"""TRADES against DM-AT's own numbers, and what every objective promises."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra import Standard, Trades
from rp_dra.objectives import batch_statistics
from rp_models import build
from torch.nn import functional as F

from .golden.recipe import fill_state

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "trades_dmat_linf.npz") as file:
        arrays = dict(file)
    return {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind in "fi"} | {
        "config": json.loads(str(arrays["config"]))
    }


def filled(depth, width):
    model = build("wrn-28-10-swish", depth=depth, width=width)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in fill_state(shapes).items()}
    model.load_state_dict(state)
    return model.train()


@pytest.fixture(scope="module")
def outcome(golden):
    """DM-AT's loss on its own weights, images and start, with gradients."""
    arguments = golden["config"]["args"]
    model = filled(10, 2)
    trades = Trades(
        beta=arguments["beta"],
        label_smoothing=arguments["label_smoothing"],
        eps=arguments["epsilon"],
        step_size=arguments["step_size"],
        steps=arguments["perturb_steps"],
    )
    start_noise = (golden["in_noise"] / arguments["epsilon"] + 1) / 2
    result = trades(model, golden["in_x"], golden["in_y"], start_noise=start_noise)
    result.loss.backward()
    return model, result


def test_the_attack_finds_the_references_images(golden, outcome):
    # sign steps can flip where the gradient is near zero; the reference in float64 differs in no entry
    share = (outcome[1].x_adv - golden["out_x_adv"]).abs().gt(1e-6).float().mean()
    assert float(share) < 1e-3


def test_loss_and_its_parts_equal_the_references(golden, outcome):
    result = outcome[1]
    torch.testing.assert_close(result.loss.detach(), golden["out_loss"], atol=1e-4, rtol=0)
    torch.testing.assert_close(result.metrics["natural"], golden["out_loss_natural"], atol=1e-4, rtol=0)
    torch.testing.assert_close(result.metrics["robust"], golden["out_loss_robust"], atol=1e-4, rtol=0)


def test_gradients_equal_the_references(golden, outcome):
    model = dict(outcome[0].named_parameters())
    norms = torch.stack([model[name].grad.norm() for name in golden["config"]["parameter_order"]])
    torch.testing.assert_close(norms, golden["out_grad_norms"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model["logits.weight"].grad, golden["out_grad.logits.weight"], rtol=1e-3, atol=1e-5)


def test_batch_norm_statistics_move_twice_as_in_the_reference(golden, outcome):
    buffers = dict(outcome[0].named_buffers())
    for key, value in golden.items():
        if key.startswith("out_after."):
            torch.testing.assert_close(buffers[key.removeprefix("out_after.")], value, atol=1e-5, rtol=1e-5)
    counts = torch.stack([value for key, value in buffers.items() if key.endswith("num_batches_tracked")])
    assert torch.equal(counts, golden["out_num_batches_tracked"])


def small():
    torch_model = build("dm-wide-resnet", depth=10, width=1, in_channels=1, num_classes=4)
    return torch_model.train()


@settings(deadline=None, max_examples=8)
@given(eps=st.floats(0.0, 0.5), steps=st.integers(1, 3), seed=st.integers(0, 1000))
def test_adversarial_images_stay_in_ball_and_box_and_inputs_stay_as_they_are(eps, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4)
    before = x.clone()
    noise = torch.rand(4, 1, 8, 8, generator=generator)
    result = Trades(eps=eps, step_size=eps / 2 + 0.01, steps=steps)(small(), x, y, start_noise=noise)
    assert torch.equal(x, before)
    assert float((result.x_adv - x).abs().max()) <= eps + 1e-6
    assert float(result.x_adv.min()) >= 0.0
    assert float(result.x_adv.max()) <= 1.0


def test_without_a_ball_trades_is_smoothed_cross_entropy():
    model, x, y = small(), torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    result = Trades(eps=0.0, step_size=0.1, label_smoothing=0.1)(model, x, y, start_noise=torch.rand_like(x))
    expected = F.cross_entropy(model(x), y, label_smoothing=0.1)
    torch.testing.assert_close(result.loss, expected)
    standard = Standard(label_smoothing=0.1)(model, x, y, start_noise=torch.rand_like(x))
    torch.testing.assert_close(standard.loss, expected)


def test_the_attack_leaves_no_gradients_and_restores_the_batch_norms():
    model, x = small(), torch.rand(4, 1, 8, 8)
    with batch_statistics(model):
        assert not any(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
        model(x)
    buffers = [value for key, value in model.named_buffers() if key.endswith("num_batches_tracked")]
    assert all(int(value) == 0 for value in buffers)
    Trades(steps=2)(model, x, torch.arange(4), start_noise=torch.rand_like(x))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_features_carry_the_graph_of_the_adversarial_images():
    model, x = small(), torch.rand(4, 1, 8, 8)
    result = Trades(steps=2)(model, x, torch.arange(4), start_noise=torch.rand_like(x))
    result.features.sum().backward()
    assert model.init_conv.weight.grad is not None
    assert result.features.shape == (4, 64)
