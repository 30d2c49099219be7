import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from rp_attacks.clamping import clamp
from rp_attacks.norms import NORMS, ascent_step, project, project_l1, project_l1_in_box, random_start, size
from rp_testing import golden_input

from .models import images, load_golden


def bisected_l1_in_box(delta: torch.Tensor, x: torch.Tensor, eps: float) -> torch.Tensor:
    """The obvious twin: bisection on the multiplier, image by image."""
    result = torch.empty_like(delta, dtype=torch.float64)
    for row, (d, centre) in enumerate(zip(delta.double(), x.double(), strict=True)):
        room = torch.where(d > 0, 1 - centre, centre)

        def at(theta: float, d=d, room=room) -> torch.Tensor:
            return d.sign() * torch.minimum((d.abs() - theta).clamp_min(0), room)

        low, high = 0.0, d.abs().max().item()
        if at(0.0).abs().sum() > eps:
            for _ in range(100):
                middle = (low + high) / 2
                low, high = (middle, high) if at(middle).abs().sum() > eps else (low, middle)
        result[row] = at(low)
    return result.to(delta.dtype)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.0, 12.0), spread=st.floats(0.01, 3.0))
def test_l1_projection_into_the_box_equals_bisection(seed: int, eps: float, spread: float) -> None:
    x = images(3, (1, 3, 3), seed=seed, margin=0.0)
    delta = spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    exact = project_l1_in_box(delta, x, eps)
    torch.testing.assert_close(exact, bisected_l1_in_box(delta, x, eps), atol=1e-6, rtol=0)  # float32 result


def test_l1_projection_into_the_box_is_that_of_apgd() -> None:
    golden = load_golden("attacks_tinyconv")
    x = torch.from_numpy(golden["in_x"])
    delta = torch.from_numpy(golden_input("attacks_tinyconv/delta", (8, 3, 8, 8), -0.5, 0.5))
    expected = torch.from_numpy(golden["out_aa_l1_projection"])
    torch.testing.assert_close(project_l1_in_box(delta, x, 4.0), expected, atol=1e-5, rtol=0)


def test_l1_projection_of_a_known_point() -> None:
    delta = torch.tensor([[3.0, -1.0, 0.0], [0.2, 0.1, -0.1]])
    expected = torch.tensor([[2.0, 0.0, 0.0], [0.2, 0.1, -0.1]])
    torch.testing.assert_close(project_l1(delta, 2.0), expected)


@settings(deadline=None, max_examples=40)
@given(norm=st.sampled_from(NORMS), seed=st.integers(0, 10**6), eps=st.floats(0.0, 2.0), box_first=st.booleans())
def test_projection_is_feasible_idempotent_and_fixes_feasible_points(norm, seed, eps, box_first) -> None:
    x = images(4, (1, 3, 3), seed=seed, margin=0.0)
    moved = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    for l1_box in (False, True):
        once = project(moved, x, norm=norm, eps=eps, box_first=box_first, l1_box=l1_box)
        again = project(once, x, norm=norm, eps=eps, box_first=box_first, l1_box=l1_box)
        assert (size(once - x, norm) <= eps + 1e-5).all()
        assert once.min() >= 0
        assert once.max() <= 1
        torch.testing.assert_close(again, once, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), eps=st.floats(0.1, 2.0))
def test_ball_projections_do_not_expand(seed: int, eps: float) -> None:
    a, b = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(seed))
    assert (size(project_l1(a, eps) - project_l1(b, eps), "l2") <= size(a - b, "l2") + 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball(norm: str) -> None:
    x = torch.full((400, 1, 2, 2), 0.5)
    start = random_start(x, norm=norm, eps=0.1, seed=0, index=torch.arange(400))
    radius = size(start - x, norm) / 0.1
    assert radius.max() <= 1 + 1e-5
    # a uniform point of a d-ball has radius u^(1/d): with d = 4 half of the points lie beyond 0.84
    assert abs((radius > 0.5**0.25).float().mean() - 0.5) < 0.08
    assert (start - x).mean().abs() < 0.01


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_belong_to_images_not_to_batches(norm: str) -> None:
    x = images(4)
    kind = {"norm": norm, "eps": 0.1, "seed": 5}
    together = random_start(x, index=torch.tensor([3, 1, 4, 2]), **kind)
    alone = random_start(x[2:3], index=torch.tensor([4]), **kind)
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(random_start(x[2:3], index=torch.tensor([5]), **kind), alone)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_has_its_length_and_raises_the_loss(norm: str) -> None:
    grad = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    step = ascent_step(grad, torch.full_like(grad, 0.5), norm=norm, step_size=0.3, sparsity=0.1)
    torch.testing.assert_close(size(step, norm), torch.full((3,), 0.3))
    assert ((step * grad).flatten(1).sum(1) > 0).all()
    assert torch.equal(ascent_step(0 * grad, grad, norm=norm, step_size=0.3), 0 * grad)


def test_an_l1_step_skips_pixels_that_cannot_move() -> None:
    at, grad = torch.tensor([[[[1.0, 0.5]]]]), torch.tensor([[[[5.0, 1.0]]]])
    step = ascent_step(grad, at, norm="l1", step_size=1.0, sparsity=0.5)
    torch.testing.assert_close(step, torch.tensor([[[[0.0, 1.0]]]]))


def test_clamp_lets_gradients_through_on_the_closed_interval() -> None:
    x = torch.tensor([-0.5, 0.0, 0.3, 1.0, 1.5], requires_grad=True)
    y = clamp(x)
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 0.0, 0.3, 1.0, 1.0]))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert grad.tolist() == [0, 1, 1, 1, 0]
