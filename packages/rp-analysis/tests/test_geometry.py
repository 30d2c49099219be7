"""Alignment and uniformity against golden files and the definition over all pairs."""

import json

import numpy as np
import pytest
import torch
from rp_analysis import alignment_loss, alignment_score, uniformity_loss, uniformity_score
from rp_testing import GOLDEN_FILES
from torch import Tensor

GOLDEN = np.load(GOLDEN_FILES / "analysis_alignment_uniformity.npz")
CASES = [case["name"] for case in json.loads(str(GOLDEN["config"]))["cases"]]


def sphere(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def all_pairs_uniformity(x: Tensor, t: float) -> Tensor:
    n = len(x)
    potentials = [torch.exp(-t * (x[i] - x[j]).square().sum()) for i in range(n) for j in range(i + 1, n)]
    return torch.stack(potentials).mean().log()


@pytest.mark.parametrize(("precision", "rel"), [("f64", 1e-10), ("f32", 1e-6)])
@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_the_reference(name: str, precision: str, rel: float) -> None:
    dtype = torch.float64 if precision == "f64" else torch.float32
    x, y = (torch.from_numpy(GOLDEN[f"in_{kind}_{name}"]).to(dtype) for kind in ("x", "xadv"))
    for alpha in (1, 2):
        expected = float(GOLDEN[f"out_align_alpha{alpha}_f64_{name}"])
        assert float(alignment_loss(x, y, alpha=alpha)) == pytest.approx(expected, rel=rel)
    for t in (2, 3):
        for view, kind in ((x, "clean"), (y, "adv")):
            expected = float(GOLDEN[f"out_uniform_t{t}_{kind}_f64_{name}"])
            assert float(uniformity_loss(view, t=t, block=100)) == pytest.approx(expected, rel=rel)


def test_uniformity_and_its_gradient_equal_the_mean_over_pairs() -> None:
    x = sphere(23, 5).requires_grad_()
    (expected,) = torch.autograd.grad(all_pairs_uniformity(x, 2.0), x)
    value = uniformity_loss(x, normalize=False, block=6)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(value, all_pairs_uniformity(x, 2.0), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_and_its_gradient_equal_the_definition(alpha: float) -> None:
    x, y = sphere(20, 4).requires_grad_(), sphere(20, 4, seed=1)
    expected = torch.stack([(x[i] - y[i]).norm() ** alpha for i in range(20)]).mean()
    value = alignment_loss(x, y, alpha=alpha, normalize=False)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (value, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_identical_views_have_zero_loss_and_zero_gradient() -> None:
    x = sphere(10, 4).requires_grad_()
    for alpha in (1.0, 2.0):
        loss = alignment_loss(x, x.detach(), alpha=alpha)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, x)[0].abs().max() == 0


def test_known_configurations_have_their_known_values() -> None:
    x = torch.eye(2, dtype=torch.float64)
    assert float(alignment_loss(x, -x)) == pytest.approx(4)
    assert float(uniformity_loss(torch.cat([x[:1], -x[:1]]))) == pytest.approx(-8)  # one antipodal pair, -4t
    assert float(uniformity_loss(torch.ones(5, 3))) == pytest.approx(0, abs=1e-6)
    assert float(uniformity_loss(sphere(400, 500))) == pytest.approx(-4, abs=0.02)  # -2t in many dimensions


def test_scores_are_the_negated_losses() -> None:
    x, y = sphere(30, 6), sphere(30, 6, seed=1)
    assert alignment_score(4 * x, y) == -float(alignment_loss(x, y))
    assert uniformity_score(x, t=1.0) == -float(uniformity_loss(x, t=1.0))


def test_values_ignore_rotation_and_the_order_of_samples() -> None:
    x, y = sphere(50, 6), sphere(50, 6, seed=1)
    generator = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(50, generator=generator)
    assert alignment_score(x[order] @ q, y[order] @ q) == pytest.approx(alignment_score(x, y), rel=1e-12)
    assert uniformity_score(x[order] @ q, block=7) == pytest.approx(uniformity_score(x), rel=1e-12)


def test_bad_input_is_refused() -> None:
    x = sphere(10, 4)
    with pytest.raises(ValueError, match="two views in one feature space"):
        alignment_loss(x, x[:, :3])
    with pytest.raises(ValueError, match="alpha must be positive"):
        alignment_loss(x, x, alpha=0)
    with pytest.raises(ValueError, match="at least 2 rows"):
        uniformity_loss(x[:1])
    with pytest.raises(ValueError, match="t and block must be positive"):
        uniformity_loss(x, t=-1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        uniformity_loss(x / 0)
