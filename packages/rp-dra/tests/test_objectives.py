"""What every objective promises, and where they differ; the numbers themselves are in test_objectives_golden.py."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_dra import objectives
from rp_dra.objectives import (
    Adr,
    Ikl,
    PgdAt,
    Standard,
    Trades,
    TradesOriginal,
    batch_statistics,
    classify,
    classify_both,
    eval_mode,
)
from rp_dra.objectives.trades import divergence
from rp_models import build, noise
from torch import nn
from torch.nn import functional as F

ATTACK = {"eps": 0.1, "step_size": 0.05, "steps": 2}
ADVERSARIAL = [
    Trades(**ATTACK),
    Trades(**ATTACK, norm="l2"),
    Trades(**ATTACK, joint_forward=True),
    TradesOriginal(**ATTACK),
    TradesOriginal(**ATTACK, norm="l2"),
    PgdAt(**ATTACK, label_smoothing=0.1),
    PgdAt(**ATTACK, norm="l2"),
    Ikl(num_classes=4, eps=0.1),
    Ikl(num_classes=4, eps=0.1, version=1, norm="l2", joint_forward=True),
    Adr(PgdAt(**ATTACK)),
    Adr(Trades(**ATTACK, joint_forward=True)),
]
EVERY = [*ADVERSARIAL, Standard(label_smoothing=0.1)]
every = pytest.mark.parametrize("objective", EVERY, ids=repr)


def small(channels=1):
    return build("dm-wide-resnet", depth=10, width=1, in_channels=channels, num_classes=4).train()


def batch(seed=0, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(6, channels, 8, 8, generator=generator), torch.arange(6) % 4


def run(objective, model=None, x=None, y=None):
    """The first step, as a trainer takes it."""
    objective = copy.deepcopy(objective)  # some remember the model
    model = small() if model is None else model
    default_x, default_y = batch()
    x, y = default_x if x is None else x, default_y if y is None else y
    objective.modules(model)
    objective.begin_step(model, step=0, steps_per_epoch=1, epochs=1)
    generator = torch.Generator().manual_seed(1)
    draw = torch.rand if objective.noise == "uniform" else torch.randn
    return objective(model, x, y, start_noise=draw(x.shape, generator=generator))


@every
def test_loss_and_features_carry_the_graph_and_metrics_do_not(objective):
    model = small()
    outcome = run(objective, model)
    assert outcome.loss.shape == ()
    assert outcome.features.shape == (6, 64)
    assert not any(value.requires_grad or value.dim() for value in outcome.metrics.values())
    outcome.features.sum().backward(retain_graph=True)
    first = model.init_conv.weight.grad.clone()
    outcome.loss.backward()
    assert bool(first.any())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@every
def test_inputs_modes_and_gradients_stay_as_they_were(objective):
    model = small()
    model.layer[0].eval()  # as someone who freezes a part's statistics
    modes = [module.training for module in model.modules()]
    x, y = batch()
    before = x.clone(), y.clone()
    outcome = run(objective, model, x, y)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    assert outcome.x_adv.requires_grad is False


@every
def test_features_are_those_of_the_images_that_are_handed_out(objective):
    model = small().eval()  # in eval mode a pass does not depend on the batch around an image
    outcome = run(objective, model)
    torch.testing.assert_close(outcome.features, model.forward_features(outcome.x_adv), atol=1e-5, rtol=1e-5)


@every
def test_bfloat16_passes_give_float32_losses_and_full_gradients(objective):
    model = small()
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        outcome = run(objective, model)
    assert outcome.loss.dtype == torch.float32
    assert outcome.x_adv.dtype == torch.float32
    outcome.loss.backward()
    # autocast keeps cast weights for a while; those of the attack must not stand in for those of the loss
    assert all(parameter.grad is not None for parameter in model.parameters())
    # bfloat16 has 8 bits: 1% an operation and some dozens of them; sign steps differ with rounding too
    torch.testing.assert_close(outcome.loss, run(objective, twin).loss, atol=0.0, rtol=0.1)


def test_logits_are_at_least_float32():
    model, (x, _) = small(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        assert classify(model, x)[1].dtype == torch.float32
        assert classify_both(model, x, x, joint=True)[3].dtype == torch.float32
    assert classify(model.double(), x.double())[1].dtype == torch.float64


@every
def test_channels_last_images_give_the_same_and_stay_channels_last(objective):
    model, (x, y) = small(channels=3), batch(channels=3)
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    plain = run(objective, model, x, y)
    last = run(objective, twin, x.contiguous(memory_format=torch.channels_last), y)
    # Linf steps may flip where a gradient is near zero; the loss then moves by the KL of single pixels
    torch.testing.assert_close(last.loss, plain.loss, atol=2e-3, rtol=2e-3)
    assert last.x_adv.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("objective", ADVERSARIAL, ids=repr)
def test_no_value_is_fetched_from_the_device(objective, monkeypatch):
    def refuse(self):
        raise AssertionError("a value was fetched, which makes a GPU wait")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    run(objective)


@pytest.mark.parametrize("objective", ADVERSARIAL, ids=repr)
def test_in_eval_mode_an_image_is_attacked_by_itself_whatever_the_batch(objective):
    objective, model, (x, y) = copy.deepcopy(objective), small().eval(), batch()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    objective.modules(model)
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
    one = objective(model, x, y, start_noise=noise)
    other = objective(model, x[order], y[order], start_noise=noise[order])
    share = (one.x_adv[order] - other.x_adv).abs().gt(1e-5).float().mean()
    assert float(share) < 0.02  # sums in another order flip signs where gradients vanish


@settings(deadline=None, max_examples=12)
@given(
    eps=st.floats(0.0, 0.5),
    steps=st.integers(1, 3),
    seed=st.integers(0, 1000),
    norm=st.sampled_from(["linf", "l2"]),
    kind=st.sampled_from([Trades, TradesOriginal, PgdAt, Ikl]),
)
def test_adversarial_images_stay_in_ball_and_box(eps, steps, seed, norm, kind):
    attack = {"eps": eps, "steps": steps, "norm": norm}
    attack |= {"num_classes": 4} if kind is Ikl else {"step_size": eps / 2 + 0.01}
    x_adv = run(kind(**attack), x=batch(seed)[0]).x_adv
    delta = (x_adv - batch(seed)[0]).flatten(1)
    size = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= eps + 1e-6
    assert float(x_adv.min()) >= 0.0
    assert float(x_adv.max()) <= 1.0


@torch.no_grad()
def test_the_attacks_raise_what_they_should():
    model, (x, y) = small().eval(), batch()
    p = model(x).softmax(dim=1)

    def kl(z):
        return float(divergence(p.log(), model(z)))

    def ce(z):
        return float(F.cross_entropy(model(z), y))

    noise = torch.rand_like(x)
    attack = {"eps": 0.1, "step_size": 0.03, "steps": 5}
    for norm in ("linf", "l2"):
        assert ce(PgdAt(**attack, norm=norm)(model, x, y, start_noise=noise).x_adv) > ce(x)
        for objective in (Trades(**attack, norm=norm), TradesOriginal(**attack, norm=norm)):
            x_adv = objective(model, x, y, start_noise=noise).x_adv
            assert kl(x_adv) > 1.5 * kl(x + 0.5 * (x_adv - x))


def test_without_a_ball_trades_is_smoothed_cross_entropy():
    model, (x, y) = small(), batch()
    expected = F.cross_entropy(model(x), y, label_smoothing=0.1)
    for objective in (
        Trades(eps=0.0, step_size=0.1, label_smoothing=0.1),
        TradesOriginal(eps=0.0, label_smoothing=0.1),
        PgdAt(eps=0.0, label_smoothing=0.1),
        Standard(label_smoothing=0.1),
    ):
        torch.testing.assert_close(run(objective, model, x, y).loss, expected)


@pytest.mark.parametrize("make", [Standard, PgdAt, Trades, TradesOriginal])
def test_one_hot_probabilities_are_labels(make):
    model, (x, y) = small(), batch()
    hard = run(make(label_smoothing=0.1), copy.deepcopy(model), x, y)
    soft = run(make(label_smoothing=0.1), model, x, F.one_hot(y, 4).float())
    torch.testing.assert_close(soft.loss, hard.loss)
    assert all(torch.equal(soft.metrics[key], hard.metrics[key]) for key in ("accuracy",) if key in hard.metrics)


def test_batch_statistics_leaves_the_running_ones_as_they_are():
    model, (x, _) = small(), batch()
    with batch_statistics(model):
        assert not any(m.track_running_stats for m in model.modules() if isinstance(m, nn.BatchNorm2d))
        model(x)
    buffers = [value for key, value in model.named_buffers() if key.endswith("num_batches_tracked")]
    assert all(int(value) == 0 for value in buffers)


def test_eval_mode_gives_each_module_its_own_mode_back_even_after_an_error():
    model = small()
    model.batchnorm.eval()
    inside = []

    def fail():
        with eval_mode(model):
            inside.extend(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert inside
    assert not any(inside)
    assert model.training
    assert not model.batchnorm.training


def counts(model):
    return {int(value) for key, value in model.named_buffers() if key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (Trades(**ATTACK), 2),
        (TradesOriginal(**ATTACK), 3),
        (Ikl(num_classes=4), 2),
        (PgdAt(**ATTACK), 1),
        (Trades(**ATTACK, joint_forward=True), 1),
        (TradesOriginal(**ATTACK, joint_forward=True), 1),
        (Ikl(num_classes=4, joint_forward=True), 1),
    ],
    ids=repr,
)
def test_running_statistics_move_once_a_pass_and_not_in_the_attack(objective, passes):
    model = small()
    run(objective, model)
    assert counts(model) == {passes}


@pytest.mark.parametrize(
    ("objective", "adversarial_last"),
    [
        (Trades(**ATTACK), True),
        (PgdAt(**ATTACK), True),
        (TradesOriginal(**ATTACK), False),
        (Ikl(num_classes=4), False),
    ],
    ids=repr,
)
def test_running_statistics_move_last_to_the_images_of_the_published_order(objective, adversarial_last):
    model, (x, y) = small(), batch()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics are then those of the last pass
    outcome = run(objective, model, x, y)
    last = outcome.x_adv if adversarial_last else x
    mean = model.init_conv(model.normalize(last)).detach().mean(dim=(0, 2, 3))
    torch.testing.assert_close(model.layer[0].block[0].batchnorm_0.running_mean, mean)


def test_a_joint_pass_changes_nothing_but_batch_statistics():
    model, (x, _) = small(), batch()
    x_adv = (x + 0.1).clamp(max=1.0)
    apart, joint = (classify_both(model.eval(), x, x_adv, joint=joint) for joint in (False, True))
    for one, other in zip(apart, joint, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    apart, joint = (classify_both(model.train(), x, x_adv, joint=joint) for joint in (False, True))
    assert not torch.allclose(apart[0], joint[0], atol=1e-5)


def test_the_divergence_equals_its_definition_with_gradients_on_both_sides():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    z_adv = torch.randn(5, 7, generator=generator, dtype=torch.float64).requires_grad_()
    twin = sum(
        p * (p.log() - q.log())
        for row, row_adv in zip(z, z_adv, strict=True)
        for p, q in zip(row.softmax(0), row_adv.softmax(0), strict=True)
    )
    expected = torch.autograd.grad(twin / 5, (z, z_adv))
    got = torch.autograd.grad(divergence(z, z_adv), (z, z_adv))
    torch.testing.assert_close(divergence(z, z_adv), twin / 5)
    torch.testing.assert_close(got, expected)


def test_very_sure_predictions_have_finite_gradients():
    # 1000 apart, the smaller probability is 0 in float32
    z = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    z_adv = torch.tensor([[0.0, 1000.0], [0.0, 1000.0]], requires_grad=True)
    divergence(z, z_adv).backward()
    assert bool(z.grad.isfinite().all())
    assert bool(z_adv.grad.isfinite().all())


def test_every_objective_tells_its_noise_and_whether_it_is_robust():
    assert [Trades().noise, Trades(norm="l2").noise, TradesOriginal().noise] == ["uniform", "normal", "normal"]
    assert [PgdAt().noise, PgdAt(norm="l2").noise, Ikl(num_classes=2).noise] == ["uniform", "uniform", "normal"]
    assert [Adr(TradesOriginal()).noise, Adr(PgdAt()).noise] == ["normal", "uniform"]
    assert not Standard().robust
    assert not Adr(Standard()).robust
    assert all(objective.robust for objective in ADVERSARIAL)


@every
def test_the_start_is_drawn_by_seed_and_image_with_the_noise_that_the_objective_documents(objective):
    x, draw = batch()[0], torch.tensor([4, 2**33, 0])[: len(batch()[0])]
    drawn = {"uniform": noise.uniform, "normal": noise.normal}[objective.noise]
    start = objective.start_noise(x, seed=9, draw=draw)
    assert torch.equal(start, drawn(x.shape[1:], seed=9, purpose="attack start", index=draw))
    assert (start.min() < 0) == (objective.noise == "normal")
    assert not torch.equal(start, objective.start_noise(x, seed=8, draw=draw))


def test_defaults_are_the_published_ones():
    assert (Trades().eps, Trades().step_size, Trades().steps, Trades().beta) == (8 / 255, 2 / 255, 10, 5.0)
    original = TradesOriginal()
    assert (original.eps, original.step_size, original.steps, original.beta) == (0.031, 0.007, 10, 6.0)
    assert (PgdAt().eps, PgdAt().step_size, PgdAt().steps) == (8 / 255, 2 / 255, 10)
    ikl = Ikl(num_classes=2)
    assert (ikl.eps, ikl.steps, ikl.step_share, ikl.alpha, ikl.beta) == (8 / 255, 2, 1.0, 4.0, 20.0)


def test_objectives_without_state_have_no_modules_and_need_no_hooks():
    model = small()
    for objective in (Standard(), PgdAt(), Trades(), TradesOriginal()):
        assert objective.modules(model) == {}
        assert objective.begin_step(model, step=3, steps_per_epoch=2, epochs=2) is None


def test_the_public_names_are_there():
    assert all(hasattr(objectives, name) for name in objectives.__all__)


@pytest.mark.parametrize("make", [Trades, TradesOriginal, PgdAt])
@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"norm": "l1"}, "norm must be one of linf, l2"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": -0.1}, "eps must not be negative"),
        ({"step_size": 0.0}, "step_size must be above 0"),
        ({"steps": 0}, "steps must be above 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, field, message):
    with pytest.raises(ValueError, match=message):
        make(**field)


@pytest.mark.parametrize("make", [Trades, TradesOriginal])
def test_a_negative_weight_is_refused(make):
    with pytest.raises(ValueError, match="beta must not be negative"):
        make(beta=-1.0)


@pytest.mark.parametrize("objective", [Standard(), Trades(), TradesOriginal(), PgdAt(), Ikl(num_classes=4)], ids=repr)
def test_batches_whose_shapes_disagree_are_refused(objective):
    model, (x, y) = small(), batch()
    noise = torch.rand_like(x)
    for changed, error, message in (
        ({"start_noise": noise[:, 0]}, ValueError, "start_noise must have the images' shape"),
        ({"y": y[:3]}, ValueError, r"y must be labels \(6,\)"),
        ({"y": y.float()}, ValueError, r"probabilities \(6, classes\)"),
        ({"y": y.int()}, TypeError, "int64"),
        ({"x": x[0], "start_noise": noise[0]}, ValueError, "batch of images"),
    ):
        arguments = {"x": x, "y": y, "start_noise": noise} | changed
        with pytest.raises(error, match=message):
            objective(model, arguments["x"], arguments["y"], start_noise=arguments["start_noise"])
