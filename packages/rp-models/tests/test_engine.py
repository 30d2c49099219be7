"""The engine's step against the same written out, and each of its options."""

from functools import partial

import pytest
import torch
from rp_models.settings import ComputeSettings
from rp_models.training import Engine, engine
from rp_models.training.engine import compile_network
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """A network with every kind of layer that the options care for, and features."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward_features(self, x):
        return F.silu(self.norm(self.conv(x))).mean(dim=(2, 3))

    def forward(self, x):
        return self.head(self.forward_features(x))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(6, 3, 5, 5, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])


def made(net, compute=None, loss=None, **options):
    def cross_entropy(x, y):
        logits = net(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(dim=1) == y).float().mean()}

    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    return Engine({"net": net}, loss or cross_entropy, optimizer, compute=compute, **options)


def written_out(steps, clip_norm=None):
    """The weights, losses and gradient norms of the same steps, without an engine."""
    net, losses, norms = Net(), [], []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    x, y = batch()
    for _ in range(steps):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
        if clip_norm and norm > clip_norm:
            for parameter in net.parameters():
                parameter.grad *= clip_norm / norm
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return net.state_dict(), losses, norms


def test_a_step_is_the_one_written_out():
    net = Net()
    metrics = [made_engine.step(*batch()) for made_engine in [made(net)] for _ in range(3)]
    weights, losses, _ = written_out(3)
    assert [m["loss"] for m in metrics] == losses
    assert metrics[0].keys() == {"loss", "accuracy"}
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def test_clipping_shortens_the_gradient_of_all_parameters_together():
    net = Net()
    metrics = made(net, ComputeSettings(clip_norm=0.1)).step(*batch())
    weights, _, norms = written_out(1, clip_norm=0.1)
    assert norms[0] > 0.1
    assert metrics["gradient_norm"] == pytest.approx(norms[0], rel=1e-5)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, weights[key], atol=1e-6, rtol=1e-5)  # torch divides by the norm plus 1e-6


def test_channels_last_changes_the_layout_and_not_the_result():
    net, seen = Net(), []
    net.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    made(net, ComputeSettings(channels_last=True)).step(*batch())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    weights, *_ = written_out(1)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, weights[key], atol=1e-6, rtol=1e-5)  # sums in another order


def test_bf16_computes_in_half_the_bits_and_keeps_the_weights_in_float32():
    net, seen = Net(), []
    for layer in (net.conv, net.head):
        layer.register_forward_hook(lambda *_: seen.append(_[2].dtype))
    trained = made(net, ComputeSettings(precision="bf16"))
    metrics = [trained.step(*batch()) for _ in range(2)]
    assert seen == [torch.bfloat16, torch.float32] * 2  # the head is in full precision
    assert all(p.dtype == torch.float32 for p in net.parameters())
    _, losses, _ = written_out(2)
    assert [m["loss"] for m in metrics] == pytest.approx(losses, rel=0.02)  # bfloat16 has 8 bits
    assert metrics[0]["loss"] != losses[0]


def test_a_look_without_gradients_in_bf16_takes_none_from_the_training_pass():
    """Torch before 2.11 kept the half-precision weights of the first pass, cut off from the weights themselves."""
    net = Net()

    def loss(x, y):
        with torch.no_grad():
            net(x)
        return F.cross_entropy(net(x), y), {}

    made(net, ComputeSettings(precision="bf16"), loss).step(*batch())
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    assert all(grad is not None and bool(grad.abs().max() > 0) for grad in gradients.values()), gradients


def test_a_compiled_network_computes_the_same_and_keeps_its_keys(monkeypatch):
    # the default backend needs a C++ compiler; this one traces the same and runs the trace as it is
    monkeypatch.setattr(engine, "compile_network", partial(compile_network, backend="aot_eager"))
    net = Net()
    keys = list(net.state_dict())
    metrics = made(net, ComputeSettings(compile=True)).step(*batch())
    weights, losses, _ = written_out(1)
    assert metrics["loss"] == pytest.approx(losses[0], rel=1e-6)
    assert list(net.state_dict()) == keys
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, weights[key], atol=1e-6, rtol=1e-5)  # operations are decomposed


def test_odd_gradients_are_cleaned_where_that_is_asked_for():
    net = Net()
    net.norm.bias.register_hook(lambda grad: torch.tensor([float("nan"), float("inf"), -float("inf"), 1, 2, 3, 4, 5]))
    before = net.norm.bias.detach().clone()
    made(net, clean_gradients=True).step(*batch())
    expected = before - 0.5 * torch.tensor([0.0, 1e5, -1e5, 1, 2, 3, 4, 5])
    torch.testing.assert_close(net.norm.bias.detach(), expected)


def test_figures_to_log_hold_no_graph():
    net = Net()

    def loss(x, y):
        logits = net(x)
        return F.cross_entropy(logits, y), {"largest": logits.max()}

    assert made(net, loss=loss).step(*batch())["largest"] > 0


@pytest.mark.parametrize("clip_norm", [0.0, -1.0])
def test_a_norm_that_cannot_be_clipped_to_is_refused(clip_norm):
    with pytest.raises(ValueError, match=r"compute\.clip_norm must be positive"):
        ComputeSettings(clip_norm=clip_norm)
