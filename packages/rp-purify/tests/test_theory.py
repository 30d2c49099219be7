import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.mask import Mask, random_mask
from rp_purify.inequality_constants import inequality_constants
from rp_purify.theory import decoder_kernel_variation, descent_bound, kernel_variation, reconstruction_inequality
from torch import Tensor

from .models import tiny_images, tiny_mae


def _layer(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs (5, 6), their direction of change, and weights of a head of width 4."""
    z, direction = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    w_q, w_k = (0.3 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return z, direction, w_q, w_k


def test_theorem_3_1_approximates_the_variation_of_unnormalised_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    z, direction, w_q, w_k = _layer(generator)
    small = kernel_variation(z, 1e-3 * direction, w_q, w_k, features=200_000, generator=generator)
    # Monte Carlo over 200,000 features: a few per cent
    assert float(small.approximation) == pytest.approx(float(small.kernel), rel=0.1)
    assert float(small.first_order) == pytest.approx(float(small.kernel), rel=0.01)
    # first order: ten times the shift, more than a hundred times the error, which features cannot explain
    large = kernel_variation(z, 3.0 * direction, w_q, w_k, features=200_000, generator=generator)
    assert abs(large.approximation / large.kernel - 1) > 0.2
    assert float(large.approximation) == pytest.approx(float(large.first_order), rel=0.1)
    # softmax divides by the row sums, so its variation is smaller: the theorem is not about it
    assert small.softmax < 0.5 * small.kernel


def test_theorem_3_1_agrees_with_its_formula_written_out() -> None:
    z, delta, w_q, w_k = _layer(torch.Generator().manual_seed(1))
    result = kernel_variation(z, delta, w_q, w_k, features=7, generator=torch.Generator().manual_seed(2))
    omega = torch.randn(7, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    entries = []
    for i in range(5):
        for j in range(5):
            q, dq = z[i] @ w_q / math.sqrt(2), delta[i] @ w_q / math.sqrt(2)  # 4 ** 0.25 is sqrt(2)
            k, dk = z[j] @ w_k / math.sqrt(2), delta[j] @ w_k / math.sqrt(2)
            weights = torch.stack([torch.exp(w @ (q + k)) for w in omega])
            b, y = weights.sum(), sum(weight * w for weight, w in zip(weights, omega, strict=True))
            gamma = torch.exp(-(q @ q + k @ k) / 2) / 7
            entries.append(gamma * ((y - b * q) @ dq + (y - b * k) @ dk))
    assert float(result.approximation) == pytest.approx(float(torch.stack(entries).norm()), rel=1e-10)


def test_theorem_3_1_on_images_looks_at_every_head_of_the_decoder() -> None:
    mae, x = tiny_mae(), tiny_images()
    other = (x + 0.05).clamp(0, 1)
    mask = random_mask(torch.rand(3, 16, generator=torch.Generator().manual_seed(0)), 0.5)
    generator = torch.Generator().manual_seed(1)
    layers = decoder_kernel_variation(mae, x, other, mask, features=50_000, generator=generator)
    maps = zip(mae.attention_maps(x, mask), mae.attention_maps(other, mask), strict=True)
    for layer, (before, after) in zip(layers, maps, strict=True):
        assert all(norms.shape == (3, 2) for norms in layer)
        # the softmax side is the attention that the network applies, biases included; float32 there
        torch.testing.assert_close(
            layer.softmax.float(), torch.linalg.matrix_norm(after - before), atol=1e-6, rtol=1e-4
        )
        torch.testing.assert_close(layer.approximation, layer.first_order, rtol=0.25, atol=0)  # Monte Carlo
    assert not any(block.attn._forward_pre_hooks for block in mae.decoder_blocks)


@given(seed=st.integers(0, 10_000), rate=st.floats(0.01, 0.5), steps=st.integers(0, 30))
@settings(deadline=None, max_examples=20)
def test_theorem_j1_holds_for_a_convex_loss(seed: int, rate: float, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    b, start = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (6, 4))
    minimum = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]

    def loss(x: Tensor) -> Tensor:
        return (a @ x - b).square().mean()

    result = descent_bound(loss, start, minimum, rate=rate, steps=steps)
    assert -1e-9 <= result.gap <= result.bound * (1 + 1e-9)


def test_theorem_j1_can_fail_without_convexity() -> None:
    start, minimum = torch.zeros(1, dtype=torch.float64), torch.full((1,), math.pi / 2, dtype=torch.float64)
    # at the top of a cosine the gradient vanishes and gradient descent stays: the gap does not shrink, the bound does
    result = descent_bound(lambda x: torch.cos(2 * x).sum(), start, minimum, rate=0.1, steps=99)
    assert result.gap == pytest.approx(2.0)
    assert result.bound < 0.2


def test_theorem_j1_along_signs_is_the_methods_own_descent() -> None:
    start = torch.tensor([0.5, 0.02, 0.9], dtype=torch.float64)
    minimum = torch.tensor([0.55, 0.0, 0.2], dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return (x - minimum).square().sum()

    visited, x = [], start
    for _ in range(4):
        visited.append(x)
        x = (start + (x - 0.03 * (x - minimum).sign() - start).clamp(-0.05, 0.05)).clamp(0, 1)
    result = descent_bound(loss, start, minimum, rate=0.03, steps=3, signs=True, eta=0.05)
    assert result.gap == pytest.approx(float(loss(torch.stack(visited).mean(dim=0))), rel=1e-12)
    gradients = sum(float((2 * (x - minimum)).square().sum()) for x in visited)
    distance = float((start - minimum).square().sum())
    assert result.bound == pytest.approx(distance / (2 * 0.03 * 4) + 0.03 / (2 * 4) * gradients, rel=1e-12)
    assert max(float((x - start).abs().max()) for x in visited) == pytest.approx(0.05)


@torch.no_grad()
def test_constants_of_theorem_3_2_are_those_of_their_definitions() -> None:
    mae, x = tiny_mae(), tiny_images()
    other = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).sign()).clamp(0, 1)
    mask = random_mask(torch.rand(3, 16, generator=torch.Generator().manual_seed(0)), 0.5)
    found = inequality_constants(mae, x, other, mask, batch_size=2)
    torch.testing.assert_close(found.c_rec, mae.loss(x, mask).detach())
    for i in range(3):
        one = Mask(*(values[i : i + 1] for values in mask))
        maps = [mae.attention_maps(images[i : i + 1], one) for images in (x, other)]
        joined = [torch.eye(17), torch.eye(17)]
        for layer in range(len(maps[0])):
            for side in range(2):
                joined[side] = (maps[side][layer][0].mean(dim=0) + torch.eye(17)) / 2 @ joined[side]
        torch.testing.assert_close(joined[0].sum(dim=1), torch.ones(17))
        each = [float(((b - a)[0] ** 2).sum(dim=(1, 2)).mean()) for a, b in zip(*maps, strict=True)]
        change = joined[1] - joined[0]
        assert float(found.h[i]) == pytest.approx(float((change**2).sum()) / (sum(each) / len(each)), rel=1e-4)
        pixels = mae.decoder_pred(mae.decoder_norm(mae.decoder_tokens(other[i : i + 1], one)))[0]
        hidden = (change @ pixels)[1:][one.mask[0] > 0]
        assert float(found.c_a[i]) == pytest.approx(float((hidden**2).mean() / (change**2).sum()), rel=1e-4)
    same = inequality_constants(mae, x, x, mask)
    assert bool(same.h.isnan().all())


def test_theorem_3_2_is_reported_image_by_image() -> None:
    clean, loss = torch.tensor([1.0, 1.0, 1.0, 3.0]), torch.tensor([2.0, 1.0, 0.6, 1.0])
    squared = torch.tensor([[1.0, 2.0], [0.5, 0.5], [1.0, 1.0], [0.0, 0.0]])
    report = reconstruction_inequality(clean, loss, squared, constant=1.0)
    torch.testing.assert_close(report.largest_constant, torch.tensor([2.0, 2.0, 0.2, -math.inf]))
    assert report.rate == 0.5
    assert reconstruction_inequality(clean, loss, squared, constant=1.0, bias=1.0).rate == 1.0
