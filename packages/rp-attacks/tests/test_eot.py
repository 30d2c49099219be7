import pytest
import torch
from rp_attacks import FixedNoise, MeanLogits
from rp_attacks.defence import COPY_STRIDE, query
from rp_attacks.eot import expected_gradient
from rp_attacks.losses import cross_entropy
from rp_attacks.noise import derive_seed

from .models import NoisyModel, images, tiny_conv


def problem():
    x = images(3, (3, 8, 8))
    return NoisyModel(tiny_conv(), 0.2), x, torch.tensor([1, 7, 3]), torch.tensor([5, 0, 9])


def test_expected_gradient_is_the_mean_of_gradients_pass_by_pass() -> None:
    model, x, y, index = problem()
    sample = expected_gradient(model, x, y, cross_entropy, seed=4, index=index, passes=3)
    grads, losses = [], []
    for number in range(3):
        leaf = x.clone().requires_grad_()
        loss = cross_entropy(query(model, leaf, seed=derive_seed(4, "pass", 0), index=index + number * COPY_STRIDE), y)
        grads.append(torch.autograd.grad(loss.sum(), leaf)[0])
        losses.append(loss.detach())
    torch.testing.assert_close(sample.grad, torch.stack(grads).mean(0))
    torch.testing.assert_close(sample.loss, torch.stack(losses).mean(0))


def test_a_pass_draws_the_same_noise_in_any_chunk_and_other_noise_than_the_next() -> None:
    model, x, y, index = problem()
    one, two, five = (expected_gradient(model, x, y, cross_entropy, seed=4, index=index, passes=p) for p in (1, 2, 5))
    assert not torch.allclose(one.grad, two.grad)
    for chunk in (2, 3, 5):
        chunked = expected_gradient(model, x, y, cross_entropy, seed=4, index=index, passes=5, chunk=chunk)
        torch.testing.assert_close(chunked.grad, five.grad, rtol=1e-5, atol=1e-7)  # another order of summation
        torch.testing.assert_close(chunked.wrong, five.wrong)


def test_loss_of_mean_logits_is_below_the_mean_loss() -> None:
    model, x, y, index = problem()
    passes = 8
    mean = expected_gradient(model, x, y, cross_entropy, seed=4, index=index, passes=passes)
    drawn = [index + number * COPY_STRIDE for number in range(passes)]
    logits = [query(model, x, seed=derive_seed(4, "pass", 0), index=rows) for rows in drawn]
    of_mean = cross_entropy(torch.stack(logits).mean(dim=0), y)
    assert (of_mean < mean.loss).all()  # Jensen: an averaged classifier is another, stronger one


def test_mean_logits_replays_its_passes_for_the_gradient() -> None:
    model, x, _, index = problem()
    wrapped = MeanLogits(model, passes=3, seed=0).with_noise(seed=7, index=index)
    leaf, twin_leaf = x.clone().requires_grad_(), x.clone().requires_grad_()
    twin = torch.stack([query(model, twin_leaf, seed=derive_seed(7, "pass", s), index=index) for s in range(3)]).mean(0)
    logits = wrapped(leaf)
    torch.testing.assert_close(logits, twin)
    upstream = torch.randn_like(twin)
    ours = torch.autograd.grad(logits, leaf, upstream)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(twin, twin_leaf, upstream)[0])


def test_mean_logits_draws_anew_at_every_call() -> None:
    model, x, _, _ = problem()
    wrapped = MeanLogits(model, passes=2, seed=0)
    assert not torch.equal(wrapped(x), wrapped(x))


def test_fixed_noise_is_one_function_of_the_image_whatever_the_seed() -> None:
    model, x, _, index = problem()
    fixed = FixedNoise(model, seed=1)
    a, b = (query(fixed, x, seed=s, index=index) for s in (2, 3))
    assert torch.equal(a, b)
    torch.testing.assert_close(query(fixed, x[1:2], seed=4, index=index[1:2] + COPY_STRIDE), a[1:2])
    with pytest.raises(TypeError, match="with_noise"):
        FixedNoise(tiny_conv(), seed=0)


def test_at_least_one_pass() -> None:
    with pytest.raises(ValueError, match="passes must be at least 1"):
        MeanLogits(tiny_conv(), passes=0, seed=0)
