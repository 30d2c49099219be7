"""Perturbation and gradient spectra, and the data of scatter plots."""

import pytest
import torch
from rp_analysis import (
    frequency_map,
    gradient_saliency,
    perturbation_saliency,
    rank_correlation,
)
from rp_analysis.saliency import input_gradients
from torch import Tensor, nn


class Threshold(nn.Module):
    """Class 1 if the mean pixel is above one half; dropout shows whether eval mode was used."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        margin = 20 * (self.dropout(x).mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-margin, margin], dim=1)


def darken(eps: float):
    """An attack that lowers every pixel by eps."""
    return lambda model, x, y: (x - eps).clamp(0, 1)


X = torch.linspace(0.52, 0.9, 10).view(10, 1, 1, 1).expand(10, 1, 4, 4).clone()
Y = torch.ones(10, dtype=torch.int64)


def test_the_perturbation_map_is_the_mean_over_fooled_images() -> None:
    model = Threshold()
    found = perturbation_saliency(model, darken(0.2), [(X[:4], Y[:4]), (X[4:], Y[4:])])
    fooled = X.mean(dim=(1, 2, 3)) <= 0.7
    assert (found.used, found.images) == (int(fooled.sum()), 10)
    delta = darken(0.2)(model, X, Y) - X
    torch.testing.assert_close(found.spectrum, frequency_map(delta[fooled]))
    everything = perturbation_saliency(model, darken(0.2), [(X, Y)], only_successful=False, transform="dct")
    torch.testing.assert_close(everything.spectrum, frequency_map(delta, transform="dct"))
    assert model.training


def test_an_attack_that_fools_nobody_is_reported() -> None:
    with pytest.raises(ValueError, match="fooled the model on none of 10 images"):
        perturbation_saliency(Threshold(), darken(0.0), [(X, Y)])


def test_input_gradients_do_not_depend_on_the_batch_and_equal_finite_differences() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    x, y = X.double(), torch.arange(10) % 3
    gradient = input_gradients(net, x, y)
    torch.testing.assert_close(input_gradients(net, x[3:4], y[3:4]), gradient[3:4])
    step = torch.zeros_like(x[:1])
    step[0, 0, 1, 2] = 1e-6
    loss = nn.functional.cross_entropy
    slope = (loss(net(x[3:4] + step), y[3:4]) - loss(net(x[3:4] - step), y[3:4])) / 2e-6
    assert float(gradient[3, 0, 1, 2]) == pytest.approx(slope.item(), rel=1e-5)
    unit = input_gradients(net, x, y, normalize=True)
    torch.testing.assert_close(unit.flatten(1).norm(dim=1), torch.ones(10).double())
    saliency = gradient_saliency(net, [(x[:6], y[:6]), (x[6:], y[6:])])
    torch.testing.assert_close(saliency, frequency_map(unit, transform="dct"))
    assert not x.requires_grad


def test_gradients_are_taken_in_eval_mode_and_modes_are_restored() -> None:
    model = Threshold()
    model.dropout.eval()
    first, second = (input_gradients(model, X, Y) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert not model.dropout.training


def test_gradients_are_the_same_in_inference_mode() -> None:
    with torch.inference_mode():
        found = input_gradients(Threshold(), X.clone(), Y.clone())
    assert torch.equal(found, input_gradients(Threshold(), X, Y))
    assert found.abs().sum() > 0


class Scaled(nn.Module):
    """A linear network whose slopes are tiny, or infinite at black pixels."""

    def __init__(self, scale: float, power: float = 1.0) -> None:
        super().__init__()
        self.scale, self.power = scale, power

    def forward(self, x: Tensor) -> Tensor:
        margin = self.scale * x.pow(self.power).mean(dim=(1, 2, 3))
        return torch.stack([-margin, margin], dim=1)


def test_unit_gradients_have_unit_length_however_small_they_are() -> None:
    unit = input_gradients(Scaled(1e-28), X, Y, normalize=True)
    torch.testing.assert_close(unit, input_gradients(Scaled(1.0), X, Y, normalize=True))  # the softmax is flat at both
    assert not input_gradients(Scaled(0.0), X, Y, normalize=True).any()


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    x = X.clone()
    x[2, 0, 0, 0] = 0.0
    with pytest.raises(ValueError, match="gradient is not finite at 1 of 10 images"):
        input_gradients(Scaled(1.0, power=0.5), x, Y)


def test_rank_correlation_counts_order_and_shares_ranks_at_ties() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 25, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833, abs=1e-6)
    assert rank_correlation([1, 2], [5, 5]) != rank_correlation([1, 2], [5, 5])  # NaN
