import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from rp_attacks import PGD, ascend
from rp_attacks.losses import cross_entropy, cw_margin, kl_divergence
from rp_attacks.noise import derive_seed
from rp_attacks.norms import NORMS, size

from .models import NoisyModel, SwishWrn, filled, images, linear, load_golden, tiny_conv

FOOLBOX = {
    "linf_pgd": {"norm": "linf", "eps": 0.04, "step_size": 0.01},
    "l2_pgd": {"norm": "l2", "eps": 0.5, "step_size": 0.1},
    "l1_slide": {"norm": "l1", "eps": 4.0, "step_size": 1.0, "l1_sparsity": 0.05},
}


@pytest.mark.parametrize("name", FOOLBOX)
@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_makes_foolbox_images(name: str, steps: int) -> None:
    golden = load_golden("attacks_tinyconv")
    x, y = torch.from_numpy(golden["in_x"]), torch.from_numpy(golden["in_y"])
    x_adv = PGD(**FOOLBOX[name], steps=steps, start="clean")(tiny_conv(), x, y, seed=0)
    reference = torch.from_numpy(golden[f"out_fb_{name}_s{steps}"])
    if name == "l1_slide" and steps > 1:
        # foolbox's L1 projection is not the Euclidean one (its threshold counts one coordinate too many), so that
        # the iterates part: ours must be no weaker, and both fool all eight
        ours, theirs = (cw_margin(tiny_conv()(images), y) for images in (x_adv, reference))
        assert (ours > 0).all()
        assert (theirs > 0).all()
        assert ours.mean() > 0.95 * theirs.mean()
    else:
        torch.testing.assert_close(x_adv, reference, atol=1e-5, rtol=0)  # float32 rounding


@pytest.mark.parametrize(
    ("name", "norm", "eps", "step_size", "steps"),
    [
        ("pgd_linf_ce", "linf", 8 / 255, 2 / 255, 10),
        ("pgd_linf_cw", "linf", 8 / 255, 2 / 255, 40),
        ("pgd_l2_ce", "l2", 128 / 255, 15 / 255, 10),
    ],
)
def test_ascend_makes_the_images_of_dm_at(name: str, norm: str, eps: float, step_size: float, steps: int) -> None:
    golden = load_golden(name)
    model = filled(SwishWrn())
    x, y, uniform = (torch.from_numpy(golden[key]) for key in ("in_x", "in_y", "in_uniform"))
    if norm == "linf":
        start = (x + eps * uniform).clamp(0, 1)
    else:
        delta = uniform - x
        start = x + delta * (eps / size(delta, "l2")).clamp_max(1)[:, None, None, None]
    # DM-AT's margin stops at 0: a misclassified image is not pushed further
    loss = cross_entropy if "ce" in name else lambda z, y: cw_margin(z, y).clamp_max(0)
    x_adv = ascend(
        lambda z: loss(model(z), y), x, start, norm=norm, eps=eps, step_size=step_size, steps=steps, box_first=True
    )
    np.testing.assert_allclose(model(x).detach(), golden["out_logits_clean_eval"], atol=1e-4)
    differs = np.abs(x_adv.numpy() - golden["out_x_adv"]) > 1e-4
    assert differs.mean() < 1e-3  # a sign can flip where a gradient is nearly zero


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ascend_makes_the_images_of_the_trades_loss_of_dm_at(norm: str) -> None:
    golden = load_golden(f"trades_dmat_{norm}")
    model = filled(SwishWrn(10, 2)).train()  # batch statistics
    x, noise = torch.from_numpy(golden["in_x"]), torch.from_numpy(golden["in_noise"])
    p = model(x).softmax(1).detach()
    if norm == "linf":
        kind = {"norm": "linf", "eps": 8 / 255, "step_size": 2 / 255}
        start = (x + noise).clamp(0, 1)
    else:
        # steps of 2 eps / steps whatever the step size asked for, and an unclipped start
        kind = {"norm": "l2", "eps": 128 / 255, "step_size": 2 * 128 / 255 / 10, "box_first": True}
        start = x + 0.001 * noise
    x_adv = ascend(lambda z: kl_divergence(p, model(z)), x, start, steps=10, **kind)
    differs = np.abs(x_adv.detach().numpy() - golden["out_x_adv"]) > 1e-4
    assert differs.mean() < 1e-3
    np.testing.assert_allclose(model(x_adv).detach(), golden["out_logits_adv"], atol=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_reaches_the_exact_optimum_of_a_linear_model(norm: str) -> None:
    model, x = linear((1, 4, 4), 2), images(5)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    y, eps = torch.zeros(5, dtype=torch.int64), 0.2
    dual = {"linf": weight.abs().sum(), "l2": weight.norm(), "l1": weight.abs().max()}[norm]
    step = 0.02 if norm != "l1" else 0.05
    attack = PGD(norm=norm, eps=eps, step_size=step, steps=60, loss="cw", l1_sparsity=1 / 16)
    x_adv = attack(model, x, y, seed=1)
    optimum = cw_margin(model(x), y) + eps * dual
    torch.testing.assert_close(cw_margin(model(x_adv), y), optimum, atol=1e-4, rtol=1e-4)


def test_pgd_agrees_with_the_training_loop() -> None:
    model, x = tiny_conv(), images(4, (3, 8, 8))
    y = model(x).argmax(1)
    kind = {"norm": "l2", "eps": 0.3, "step_size": 0.1, "steps": 5}
    expected = ascend(lambda z: cross_entropy(model(z), y), x, x, **kind)
    torch.testing.assert_close(PGD(**kind, start="clean")(model, x, y, seed=0), expected, atol=0, rtol=0)


def test_kl_attack_is_the_inner_attack_of_trades() -> None:
    model, x = tiny_conv(), images(4, (3, 8, 8))
    y = model(x).argmax(1)
    attack = PGD(loss="kl", start="gaussian", steps=3)
    start = attack._first(x, derive_seed(5, "restart", 0), torch.arange(4))
    p = model(x).softmax(1).detach()
    kind = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 3}
    expected = ascend(lambda z: kl_divergence(p, model(z)), x, start, **kind)
    torch.testing.assert_close(attack(model, x, y, seed=5), expected, atol=0, rtol=0)


