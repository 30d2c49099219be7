"""Micro-batches and activation checkpointing give the plain step's weights, statistics and figures."""

import copy

import pytest
import torch
from rp_models import build
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import ComputeSettings
from rp_models.training import Engine
from rp_models.training.checkpointing import checkpoint_blocks
from torch import nn
from torch.nn import functional as F

SIZES = {
    "dm-wide-resnet": {"depth": 10, "width": 1, "num_classes": 4, "in_channels": 1, "mean": [0.5], "std": [0.3]},
    "mae-digits": {},
}


def network(name):
    torch.manual_seed(0)
    return build(name, **SIZES[name])


def batch(count=7):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 4, None


def trained(net, compute, steps=3, calls=None):
    def loss(x, y, nothing):
        assert nothing is None
        if calls is not None:
            calls.append(len(x))
        if isinstance(net, MaskedAutoencoder):
            mask = random_mask(torch.linspace(0, 1, net.tokens).expand(len(x), -1), 0.5)
            return net.loss(x, mask).mean(), {"size": x.mean()}
        logits = net(x)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(dim=1) == y).float().mean()}

    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    engine = Engine({"net": net}, loss, optimizer, compute=ComputeSettings(**compute))
    return [engine.step(*batch()) for _ in range(steps)]


@pytest.mark.parametrize("size", [1, 3, 6])
def test_micro_batches_add_up_to_the_plain_step(size):
    plain, cut, calls = network("mae-digits"), network("mae-digits"), []
    expected = trained(plain, {"clip_norm": 1.0})
    found = trained(cut, {"clip_norm": 1.0, "micro_batch": size}, calls=calls)
    assert max(calls) <= size
    assert sum(calls) == 3 * 7  # also where the last ones are smaller
    for before, after in zip(expected, found, strict=True):
        assert after == pytest.approx(before, rel=1e-5)  # sums in another order
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[key], value, atol=1e-6, rtol=1e-4)


def test_batch_norms_see_each_micro_batch_for_itself():
    net = network("dm-wide-resnet")
    expected, (x, y, _) = copy.deepcopy(net), batch()
    trained(net, {"micro_batch": 4}, steps=1)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    for rows in (slice(0, None, 2), slice(1, None, 2)):
        (F.cross_entropy(expected(x[rows]), y[rows], reduction="sum") / len(x)).backward()
    optimizer.step()
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", SIZES)
def test_checkpointed_blocks_change_no_bit(name):
    plain, again = network(name), network(name)
    before = copy.deepcopy(again)
    assert trained(again, {"checkpointing": True}) == trained(plain, {})
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in plain.state_dict().items())
    assert not any("checkpointed" in type(module).__name__ for module in before.modules())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dm-wide-resnet", {**SIZES["dm-wide-resnet"], "depth": 28, "width": 1}),
        ("maskdit-digits", {"num_classes": 4}),
        ("edm", {"img_resolution": 8, "img_channels": 1, "model_channels": 8, "channel_mult": [1, 2],
                 "attn_resolutions": [4], "num_blocks": 1, "model_type": "SongUNet"}),
    ],
)  # fmt: skip
def test_most_of_a_network_is_in_its_blocks(name, sizes):
    net = build(name, **sizes)
    total = sum(p.numel() for p in net.parameters())
    blocks = checkpoint_blocks(net)
    inside = {id(p) for block in blocks for p in net.get_submodule(block).parameters()}
    assert sum(p.numel() for p in net.parameters() if id(p) in inside) > 0.7 * total
    assert not any(b != a and b.startswith(a + ".") for a in blocks for b in blocks)
    assert checkpoint_blocks(net) == blocks  # once more changes nothing


def test_a_block_is_computed_again_in_the_mode_it_was_in():
    block = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())))
    net, plain, x = block, copy.deepcopy(block), batch()[0]
    checkpoint_blocks(net)
    grads = []
    for model in (net, plain):
        model.eval()
        out = model(x)
        model.train()  # as an attack in eval mode does, before the backward pass
        out.square().sum().backward()
        assert model.training
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert int(net[0][1][0].num_batches_tracked) == 0


def test_what_cannot_be_computed_again_is_refused():
    with pytest.raises(ValueError, match=r"has no blocks.*micro_batch"):
        checkpoint_blocks(nn.Linear(2, 2))
    net = network("dm-wide-resnet")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="do not go together"):
        Engine({"net": net}, lambda x: x, optimizer, compute=ComputeSettings(checkpointing=True, compile=True))
