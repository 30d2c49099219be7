"""ADR's labels against their formula, the schedules, the teacher, and how a base objective uses the labels."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra.objectives import Adr, PgdAt, Standard, Trades, adr_labels, trust
from rp_models import build
from rp_testing import GOLDEN_FILES
from torch.nn import functional as F

GOLDEN = GOLDEN_FILES / "adr_labels.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind in "fi"}
    return json.loads(str(arrays["config"])), tensors


def small():
    return build("dm-wide-resnet", depth=10, width=1, in_channels=1, num_classes=4).train()


def batch():
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2])


def test_labels_and_shares_equal_the_formula(golden):
    config, tensors = golden
    logits, y = tensors["in_logits"], tensors["in_y"]
    labels = adr_labels(logits, y, tau=config["tau"], lam=config["lam"])
    torch.testing.assert_close(labels, tensors["out_labels"], rtol=1e-5, atol=1e-6)
    q = (logits / config["tau"]).softmax(dim=1)
    torch.testing.assert_close(trust(q, y, config["lam"]), tensors["out_lambda"], rtol=1e-5, atol=1e-6)


def test_temperature_and_lambda_follow_the_half_cosine(golden):
    config, tensors = golden
    schedule = config["schedule"]
    adr = Adr(
        Standard(),
        tau=(schedule["tau_from"], schedule["tau_to"]),
        lam=(schedule["lambda_from"], schedule["lambda_to"]),
    )
    model, taus, lams = small(), [], []
    adr.modules(model)
    for step in range(20):
        adr.begin_step(model, step=step, steps_per_epoch=schedule["steps_per_epoch"], epochs=schedule["epochs"])
        taus.append(adr.step_tau)
        lams.append(adr.step_lam)
    torch.testing.assert_close(torch.tensor(taus), tensors["out_tau_schedule"], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.tensor(lams), tensors["out_lambda_schedule"], rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000), k=st.integers(2, 6), tau=st.floats(0.2, 4), lam=st.floats(0, 1), scale=st.floats(0, 9)
)
def test_labels_are_probabilities_whose_largest_is_the_true_class(seed, k, tau, lam, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(5, k, generator=generator)
    y = torch.randint(k, (5,), generator=generator)
    labels = adr_labels(logits, y, tau=tau, lam=lam)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(5))
    assert float(labels.min()) >= 0.0
    assert bool((labels.gather(1, y[:, None]).squeeze(1) >= labels.amax(dim=1) - 1e-6).all())


def test_a_teacher_that_is_sure_of_a_wrong_class_is_not_heard():
    y = torch.tensor([0, 1])
    wrong = torch.tensor([[0.0, 50.0, 0.0], [0.0, 0.0, 50.0]])
    torch.testing.assert_close(adr_labels(wrong, y, tau=1.0, lam=0.95), F.one_hot(y, 3).float())
    right = torch.tensor([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    torch.testing.assert_close(trust(right.softmax(1), y, 0.95), torch.tensor([0.95, 0.95]))


def test_labels_carry_no_graph_and_are_float32_from_bfloat16_logits():
    logits = torch.randn(3, 4, requires_grad=True)
    labels = adr_labels(logits.bfloat16(), torch.tensor([0, 1, 2]), tau=2.0, lam=0.7)
    assert not labels.requires_grad
    assert labels.dtype == torch.float32


def test_the_teacher_is_an_average_of_weights_and_statistics_with_the_modes_of_a_judge():
    adr, model = Adr(Standard(), decay=0.75), small()
    teacher = adr.modules(model)["adr_teacher"]
    assert adr.modules(model)["adr_teacher"] is teacher
    with torch.no_grad():
        model.init_conv.weight.add_(1.0)  # as someone who loads weights after building the trainer
    adr.begin_step(model, step=0, steps_per_epoch=2, epochs=2)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    with torch.no_grad():
        model.init_conv.weight.add_(1.0)
    model(torch.rand(4, 1, 8, 8))  # moves the running statistics
    adr.begin_step(model, step=1, steps_per_epoch=2, epochs=2)
    for key, new in model.state_dict().items():
        expected = 0.75 * before[key] + 0.25 * new if new.is_floating_point() else new
        torch.testing.assert_close(teacher.state_dict()[key], expected)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("base", [PgdAt(eps=0.1, steps=2), Trades(eps=0.1, steps=2, label_smoothing=0.0)], ids=repr)
def test_the_base_objective_gets_the_labels_of_the_teacher(base):
    adr, model, (x, y) = Adr(base, tau=(1.5, 1.0), lam=(0.6, 0.9)), small().eval(), batch()
    adr.modules(model)
    noise = torch.rand_like(x)
    labels = adr_labels(model(x), y, tau=1.5, lam=0.6)  # the teacher is still a copy
    expected = base(model, x, labels, start_noise=noise)
    got = adr(model, x, y, start_noise=noise)
    torch.testing.assert_close(got.loss, expected.loss)
    torch.testing.assert_close(got.x_adv, expected.x_adv)
    assert float(got.metrics["robust_accuracy"]) == float((model(got.x_adv).argmax(1) == y).float().mean())
    hard = base(model, x, y, start_noise=noise)
    assert not torch.allclose(got.loss, hard.loss)


def test_no_gradient_reaches_the_teacher():
    adr, model, (x, y) = Adr(Standard()), small(), batch()
    teacher = adr.modules(model)["adr_teacher"]
    adr(model, x, y, start_noise=torch.rand_like(x)).loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": (2.0, 0.0)}, "tau must be two temperatures above 0"),
        ({"lam": (0.7, 1.2)}, r"lam must be two shares in \[0, 1\]"),
        ({"decay": 1.5}, "decay must be in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Adr(Standard(), **arguments)


def test_a_missing_teacher_and_soft_labels_are_told():
    x, y = batch()
    with pytest.raises(ValueError, match=r"call modules\(model\) once"):
        Adr(Standard())(small(), x, y, start_noise=x)
    with pytest.raises(TypeError, match="ADR makes probabilities of labels"):
        Adr(Standard())(small(), x, F.one_hot(y, 4).float(), start_noise=x)
