"""Networks that compute in another precision whoever asks them, and blocks in which they do not."""

import copy

import pytest
import torch
from rp_models.precision import autocast, full_precision, in_precision, present_autocast
from rp_models.settings import ComputeSettings, InferenceSettings
from torch import nn


class Net(nn.Module):
    """A layer, a head, and another method that is asked."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward_features(self, x):
        return self.body(x).tanh()

    def forward(self, x):
        return self.head(self.forward_features(x))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


X = torch.linspace(-1, 1, 30).reshape(5, 6)


def test_a_network_in_bf16_is_the_one_under_autocast_and_gives_float32(net):
    plain, state = copy.deepcopy(net), net.state_dict()
    with autocast(torch.device("cpu"), "bf16"):
        expected = plain.forward_features(X)
    low = in_precision(net, "bf16")
    assert low.forward_features(X).dtype == torch.float32
    assert torch.equal(low.forward_features(X), expected.float())
    assert torch.equal(low(X), nn.functional.linear(expected.float(), plain.head.weight, plain.head.bias))
    assert isinstance(low, Net)
    assert low.state_dict().keys() == state.keys()
    assert type(low).__qualname__ != "Net"  # which tells two evaluations apart


def test_a_full_precision_block_reaches_backward_passes_too(net):
    low, plain = in_precision(copy.deepcopy(net), "bf16"), net

    def gradient(model):
        x = X.clone().requires_grad_()
        return torch.autograd.grad(model(x).square().sum(), x)[0]

    assert not torch.equal(gradient(low), gradient(plain))
    with full_precision():
        assert torch.equal(gradient(low), gradient(plain))
    assert not torch.equal(gradient(low), gradient(plain))


def test_copies_keep_the_precision_and_own_their_weights(net):
    low = in_precision(net, "bf16")
    other = copy.deepcopy(low)
    with torch.no_grad():
        other.body.weight.zero_()
        other.body.bias.zero_()
    assert torch.equal(other(X), low.head.bias.expand(5, 3))
    assert not torch.equal(low(X), other(X))
    assert torch.equal(in_precision(low, "bf16")(X), low(X))  # a second time changes nothing


def test_fp32_leaves_a_network_alone(net):
    assert type(in_precision(net, "fp32")) is Net


def test_what_is_computed_in_a_backward_pass_has_the_autocast_of_the_forward_pass():
    seen = []

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.autocast = present_autocast(x.device)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append((X @ X.mT).dtype)
            with ctx.autocast:
                seen.append((X @ X.mT).dtype)
            return grad

    with autocast(torch.device("cpu"), "bf16"):
        y = Replay.apply(X.clone().requires_grad_())
    y.sum().backward()
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("settings", [ComputeSettings, InferenceSettings])
def test_half_precision_without_its_exponents_is_refused(settings):
    with pytest.raises(ValueError, match=r"fp32, tf32, bf16.*fp16 rounds the small gradients"):
        settings(precision="fp16")
