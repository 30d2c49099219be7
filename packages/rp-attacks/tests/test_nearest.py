"""Minimum-norm attacks: their references' images, exact distances, and what their results mean."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rp_attacks import CarliniWagner, DeepFool, accuracy_curve
from rp_attacks.alma import ALMA, slope
from rp_attacks.ddn import DDN
from rp_attacks.fmn import FMN
from rp_attacks.losses import cw_margin, misclassified
from rp_attacks.minimum_norm import Best, approach, local_optimality
from rp_attacks.norms import pixels, project, random_start, size
from rp_attacks.sigma_zero import SigmaZero
from rp_attacks.super_deepfool import SuperDeepFool

from .models import NoisyModel, images, linear, load_golden, tiny_conv
from .test_minimum_norm import boundary_distances

# settings of the reference, adversarial-library: without the bisections and the limits of this package
FMN_AS_THERE = {"steps": 50, "reach": None, "bisections": 0, "lengthen": True}
REFERENCE = {
    "fmn_l2": FMN(norm="l2", **FMN_AS_THERE),
    "fmn_linf": FMN(norm="linf", **FMN_AS_THERE),
    "fmn_l1": FMN(norm="l1", **FMN_AS_THERE),
    "fmn_l0": FMN(norm="l0", **FMN_AS_THERE),
    "ddn": DDN(steps=50, first_length=1.0, bisections=0),
    "ddn_q256": DDN(steps=50, first_length=1.0, levels=256),
    "alma_l2": ALMA(norm="l2", steps=100, first_distance=0.1, bisections=0),
    "alma_l1": ALMA(norm="l1", steps=100, first_distance=0.5, bisections=0),
    "sdf": SuperDeepFool(steps=20, deepfool_steps=20),
    "sigma_zero": SigmaZero(steps=100, bisections=0),
}


def golden_problem():
    golden = load_golden("rb_minnorm_tinyconv")
    return golden, tiny_conv(), torch.from_numpy(golden["in_x"]), torch.from_numpy(golden["in_y"])


@pytest.mark.parametrize("name", REFERENCE)
def test_every_attack_finds_what_its_reference_finds(name: str) -> None:
    golden, model, x, y = golden_problem()
    found = REFERENCE[name].search(model, x, y, seed=0)
    np.testing.assert_array_equal(found.distance.isfinite(), golden[f"out_{name}_success"])
    ok = found.distance.isfinite().numpy()
    if name == "alma_l1":
        ok &= False  # below, within what rounding does to it
    absolute = 0 if name == "sigma_zero" else 1e-3 if name.startswith("alma") else 1e-4
    np.testing.assert_allclose(found.distance[ok], golden[f"out_{name}_norm"][ok], atol=absolute, rtol=0)
    if not name.startswith(("alma", "sigma", "fmn_l1")):
        np.testing.assert_allclose(found.images, golden[f"out_{name}_x"], atol=1e-4)


def test_alma_in_l1_is_its_reference_up_to_what_a_change_of_1e_7_in_the_images_does() -> None:
    """The signs of L1's gradient jump where a value is nearly unchanged, and a hundred steps amplify the jumps."""
    golden, model, x, y = golden_problem()
    attack, runs = REFERENCE["alma_l1"], []
    for seed in range(6):
        moved = x + 1e-7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        runs.append(attack.search(model, moved.clamp(0, 1), y, seed=0).distance.numpy())
    low, high = np.min(runs, axis=0), np.max(runs, axis=0)
    theirs = golden["out_alma_l1_norm"]
    assert (low - 1e-3 <= theirs).all()
    assert (theirs <= high + 1e-3).all()
    steady = high - low <= 1e-3
    assert 3 <= steady.sum() < 8  # the others are decided by rounding, the reference's own too
    np.testing.assert_allclose(runs[0][steady], theirs[steady], atol=1e-3, rtol=0)
    assert (high - low).max() > 0.05


@pytest.mark.parametrize("name", REFERENCE)
def test_the_defaults_find_every_image_at_most_as_far_as_the_reference(name: str) -> None:
    golden, model, x, y = golden_problem()
    kind = type(REFERENCE[name])
    attack = kind(norm=REFERENCE[name].norm, steps=200) if kind in (FMN, ALMA) else kind(steps=100)
    found = attack.search(model, x, y, seed=0)
    assert misclassified(model(found.images), y).all()
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    torch.testing.assert_close(size(found.images - x, attack.norm), found.distance)
    theirs = np.where(golden[f"out_{name}_success"], golden[f"out_{name}_norm"], np.inf)
    # another way to the boundary may end at another place of it, a little farther in one image
    assert (found.distance.numpy() <= 1.02 * theirs + 1e-5).all()