@settings(deadline=None, max_examples=15)
@given(
    norm=st.sampled_from(NORMS),
    eps=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    select=st.sampled_from(["last", "best"]),
    early_stop=st.booleans(),
    momentum=st.sampled_from([0.0, 0.9]),
)
def test_every_result_lies_in_ball_and_box_and_inputs_stay(norm, eps, seed, select, early_stop, momentum) -> None:
    model, x = tiny_conv(), images(3, (3, 8, 8), margin=0.0)
    y, before = model(x).argmax(1), x.clone()
    attack = PGD(
        norm=norm, eps=eps, step_size=0.3, steps=2, select=select, early_stop=early_stop, momentum=momentum, restarts=2
    )
    x_adv = attack(model, x, y, seed=seed)
    assert (size(x_adv - x, norm) <= eps + 1e-5).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert torch.equal(x, before)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("attack", [PGD(steps=3, eot=2), PGD(steps=3, eot=3, eot_chunk=2, early_stop=True, restarts=2)])
def test_results_do_not_depend_on_the_batch(attack: PGD) -> None:
    model, x = NoisyModel(tiny_conv(), 0.1), images(6, (3, 8, 8))
    y, index = model.model(x).argmax(1), torch.tensor([4, 9, 2, 100, 7, 3])
    together = attack(model, x, y, seed=3, index=index)
    parts = [attack(model, x[r], y[r], seed=3, index=index[r]) for r in ([4, 1], [0, 2, 5], [3])]
    order = torch.tensor([4, 1, 0, 2, 5, 3])
    # convolution kernels round differently at other batch sizes, which sign steps can only enlarge where they flip
    assert ((torch.cat(parts) - together[order]).abs() > 1e-5).float().mean() < 0.01


def test_best_iterate_is_never_worse_than_the_last() -> None:
    model, x = tiny_conv(), images(8, (3, 8, 8))
    y = model(x).argmax(1)
    kind = {"eps": 0.05, "step_size": 0.05, "steps": 7}
    last, best = (PGD(**kind, select=s)(model, x, y, seed=0) for s in ("last", "best"))
    assert (cw_margin(model(best), y) >= cw_margin(model(last), y)).all()


def test_early_stop_fools_the_same_images_with_fewer_queries() -> None:
    model, x = tiny_conv(), images(16, (3, 8, 8))
    y = model(x).argmax(1)
    seen = 0

    def counting(z):
        nonlocal seen
        seen += len(z)
        return model(z)

    wrong, counts = [], []
    for early_stop in (False, True):
        seen = 0
        x_adv = PGD(steps=20, early_stop=early_stop, select="best")(counting, x, y, seed=0)
        wrong.append(model(x_adv).argmax(1) != y)
        counts.append(seen)
    assert torch.equal(*wrong)
    assert wrong[0].any()
    assert counts[1] < counts[0]


