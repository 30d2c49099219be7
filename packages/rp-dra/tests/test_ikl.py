"""IKL and GKL against their published code and the plain triple sum; the class means over epochs."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra.objectives import ClassMeans, Ikl, ikl_loss, weighted_mse
from rp_models import build
from rp_models.training import TrainingState
from rp_testing import GOLDEN_FILES
from torch.nn import functional as F

GOLDEN = GOLDEN_FILES / "ikl_loss.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    tensors = {key: torch.from_numpy(value) for key, value in arrays.items() if value.dtype.kind == "f"}
    return json.loads(str(arrays["config"])), tensors


def leaves(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("case", "abcd")
def test_version_2_equals_the_published_code_with_both_gradients(golden, case):
    config, tensors = golden
    z, z_adv = leaves(tensors["in_nat"], tensors["in_adv"])
    arguments = config["cases_v2"][case]
    arguments["temperature"] = arguments.pop("T")
    loss = ikl_loss(z, z_adv, tensors["in_prior"], **arguments)
    loss.backward()
    # float32 sums in another order
    torch.testing.assert_close(loss.detach(), tensors[f"out_loss_v2_{case}"], rtol=2e-6, atol=0)
    torch.testing.assert_close(z_adv.grad, tensors[f"out_grad_adv_v2_{case}"], rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(
        torch.zeros_like(z) if z.grad is None else z.grad, tensors[f"out_grad_nat_v2_{case}"], rtol=1e-4, atol=2e-6
    )
    arguments["T"] = arguments.pop("temperature")


def test_version_1_equals_the_published_code(golden):
    config, tensors = golden
    loss = ikl_loss(tensors["in_nat"], tensors["in_adv"], tensors["in_prior"], **config["case_v1"]["a"], version=1)
    torch.testing.assert_close(loss, tensors["out_loss_v1_a"], rtol=2e-6, atol=0)


def triple_sum(z, z_adv, w, *, by_weight):
    """The definition, term by term."""
    top, bottom = torch.zeros((), dtype=z.dtype), torch.zeros((), dtype=z.dtype)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            for k in range(z.shape[1]):
                difference = (z[i, j] - z[i, k]) - (z_adv[i, j] - z_adv[i, k])
                top = top + 0.25 * w[i, j] * w[i, k] * difference**2
                bottom = bottom + w[i, j] * w[i, k]
    return top / (bottom if by_weight else z.shape[0])


@settings(deadline=None, max_examples=10)
@given(
    b=st.integers(1, 3), k=st.integers(2, 5), seed=st.integers(0, 1000), gamma=st.floats(0.2, 2), version=st.booleans()
)
def test_the_closed_form_equals_the_triple_sum_with_both_gradients(b, k, seed, gamma, version):
    generator = torch.Generator().manual_seed(seed)
    z, z_adv = leaves(*(3 * torch.randn(2, b, k, generator=generator, dtype=torch.float64)))
    w = torch.rand(b, k, generator=generator, dtype=torch.float64) ** gamma + 1e-3  # rows need not sum to 1
    fast, slow = weighted_mse(z, z_adv, w, by_weight=version), triple_sum(z, z_adv, w, by_weight=version)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    got, expected = (torch.autograd.grad(loss, (z, z_adv)) for loss in (fast, slow))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_with_its_own_predictions_as_weights_ikl_has_the_gradient_of_the_kl_divergence():
    # what the papers start from: with w = softmax(z), held fixed, wMSE gives z the gradient that KL gives it
    generator = torch.Generator().manual_seed(0)
    z, z_adv = leaves(*torch.randn(2, 4, 6, generator=generator, dtype=torch.float64))
    p = z.detach().softmax(dim=1)
    decoupled = ikl_loss(z, z_adv.detach(), p, alpha=0.0, beta=1.0, version=1)
    kl = F.kl_div(z_adv.detach().log_softmax(1), z.log_softmax(1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (decoupled, kl)))
    soft = ikl_loss(z, z_adv, p, alpha=1.0, beta=0.0)
    kl = F.kl_div(z_adv.log_softmax(1), p, reduction="batchmean")
    torch.testing.assert_close(*(torch.autograd.grad(loss, z_adv)[0] for loss in (soft, kl)))


def test_only_differences_of_logits_count_and_large_ones_do_not_cancel():
    generator = torch.Generator().manual_seed(0)
    z, z_adv = torch.randn(2, 4, 6, generator=generator)
    w = torch.rand(4, 6, generator=generator)
    moved = weighted_mse(z + 300.0, z_adv - 700.0, w, by_weight=True)
    torch.testing.assert_close(moved, weighted_mse(z, z_adv, w, by_weight=True), rtol=1e-3, atol=0)
    # the textbook form E[d^2] - E[d]^2 is wrong in every digit here
    assert float(weighted_mse(z + 3e4, z, w, by_weight=True)) < 1e-4


def test_the_soft_cross_entropy_holds_the_natural_side_fixed():
    z, z_adv = leaves(torch.randn(3, 5), torch.randn(3, 5))
    ikl_loss(z, z_adv, torch.full((3, 5), 0.2), alpha=1.0, beta=0.0).backward()
    assert z.grad is None or not bool(z.grad.any())
    assert bool(z_adv.grad.any())


def test_class_means_are_means_by_class_and_unseen_classes_keep_their_row():
    means = ClassMeans(3)
    torch.testing.assert_close(means.prior, torch.full((3, 3), 1 / 3))
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.9, 0.1, 0.0]])
    means.collect_(p[:2], torch.tensor([0, 1]))
    means.collect_(p[2:], torch.tensor([0]))
    torch.testing.assert_close(means.prior, torch.full((3, 3), 1 / 3))  # not before the epoch ends
    means.close_epoch_()
    expected = torch.stack([(p[0] + p[2]) / 2, p[1], torch.full((3,), 1 / 3)])
    torch.testing.assert_close(means.prior, expected)
    means.collect_(p[1:2], torch.tensor([0]))  # the next epoch's means are of its own predictions alone
    means.close_epoch_()
    torch.testing.assert_close(means.prior, torch.stack([p[1], p[1], torch.full((3,), 1 / 3)]))
    means.close_epoch_()
    torch.testing.assert_close(means.prior, torch.stack([p[1], p[1], torch.full((3,), 1 / 3)]))


@pytest.fixture
def second_process(monkeypatch):
    """Pretends that there are two processes; the other one's part of each sum is what the test appends."""
    others = []

    def all_reduce(tensor):
        tensor += others.pop(0)

    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    return others