LINEAR = [
    (FMN(norm="l2"), 2), (FMN(norm="linf"), 1), (FMN(norm="l1"), math.inf), (DDN(), 2), (SuperDeepFool(), 2),
    (ALMA(steps=200), 2), (ALMA(norm="l1", steps=300), math.inf),
]  # fmt: skip


@pytest.mark.parametrize(("attack", "dual"), LINEAR)
def test_distances_to_a_linear_boundary_are_exact(attack, dual: float) -> None:
    model, x = linear((1, 4, 4), 4), images(16)
    y = model(x).argmax(1)
    distance = attack.search(model, x, y, seed=0).distance
    exact = boundary_distances(model, x, y, dual)
    assert (distance >= exact * (1 - 1e-4)).all()
    inside = exact < 0.25 if attack.norm in ("l1", "linf") else exact > 0  # where no value meets the bound of the box
    assert inside.any()
    # ALMA's momentum swings about the boundary, and FMN's Linf steps, which are no signs, leave small slopes unused
    tolerance = 0.1 if isinstance(attack, ALMA) or attack.norm == "linf" else 0.02
    torch.testing.assert_close(distance[inside], exact[inside], rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize("attack", [FMN(norm="l0", eps=9), SigmaZero(steps=300, eps=9)])
def test_as_few_values_change_as_a_linear_model_needs(attack) -> None:
    model, x = linear((2, 3, 3), 2, seed=1), images(8, (2, 3, 3))
    y = model(x).argmax(1)
    found = attack.search(model, x, y, seed=0)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    toward = torch.where(y == 0, 1.0, -1.0)[:, None] * weight  # what raises the wrong class
    gain = torch.where(toward > 0, 1 - x.flatten(1), x.flatten(1)) * toward.abs()
    lead = -(x.flatten(1) * toward).sum(1)
    least = (gain.sort(1, descending=True).values.cumsum(1) < lead[:, None]).sum(1) + 1
    assert (found.distance >= least).all()
    assert (found.distance <= least + 1).all()
    assert (found.distance == least).float().mean() >= 0.25
    assert (pixels(found.images - x) <= found.distance).all()
    assert (pixels(found.images - x) >= found.distance / 2).all()


@pytest.mark.parametrize("name", REFERENCE)
def test_an_image_is_attacked_alike_alone_and_with_noise_that_is_its_own(name: str) -> None:
    _, model, x, y = golden_problem()
    kind = type(REFERENCE[name])
    extra = {"norm": REFERENCE[name].norm} if kind in (FMN, ALMA) else {}
    attack, noisy, index = kind(steps=4, eot=2, **extra), NoisyModel(model, 0.02), torch.tensor([9, 3, 4])
    together = attack.search(noisy, x[:3], y[:3], seed=5, index=index)
    alone = [attack.search(noisy, x[[r]], y[[r]], seed=5, index=index[[r]]) for r in range(3)]
    # kernels round differently at other batch sizes
    torch.testing.assert_close(together.distance, torch.cat([one.distance for one in alone]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "attack", [FMN(steps=3), DDN(steps=3), ALMA(steps=3), SuperDeepFool(steps=2), SigmaZero(steps=3)]
)
def test_wrong_clean_images_are_at_distance_zero_and_failures_at_infinity(attack) -> None:
    model, x = tiny_conv(), images(4, (3, 8, 8))
    y = (model(x).argmax(1) + 1) % 10
    found = attack.search(model, x, y, seed=0)
    assert torch.equal(found.distance, torch.zeros(4))
    assert torch.equal(found.images, x)

    def stubborn(z):
        return 0 * model(z) + torch.nn.functional.one_hot(torch.full((len(z),), 2), 10)

    found = attack.search(stubborn, x, torch.full((4,), 2), seed=0)
    assert found.distance.isinf().all()
    assert torch.equal(found.images, x)


def test_the_bisection_ends_at_the_boundary_and_asks_about_found_images_alone() -> None:
    model, x = linear((1, 4, 4), 2), images(5)
    y = model(x).argmax(1)
    far = DeepFool(overshoot=0.9, eps=1.0).search(model, x, y, seed=0)
    best, asked = Best(x, "l2"), []
    best.see(far, torch.tensor([True, True, False, True, True]))

    def counted(z):
        asked.append(len(z))
        return model(z)

    found = approach(counted, y, best, steps=12, seed=0, index=torch.arange(5))
    rows = torch.tensor([0, 1, 3, 4])
    margin = cw_margin(model(found.images), y)[rows]
    assert (margin >= 0).all()
    assert (margin <= cw_margin(model(far), y)[rows] / 500).all()  # 12 halvings of the way
    assert found.distance[2].isinf()
    assert asked == [4] * 12


def test_the_curve_of_a_minimum_norm_attack_is_that_of_its_distances() -> None:
    model, x = linear((1, 4, 4), 2), images(50)
    y = model(x).argmax(1)
    radii = [0.0, 0.02, 0.05, 0.1, 0.2]
    exact = boundary_distances(model, x, y, 2)
    for attack in (SuperDeepFool(), CarliniWagner(search_steps=6, steps=150, initial_c=0.01)):
        points = accuracy_curve(model, x, y, attack, radii, seed=0, batch_size=20)
        right = [point.accuracy.estimate for point in points]
        assert right == sorted(right, reverse=True)
        assert right == pytest.approx([(exact > eps).float().mean().item() for eps in radii], abs=0.021)  # one image


@given(st.integers(0, 12), st.integers(0, 50))
def test_an_l0_ball_keeps_the_largest_changes(count: int, seed: int) -> None:
    x = images(3, (1, 2, 5), seed=seed)
    x_adv = images(3, (1, 2, 5), seed=seed + 100)
    inside = project(x_adv, x, norm="l0", eps=count)
    kept = inside != x
    assert (size(inside - x, "l0") == min(count, 10)).all()
    assert torch.equal(inside[kept], x_adv[kept])
    change = (x_adv - x).abs()
    for row in range(3):
        if kept[row].any() and not kept[row].all():
            assert change[row][kept[row]].min() >= change[row][~kept[row]].max()
    start = random_start(x, norm="l0", eps=count, seed=seed, index=torch.arange(3))
    assert (size(start - x, "l0") <= count).all()


def test_l0_stands_beside_the_other_norms_in_results_and_is_refused_where_nothing_ascends() -> None:
    from rp_attacks import PGD

    model, x = linear((1, 4, 4), 2), images(5)
    y = model(x).argmax(1)
    result = SigmaZero(steps=50, eps=3).run(model, x, y, seed=0)
    assert torch.equal(result.distance, size(result.images - x, "l0"))
    assert (result.distance <= 3).all()
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, got 'l0'"):
        PGD(norm="l0", eps=3)
    with pytest.raises(ValueError, match="larger than any l0 distance"):
        SigmaZero(eps=17)(model, x, y, seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMN(norm="l3"), "norm must be one of"),
        (lambda: FMN(gamma=0.0001), "final_gamma"),
        (lambda: FMN(reach=-1.0), "reach must be above 0"),
        (lambda: DDN(levels=1), "levels must be at least 2"),
        (lambda: DDN(gamma=1.5), "gamma must lie"),
        (lambda: ALMA(norm="linf"), "norm must be one of l2, l1"),
        (lambda: ALMA(momentum=1.0), "momentum"),
        (lambda: SigmaZero(threshold=2.0), "threshold"),
        (lambda: SuperDeepFool(candidates=1), "candidates"),
    ],
)
def test_impossible_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(0.1, 5))
def test_almas_slope_is_the_derivative_of_its_penalty(y: float, rho: float, mu: float) -> None:
    at = torch.tensor(y, dtype=torch.float64, requires_grad=True)
    below = mu * at / (1 - rho * at.clamp(max=0))
    value = torch.where(at >= 0, mu * at + mu * rho * at**2 + rho**2 * at**3 / 6, below)
    (slow,) = torch.autograd.grad(value, at)
    torch.testing.assert_close(slope(at.detach(), *torch.tensor([rho, mu], dtype=torch.float64)), slow)


@given(st.lists(st.lists(st.floats(0.01, 2) | st.just(math.inf), min_size=4, max_size=4), min_size=2, max_size=4))
def test_local_optimality_compares_areas_under_the_curves(rows: list[list[float]]) -> None:
    distances = {f"attack {number}": [0.0, *row] for number, row in enumerate(rows)}
    distances["one"] = [0.0, 1.0, 1.0, 1.0, 0.5]
    best = np.min([*distances.values()], axis=0)
    limit = best[np.isfinite(best)].max()
    grid = (np.arange(2000) + 0.5) / 2000 * limit

    def area(row: list[float]) -> float:
        return float((np.array(row)[:, None] > grid).mean()) * limit

    room = 0.8 * limit - area(best)
    for name, value in local_optimality(distances).items():
        assert value <= 1
        if room > 0.01:
            assert value == pytest.approx(1 - (area(distances[name]) - area(best)) / room, abs=0.1)
    with pytest.raises(ValueError, match="no attack found"):
        local_optimality({"a": [math.inf]})
    with pytest.raises(ValueError, match="numbers from 0 on"):
        local_optimality({"a": [math.nan]})
    with pytest.raises(ValueError, match="the same images"):
        local_optimality({"a": [1.0], "b": [1.0, 2.0]})
