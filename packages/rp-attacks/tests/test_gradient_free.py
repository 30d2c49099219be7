import pytest
import torch
from rp_attacks import SPSA, LibrarySquare, Square, Transfer
from rp_attacks.losses import cw_margin
from rp_attacks.pgd import PGD

from .models import NoisyModel, images, linear, tiny_conv


def binary(count: int = 4):
    model, x = linear((1, 4, 4), 2), images(count)
    weight = (model[1].weight[1] - model[1].weight[0]).detach()
    return model, x, torch.zeros(count, dtype=torch.int64), weight


def gain(model, x_adv, x, y) -> torch.Tensor:
    return (cw_margin(model(x_adv), y) - cw_margin(model(x), y)).detach()


def test_square_comes_near_the_optimum_of_a_linear_model() -> None:
    model, x, y, weight = binary()
    # start far from the boundary, so that no image stops early
    low = lambda z: model(z) + torch.tensor([100.0, 0.0])  # noqa: E731
    x_adv = Square(eps=0.1, queries=600, rescale_schedule=True)(low, x, y, seed=0)
    assert (gain(model, x_adv, x, y) > 0.95 * 0.1 * weight.abs().sum()).all()
    assert (x_adv - x).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("directions", ["sign", "gaussian"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_spsa_comes_near_the_optimum_without_gradients(norm: str, directions: str) -> None:
    model, x, y, weight = binary()
    attack = SPSA(eps=0.1, norm=norm, step_size=0.02, steps=30, samples=32, directions=directions)
    with torch.no_grad():
        x_adv = attack(lambda z: model(z.detach()), x, y, seed=0)
    best = 0.1 * (weight.abs().sum() if norm == "linf" else weight.norm())
    assert (gain(model, x_adv, x, y) > 0.9 * best).all()


def test_both_ends_of_a_spsa_difference_see_the_same_noise() -> None:
    model, x, y, _ = binary()
    attack = SPSA(eps=0.1, step_size=0.1, steps=1, samples=64)
    quiet, noisy = (attack(defence, x, y, seed=0) for defence in (model, NoisyModel(model, 0.03)))
    # it cancels in a linear model; a noise for each end would be twice the true difference, and turn a third of signs
    assert ((quiet - noisy).abs() > 1e-6).float().mean() < 0.02


@pytest.mark.parametrize("attack", [Square(eps=0.05, queries=20), SPSA(eps=0.05, steps=2, samples=3)])
def test_results_do_not_depend_on_the_batch(attack) -> None:
    model, x = tiny_conv(), images(5, (3, 8, 8))
    y, index = model(x).argmax(1), torch.tensor([5, 3, 8, 1, 0])
    together = attack(model, x, y, seed=1, index=index)
    parts = torch.cat([attack(model, x[r], y[r], seed=1, index=index[r]) for r in ([0], [1, 2, 3, 4])])
    assert ((together - parts).abs() > 1e-5).float().mean() < 0.02


def test_averaged_margins_are_not_fooled_by_one_lucky_pass() -> None:
    model, x = tiny_conv(), images(8, (3, 8, 8))
    y, noisy = model(x).argmax(1), NoisyModel(model, 0.05)

    def accuracy(x_adv):
        passes = [noisy.with_noise(seed=s, index=torch.arange(8))(x_adv).argmax(1) == y for s in range(100)]
        return torch.stack(passes).float().mean()

    lucky, averaged = (Square(eps=0.01, queries=60, passes=p)(noisy, x, y, seed=0) for p in (1, 10))
    assert accuracy(averaged) < accuracy(lucky)


def test_own_square_is_as_strong_as_the_library_one() -> None:
    model, x = tiny_conv(), images(24, (3, 8, 8))
    y = model(x).argmax(1)
    own, library = (
        (model(kind(eps=0.01, queries=80, rescale_schedule=True)(model, x, y, seed=0)).argmax(1) == y).sum()
        for kind in (Square, LibrarySquare)
    )
    assert abs(own - library) <= 4


def test_transfer_asks_the_source_alone() -> None:
    model, x = tiny_conv(), images(3, (3, 8, 8))
    y = model(x).argmax(1)
    attack = Transfer(PGD(steps=2), model)

    def never(z):
        raise AssertionError("the target was asked")

    assert torch.equal(attack(never, x, y, seed=0), PGD(steps=2)(model, x, y, seed=0))
    assert repr(attack) == f"Transfer(attack={PGD(steps=2)!r})"