def test_sign_step_of_published_l2_tables_is_weaker() -> None:
    model, x = linear((1, 8, 8), 2), images(4, (1, 8, 8))
    y = torch.zeros(4, dtype=torch.int64)
    # few steps: the direction of the first step decides
    kind = {"norm": "l2", "eps": 0.5, "step_size": 0.5, "steps": 1, "start": "clean", "loss": "cw"}
    normalised = cw_margin(model(PGD(**kind)(model, x, y, seed=0)), y)
    sign = cw_margin(model(PGD(**kind, l2_step="sign")(model, x, y, seed=0)), y)
    assert (normalised > sign).all()


def test_gradient_through_a_clamping_defence_is_found_inside_the_box() -> None:
    inner = linear((1, 4, 4), 2)
    white, y = torch.ones(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)

    def defence(z):
        inside = (z > 0) & (z < 1)  # derivative 0 at 1, whatever torch's clamp has there: white pixels look robust
        return inner(torch.where(inside, z, z.detach().clamp(0, 1)))

    kind = {"eps": 0.1, "step_size": 0.1, "steps": 1, "start": "clean", "loss": "cw"}
    assert torch.equal(PGD(**kind)(defence, white, y, seed=0), white)
    gain = cw_margin(inner(PGD(**kind, inset=1e-4)(defence, white, y, seed=0)), y) - cw_margin(inner(white), y)
    assert (gain > 0.1).all()


def test_soft_labels_are_raised_as_a_cross_entropy() -> None:
    model, x = tiny_conv(), images(2, (3, 8, 8))
    soft = model(x).softmax(1).detach()
    x_adv = PGD(steps=4)(model, x, soft, seed=0)
    assert (cross_entropy(model(x_adv), soft) > cross_entropy(model(x), soft)).all()
    with pytest.raises(ValueError, match="soft labels work with"):
        PGD(select="best")(model, x, soft, seed=0)


def test_the_attack_leaves_train_mode_and_global_randomness_alone() -> None:
    model, x = filled(SwishWrn()).train(), images(2, (3, 32, 32))
    state = torch.get_rng_state()
    PGD(steps=1)(model, x, torch.tensor([0, 1]), seed=0)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "must not be negative"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"norm": "l3"}, "norm must be one of linf, l2, l1"),
        ({"steps": 0}, "steps must be above 0"),
        ({"step_size": 0.0}, "step_size must be above 0"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"l1_sparsity": 0.0}, "l1_sparsity"),
    ],
)
def test_bad_hyper_parameters_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**options)


def test_bad_problems_are_refused() -> None:
    model, x, y = tiny_conv(), images(2, (3, 8, 8)), torch.tensor([0, 1])
    attack = PGD(steps=1)
    for bad_x, bad_y, error, message in [
        (x * 255, y, ValueError, "divide bytes by 255"),
        ((x * 255).byte(), y, TypeError, "divide bytes by 255"),
        (x[0], y, ValueError, "batch of images"),
        (x * float("nan"), y, ValueError, "must lie in"),
        (x, y + 9, ValueError, "label 10 is out of range: the model has 10 classes"),
        (x, y - 1, ValueError, "labels start at 0"),
        (x, y[:1], ValueError, "one label per image"),
        (x, y.int(), TypeError, "int64"),
        (x, y.to("meta"), ValueError, "move them to one device"),
    ]:
        with pytest.raises(error, match=message):
            attack(model, bad_x, bad_y, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite logits for 2 of 2"):
        attack(lambda z: model(z) * float("nan"), x, y, seed=0)
    with pytest.raises(ValueError, match="larger than any l2 distance"):
        PGD(norm="l2", eps=128.0, steps=1)(model, x, y, seed=0)
    with pytest.raises(ValueError, match="grad='tanh' is not offered"):
        PGD(grad="tanh")(model, x, y, seed=0)
    with pytest.raises(ValueError, match="reconstruction_loss"):
        PGD(reconstruction_weight=1.0)(model, x, y, seed=0)
    with pytest.raises(ValueError, match="index must be int64"):
        attack(model, x, y, seed=0, index=torch.arange(3))