def test_class_means_of_two_processes_are_those_of_one(second_process):
    second_process.append(torch.tensor([[0.2, 0.8], [0.0, 0.0]]))
    means = ClassMeans(2)
    means.collect_(torch.tensor([[0.7, 0.3]]), torch.tensor([1]))
    torch.testing.assert_close(means.sums, torch.tensor([[0.2, 0.8], [0.7, 0.3]]))


@pytest.mark.parametrize("by_weight", [True, False])
def test_the_mean_loss_of_two_processes_is_that_of_one(request, by_weight):
    generator = torch.Generator().manual_seed(0)
    z, z_adv = torch.randn(2, 6, 5, generator=generator)
    w = torch.rand(6, 5, generator=generator) ** 0.3
    whole = weighted_mse(z, z_adv, w, by_weight=by_weight)
    others = request.getfixturevalue("second_process")
    halves = []
    for half, other in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        others[:] = [w[other].sum(dim=1).square().sum()]
        halves.append(weighted_mse(z[half], z_adv[half], w[half], by_weight=by_weight))
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def small():
    return build("dm-wide-resnet", depth=10, width=1, in_channels=1, num_classes=4).train()


def test_the_radius_grows_to_its_full_size_in_the_last_epoch():
    ikl, model = Ikl(num_classes=4, eps=0.1), small()
    radii = []
    for step in range(8):
        ikl.begin_step(model, step=step, steps_per_epoch=2, epochs=4)
        radii.append(ikl.radius)
    assert radii == pytest.approx([0.025, 0.025, 0.05, 0.05, 0.075, 0.075, 0.1, 0.1])
    x = torch.full((2, 1, 8, 8), 0.5)
    ikl.begin_step(model, step=2, steps_per_epoch=2, epochs=4)
    x_adv = ikl(model, x, torch.tensor([0, 1]), start_noise=torch.randn(x.shape)).x_adv
    assert float((x_adv - x).abs().max()) == pytest.approx(0.05, abs=1e-6)
    constant = Ikl(num_classes=4, eps=0.1, grow=False)
    constant.begin_step(model, step=0, steps_per_epoch=2, epochs=4)
    assert constant.radius == 0.1


