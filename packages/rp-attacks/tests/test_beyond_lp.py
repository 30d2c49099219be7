"""Patches and shifts of pixels: what they may change, that they rise, and that batches change nothing."""

import pytest
import torch
from rp_attacks.beyond_lp import Patch, StAdv, accuracy_under

from .models import NoisyModel, images, tiny_conv

ATTACKS = {
    "patch": Patch(side=4, steps=10),
    "middle": Patch(side=4, steps=5, place="middle"),
    "stadv": StAdv(steps=10, bound=0.3),
}


@pytest.fixture
def problem():
    model, x = tiny_conv(), images(6, (3, 8, 8))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("kind", ATTACKS)
def test_alone_as_in_a_batch_in_the_box_and_without_gradients_for_parameters(problem, kind) -> None:
    model, x, y = problem
    whole = ATTACKS[kind](model, x, y, seed=3)
    alone = ATTACKS[kind](model, x[4:5], y[4:5], seed=3, index=torch.tensor([4]))
    assert torch.allclose(whole[4:5], alone, atol=1e-5)  # convolutions of other batches round differently
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(whole, x)


def test_a_patch_changes_one_square(problem) -> None:
    model, x, y = problem
    made = Patch(side=3, steps=4)(model, x, y, seed=0)
    places = set()
    for before, after in zip(x, made, strict=True):
        rows, columns = (before != after).any(dim=0).nonzero().T
        assert rows.max() - rows.min() < 3
        assert columns.max() - columns.min() < 3
        places.add((int(rows.min()), int(columns.min())))
    assert len(places) > 1  # each image has its own
    middle = Patch(side=4, steps=2, place="middle")(model, x, y, seed=0)
    assert torch.equal(middle[:, :, :2], x[:, :, :2])
    assert torch.equal(middle[:, :, 6:], x[:, :, 6:])


def test_a_flow_keeps_flat_images_and_stays_in_its_bound(problem) -> None:
    model, x, y = problem
    flat = torch.full_like(x, 0.3)  # there is nothing to shift
    assert torch.allclose(StAdv(steps=5, bound=0.5)(model, flat, y, seed=0), flat, atol=1e-6)
    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8).contiguous()
    made = StAdv(steps=20, bound=0.1, smoothness=0.0)(model, ramp, y[:1], seed=0)
    assert float((made - ramp).abs().max()) <= 0.1 * 7 / 2 / 7 + 1e-6  # a shift of 0.35 pixels on a slope of 1/7


def test_the_penalty_is_the_length_of_differences_in_pixels() -> None:
    flow = torch.zeros(1, 3, 3, 2)
    flow[0, 1, 1, 0] = 1.0  # a pixel to the right, among four neighbours that stay
    penalty = StAdv(smoothness=0.5)._penalty(flow)
    assert float(penalty) == pytest.approx(0.5 * 2 * 4, abs=1e-2)  # the root of 1e-8 of the other pairs


@pytest.mark.parametrize("kind", ATTACKS)
def test_more_steps_break_more_and_a_random_defence_is_attacked_too(problem, kind) -> None:
    model, x, y = problem
    right = accuracy_under(ATTACKS[kind], model, x, y, seed=0, index=torch.arange(len(x)))
    assert int(right.sum()) < len(x)
    noisy = NoisyModel(model, 0.05)
    assert accuracy_under(ATTACKS[kind], noisy, x, y, seed=0, index=torch.arange(len(x))).shape == y.shape


def test_a_patch_that_does_not_fit_is_refused(problem) -> None:
    model, x, y = problem
    with pytest.raises(ValueError, match="does not fit"):
        Patch(side=9)(model, x, y, seed=0)
    with pytest.raises(ValueError, match="side must be above 0"):
        Patch(side=0)
