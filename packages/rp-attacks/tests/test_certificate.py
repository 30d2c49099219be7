"""Certificates: against closed forms, scipy's intervals and a slow loop; they are independent of batches."""

import math
from statistics import NormalDist

import pytest
import torch
from rp_attacks import noise
from rp_attacks.certificate import ABSTAINED, Certificates, certify, vote
from rp_attacks.intervals import clopper_pearson_lower
from torch import Tensor

STD = 0.25


class NoisyLinear:
    """A linear classifier of two classes behind Gaussian noise: what it certifies is known exactly."""

    def __init__(self, weight: Tensor, bias: float, std: float = STD) -> None:
        self.weight, self.bias, self.std = weight, bias, std

    def _logits(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.weight + self.bias
        return torch.stack([value, -value], dim=1)

    def with_noise(self, *, seed: int, index: Tensor):
        def noisy(x: Tensor) -> Tensor:
            draw = noise.normal(x.shape[1:], seed=seed, purpose="noise", index=index, like=x)
            return self._logits(x + self.std * draw)

        return noisy

    def __call__(self, x: Tensor) -> Tensor:
        return self.with_noise(seed=0, index=torch.arange(len(x)))(x)


@pytest.fixture
def problem():
    weight = torch.linspace(-1.0, 1.0, 12)
    x = torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return NoisyLinear(weight / weight.norm(), -0.1), x


def test_a_linear_classifier_is_certified_up_to_its_distance_and_not_beyond(problem) -> None:
    model, x = problem
    distance = x.flatten(1) @ model.weight + model.bias  # to the boundary, the weight being a unit vector
    y = (distance < 0).long()
    found = certify(model, x, y, std=STD, n0=20, n=4000, seed=1)
    clear = distance.abs() > 0.1
    assert bool(clear.any())
    assert torch.equal(found.predicted[clear], y[clear])
    # the true radius is the distance; the bound is below it, by what 4,000 draws leave open
    assert bool((found.radius <= distance.abs() + 1e-6).all())
    share = torch.tensor([NormalDist().cdf(float(d) / STD) for d in distance.abs()])
    spread = (share * (1 - share) / 4000).sqrt()
    weakest = torch.tensor(
        [NormalDist().inv_cdf(max(float(p - 7 * s) - 0.002, 1e-9)) for p, s in zip(share, spread, strict=True)]
    )
    assert bool((found.radius[clear] >= STD * weakest[clear]).all())


def test_batches_and_order_change_nothing(problem) -> None:
    model, x = problem
    y = torch.zeros(len(x), dtype=torch.int64)
    options = {"std": STD, "n0": 10, "n": 300, "seed": 3}
    whole = certify(model, x, y, batch_size=7, **options)
    alone = certify(model, x[4:5], y[4:5], index=torch.tensor([4]), batch_size=1000, **options)
    assert torch.equal(whole.lower[4:5], alone.lower)
    assert torch.equal(whole.predicted[4:5], alone.predicted)
    assert not torch.equal(whole.lower, certify(model, x, y, **options | {"seed": 4}).lower)


def test_counts_are_those_of_a_slow_loop(problem) -> None:
    model, x = problem
    model.bias = 0.25 - float(x[0].flatten() @ model.weight)  # one standard deviation from the boundary
    found = certify(model, x[:1], torch.tensor([0]), std=STD, n0=10, n=50, seed=5, index=torch.tensor([7]))
    seed = noise.derive_seed(5, "certificate, count")
    wins = 0
    for draw in range(50):
        logits = model.with_noise(seed=seed, index=torch.tensor([7 + draw * (2**31 - 1)]))(x[:1])
        wins += int(logits.argmax()) == int(found.predicted[0])
    assert 25 < wins < 50
    assert float(found.lower[0]) == pytest.approx(clopper_pearson_lower(wins, 50, 0.001), abs=1e-12)


def test_an_unclear_vote_abstains_and_is_never_right() -> None:
    model, x = NoisyLinear(torch.zeros(12), 0.0), torch.zeros(2, 3, 2, 2)
    model._logits = lambda x: torch.stack([x.sum(dim=(1, 2, 3)), -x.sum(dim=(1, 2, 3))], dim=1)  # even odds
    found = certify(model, x, torch.tensor([0, 1]), std=STD, n0=10, n=500, seed=0)
    assert found.predicted.tolist() == [ABSTAINED] * 2
    assert found.abstained == 1.0
    assert found.accuracy(0.0).estimate == 0.0
    assert vote(model, x, n=50, seed=0).tolist() == [ABSTAINED] * 2


def test_the_curve_counts_right_and_certified_images() -> None:
    found = Certificates(
        torch.tensor([0, 1, ABSTAINED, 1]),
        torch.tensor([0.5, 0.2, 0.0, 0.9]).double(),
        torch.ones(4).double(),
        torch.tensor([0, 1, 1, 0]),
    )
    assert [point.estimate for point in found.curve((0.0, 0.3, 0.6))] == [0.5, 0.25, 0.0]
    assert found.abstained == 0.25


def test_votes_are_certain_where_all_passes_agree(problem) -> None:
    model, x = problem
    model.bias = 5.0
    assert vote(model, x, n=30, seed=0).tolist() == [0] * len(x)


def test_wrong_arguments_are_told_in_a_sentence(problem) -> None:
    model, x = problem
    y = torch.zeros(len(x), dtype=torch.int64)
    with pytest.raises(TypeError, match="with_noise"):
        certify(lambda x: x.flatten(1), x, y, std=STD, seed=0)
    with pytest.raises(ValueError, match="std > 0"):
        certify(model, x, y, std=0.0, seed=0)
    model.bias = math.nan
    with pytest.raises(ValueError, match="not finite"):
        certify(model, x, y, std=STD, n0=5, n=5, seed=0)
