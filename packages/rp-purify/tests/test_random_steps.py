"""The control of sign descent: as far as it, in no direction."""

import pytest
import rp_models
import torch
from rp_purify import MAEPure
from rp_purify.random_steps import RandomSteps


def images(count=3):
    index = torch.arange(count)
    return 0.2 + 0.6 * rp_models.noise.uniform((1, 8, 8), seed=0, purpose="images", index=index)


def test_one_step_has_the_size_of_a_step_of_mae_pure_and_both_signs() -> None:
    x = images()
    sizes = {"step_size": 0.03, "steps": 1, "eta": 0.1, "halve": False}
    moved = RandomSteps(**sizes)(x, seed=1, index=torch.arange(3)) - x
    guided = MAEPure(rp_models.load("mae-digits"), mask_rate=0.5, **sizes)(x, seed=1, index=torch.arange(3)) - x
    torch.testing.assert_close(moved.abs(), torch.full_like(x, 0.03), rtol=0, atol=1e-6)  # rounding of one sum
    assert guided.abs().max() <= 0.03 + 1e-6
    assert 0.3 < float((moved > 0).float().mean()) < 0.7


def test_the_ball_holds_batches_do_not_matter_and_the_gradient_is_one_inside() -> None:
    purifier = RandomSteps(step_size=0.05, steps=8, eta=0.06)
    x = images().requires_grad_()
    purified = purifier(x, seed=2, index=torch.tensor([4, 5, 6]))
    assert float((purified - x).detach().abs().max()) <= 0.06 + 1e-6
    assert torch.equal(purifier(x[1:2], seed=2, index=torch.tensor([5])), purified[1:2])
    assert not torch.equal(purifier(x, seed=3, index=torch.tensor([4, 5, 6])), purified)
    (gradient,) = torch.autograd.grad(purified.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


@pytest.mark.parametrize("changes", [{"step_size": 3}, {"steps": -1}, {"eta": 8}])
def test_settings_out_of_range_are_refused(changes) -> None:
    with pytest.raises(ValueError, match=r"step_size and eta are in units|steps must not be negative"):
        RandomSteps(**{"step_size": 0.01, "steps": 2, "eta": 0.1, **changes})