def test_each_epoch_uses_the_tempered_means_of_the_one_before():
    ikl, model = Ikl(num_classes=4, temperature=4.0, eps=0.0, step_share=1.0), small()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2])
    for step in range(2):
        ikl.begin_step(model, step=step, steps_per_epoch=2, epochs=2)
        ikl(model, x, y, start_noise=torch.zeros_like(x))
        torch.testing.assert_close(ikl.means.prior, torch.full((4, 4), 0.25))
    ikl.begin_step(model, step=2, steps_per_epoch=2, epochs=2)
    p = (model(x).detach() / 4.0).softmax(dim=1)
    expected = torch.stack([p[0], p[1], (p[2] + p[3]) / 2, torch.full((4,), 0.25)])
    torch.testing.assert_close(ikl.means.prior, expected)


def test_the_loss_is_cross_entropy_and_ikl_of_the_same_passes():
    ikl, model = Ikl(num_classes=4, gamma=0.5, eps=0.1), small().eval()
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2])
    ikl.means.prior.copy_(torch.rand(4, 4).softmax(dim=1))
    result = ikl(model, x, y, start_noise=torch.randn(x.shape))
    z, z_adv = model(x), model(result.x_adv)
    expected = F.cross_entropy(z, y) + ikl_loss(z, z_adv, ikl.means.prior[y], alpha=4.0, beta=20.0, gamma=0.5)
    torch.testing.assert_close(result.loss, expected, rtol=1e-5, atol=1e-6)


def test_a_resumed_training_goes_on_bit_for_bit(tmp_path):
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    noise = torch.randn(6, *x.shape)

    def trained(steps, resume_at=None):
        torch.random.manual_seed(0)
        ikl, model = Ikl(num_classes=4, eps=0.1), small()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        state = TrainingState({"model": model, **ikl.modules(model)}, optimizer)
        for step in range(state.restore(tmp_path / "state", {}) if resume_at else 0, steps):
            ikl.begin_step(model, step=step, steps_per_epoch=2, epochs=3)
            loss = ikl(model, x, y, start_noise=noise[step]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return state

    trained(3).save(tmp_path / "state", 3, {})
    once, resumed = trained(6), trained(6, resume_at=3)
    for name, module in once.modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[name].state_dict()[key]), f"{name}.{key}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be above 0"),
        ({"num_classes": 4, "version": 3}, "version must be one of 1, 2"),
        ({"num_classes": 4, "version": 1, "gamma": 0.2}, "version 1 of IKL has no gamma"),
        ({"num_classes": 4, "temperature": 0.0}, "temperature must be above 0"),
        ({"num_classes": 4, "step_share": 0.0}, "step_size must be above 0"),
        ({"num_classes": 4, "beta": -1.0}, "beta must not be negative"),
        ({"num_classes": 4, "alpha": -1.0}, "alpha must not be negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Ikl(**arguments)


def test_soft_labels_and_shapes_that_disagree_are_refused():
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(TypeError, match="class mean for each label"):
        Ikl(num_classes=4)(small(), x, torch.full((2, 4), 0.25), start_noise=torch.randn(x.shape))
    with pytest.raises(ValueError, match=r"must all be \(b, k\), got \(2, 4\), \(2, 4\), \(4, 4\)"):
        ikl_loss(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(4, 4), alpha=1.0, beta=1.0)
