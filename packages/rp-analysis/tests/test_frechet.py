"""The Fréchet distance against its definition with a matrix root, closed forms, and the moments of whole samples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_analysis import GaussianMoments, frechet_distance
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d: int, rank: int, seed: int = 0) -> Tensor:
    factor = draw(d, rank, seed=seed)
    return factor @ factor.T


def by_definition(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The slow twin: the root of the product itself."""
    from scipy.linalg import sqrtm

    root = sqrtm(cov1.numpy() @ cov2.numpy())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * np.trace(root).real)


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_the_distance_equals_its_definition_with_a_matrix_root(d: int) -> None:
    means, covs = [draw(d, seed=1), draw(d, seed=2)], [covariance(d, d + 3, seed=3), covariance(d, 2 * d, seed=4)]
    expected = by_definition(means[0], covs[0], means[1], covs[1])
    # the root of an unsymmetric product loses half of the digits of its smallest eigenvalues
    assert frechet_distance(means[0], covs[0], means[1], covs[1]) == pytest.approx(expected, rel=1e-8)


def test_independent_features_have_the_closed_form() -> None:
    mean, a, b = draw(6, seed=1), draw(6, seed=2).square(), draw(6, seed=3).square()
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(mean, a.diag(), 0 * mean, b.diag()) == pytest.approx(float(expected), rel=1e-12)


def test_scaled_features_have_the_closed_form_also_where_the_covariance_is_singular() -> None:
    # x and s x + m: the root of cov * s^2 cov is s cov, whatever the rank
    cov, mean, scale = covariance(30, 4), draw(30, seed=1), 1.7
    expected = float(mean.square().sum() + (scale - 1) ** 2 * cov.trace())
    assert frechet_distance(0 * mean, cov, mean, scale**2 * cov) == pytest.approx(expected, rel=1e-12)


def test_gaussians_in_orthogonal_subspaces_share_nothing() -> None:
    a, b = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
    a[:4, :4], b[4:, 4:] = covariance(4, 2, seed=1), covariance(4, 3, seed=2)
    zero = torch.zeros(8)
    expected = float(a.trace() + b.trace())
    assert frechet_distance(zero, a, zero, b) == pytest.approx(expected, rel=1e-7)
    points = frechet_distance(zero, torch.zeros(8, 8), torch.full((8,), 2.0), torch.zeros(8, 8))
    assert points == pytest.approx(32.0)


@settings(deadline=None, max_examples=25)
@given(d=st.integers(1, 9), rank=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_distance_is_symmetric_zero_for_equals_and_blind_to_rotations(d: int, rank: int, seed: int) -> None:
    m1, m2 = draw(d, seed=seed), draw(d, seed=seed + 1)
    c1, c2 = covariance(d, rank, seed=seed + 2), covariance(d, d, seed=seed + 3)
    value = frechet_distance(m1, c1, m2, c2)
    size = float(c1.trace() + c2.trace() + m1.square().sum() + m2.square().sum())
    assert value >= 0
    assert frechet_distance(m1, c1, m1, c1) <= 1e-12 * size
    assert frechet_distance(m2, c2, m1, c1) == pytest.approx(value, abs=1e-11 * size)
    turn = torch.linalg.qr(draw(d, d, seed=seed + 4)).Q
    turned = frechet_distance(turn @ m1, turn @ c1 @ turn.T, turn @ m2, turn @ c2 @ turn.T)
    assert turned == pytest.approx(value, abs=1e-7 * size)  # roots of eigenvalues at the rounding of the largest


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e6]))
def test_moments_are_those_of_the_whole_sample_whatever_the_batches(sizes: list[int], offset: float) -> None:
    x = draw(sum(sizes) + 2, 3) + offset
    moments, others = GaussianMoments(), GaussianMoments()
    moments.update(x[:2])
    for batch in x[2:].split(sizes):
        others.update(batch)
    moments.merge(others)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.mean.numpy(), x.mean(dim=0).numpy(), rtol=1e-12)
    # an offset of 1e6 leaves 10 digits to the deviations; sums of squares would leave 4
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-7, atol=1e-9)


def test_moments_of_float32_features_are_computed_in_float64_and_leave_the_features_alone() -> None:
    x = draw(50, 4).float()
    before, moments = x.clone(), GaussianMoments()
    moments.update(x)
    assert torch.equal(x, before)
    assert moments.mean.dtype == moments.covariance.dtype == torch.float64
    torch.testing.assert_close(moments.covariance, torch.cov(x.double().T), rtol=1e-12, atol=1e-12)


def test_samples_of_one_distribution_come_closer_with_their_number() -> None:
    x, y = draw(4000, 5, seed=1), draw(4000, 5, seed=2)
    few, many = (moments_of(x[:n]).distance(moments_of(y[:n])) for n in (40, 4000))
    assert 0 < many < few / 10


def moments_of(x: Tensor) -> GaussianMoments:
    moments = GaussianMoments()
    moments.update(x)
    return moments


def test_bad_input_is_refused_in_words() -> None:
    mean, cov, empty = torch.zeros(3), torch.eye(3), GaussianMoments()
    with pytest.raises(ValueError, match="no features were taken in yet"):
        _ = empty.mean
    with pytest.raises(ValueError, match="at least 2 samples, got 0"):
        _ = empty.covariance
    three = moments_of(draw(4, 3))
    with pytest.raises(ValueError, match="expected 3 features as in the batches before, got 2"):
        three.update(draw(4, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        empty.update(torch.full((2, 2), torch.nan))
    with pytest.raises(TypeError, match="floating-point features"):
        empty.update(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="same length, got 3 and 2"):
        frechet_distance(mean, cov, torch.zeros(2), torch.eye(2))
    with pytest.raises(ValueError, match=r"cov2 must have shape \(3, 3\)"):
        frechet_distance(mean, cov, mean, torch.eye(2))
    with pytest.raises(ValueError, match="cov1 must be symmetric"):
        frechet_distance(mean, torch.eye(3).roll(1, 0), mean, cov)
    with pytest.raises(ValueError, match="cov2 has the eigenvalue -1"):
        frechet_distance(mean, cov, mean, -cov)
    with pytest.raises(ValueError, match="cov1 holds NaN"):
        frechet_distance(mean, cov * torch.nan, mean, cov)
    with pytest.raises(ValueError, match="mean1 must be a finite vector"):
        frechet_distance(mean[None], cov, mean, cov)
