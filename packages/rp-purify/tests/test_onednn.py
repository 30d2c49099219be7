from contextlib import nullcontext

import pytest
import torch
from rp_purify import MAEPure, onednn, onednn_linear
from rp_purify.onednn import _gains, onednn_where_it_gains
from torch.nn import functional as F

from .models import randomised, tiny_images, tiny_mae

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN")


@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_three_derivatives_are_those_of_the_plain_layer(with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 256, generator=generator).requires_grad_()
    weight = torch.randn(300, 256, generator=generator) / 16
    bias = torch.randn(300, generator=generator) if with_bias else None

    def derivatives() -> list[torch.Tensor]:
        y = F.linear(x, weight, bias).tanh()
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        (third,) = torch.autograd.grad(second.square().sum(), x)
        return [y, first, second, third]

    plain = derivatives()
    with onednn_linear():
        fast = derivatives()
    assert "_Linear" in type(fast[0].grad_fn.next_functions[0][0]).__name__  # it did take the other way
    for mine, theirs in zip(fast, plain, strict=True):
        # sums of 256 products in float32, in another order
        torch.testing.assert_close(mine, theirs, atol=2e-5 * float(theirs.detach().abs().max()), rtol=1e-4)


def test_only_large_frozen_float32_layers_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, large, small = torch.zeros(2, 256), torch.zeros(256, 256), torch.zeros(8, 256)
    assert _gains(x, large)
    assert not _gains(x, small)
    assert not _gains(x.double(), large.double())
    assert not _gains(x, large.clone().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        assert not _gains(x, large)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not _gains(x, large)


def test_sign_descent_takes_it_by_itself_with_the_gradient_of_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    mae, x, index = tiny_mae(width=256, depth=1), tiny_images(), torch.arange(3)
    purifier = MAEPure(mae, steps=3, step_size=0.01)
    calls: list[torch.Size] = []
    product = onednn._product

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments[1].shape)
        return product(*arguments)

    monkeypatch.setattr(onednn, "_product", counted)
    mine, purified = purifier.loss_gradient(x, seed=0, index=index, step=1), purifier(x, seed=0)
    assert torch.Size((768, 256)) in calls  # queries, keys and values
    assert torch.Size((256, 768)) in calls  # their gradient
    calls.clear()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    plain = purifier.loss_gradient(x, seed=0, index=index, step=1)
    assert not calls
    # sums of up to 1024 float32 products in another order
    torch.testing.assert_close(mine, plain, atol=1e-6 * float(plain.abs().max()) + 1e-9, rtol=1e-4)
    torch.testing.assert_close(purified, purifier(x, seed=0))
    assert all(parameter.grad is None for parameter in mae.parameters())


def test_an_image_gets_the_same_bits_in_any_batch() -> None:
    purifier = MAEPure(tiny_mae(width=256, depth=1), steps=3, step_size=0.01)
    x, index = tiny_images(), torch.arange(3)
    together = purifier(x, seed=0, index=index)
    for i in range(3):
        assert torch.equal(purifier(x[i : i + 1], seed=0, index=index[i : i + 1])[0], together[i])


def test_small_networks_do_not_pay_for_looking() -> None:
    assert isinstance(onednn_where_it_gains(tiny_mae().requires_grad_(False)), nullcontext)
    assert isinstance(onednn_where_it_gains(tiny_mae(width=256).requires_grad_(False)), onednn_linear)
    assert isinstance(onednn_where_it_gains(tiny_mae(width=256)), nullcontext)  # trainable


@pytest.mark.parametrize("grad", ["exact", "ste-tanh"])
def test_a_purifier_gives_the_same_images_and_gradients(grad: str) -> None:
    mae = randomised(tiny_mae(width=256, depth=1))
    x = tiny_images().requires_grad_()
    purifier = MAEPure(mae, steps=2, step_size=0.01, grad=grad)  # type: ignore[arg-type]
    plain = purifier(x, seed=0)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    with onednn_linear():
        fast = purifier(x, seed=0)
        (mine,) = torch.autograd.grad(fast.square().sum(), x)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
