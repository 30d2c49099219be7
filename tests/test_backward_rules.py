"""Backward rules of rp-attacks on networks of rp-models."""

import torch
from rp_attacks.backward import with_backward
from rp_attacks.suspects import suspects
from rp_models.networks.dm_wide_resnet import DMWideResNet, RaWideResNet
from rp_models.networks.mean_sparse import MeanSparse, set_threshold
from rp_models.networks.normalization import CIFAR10
from rp_testing import Golden
from torch import nn


def meansparse() -> tuple[Golden, nn.Module]:
    golden = Golden("rb_meansparse_wrn_tiny")
    network = golden.fill(DMWideResNet(10, 1, mean_sparse=True, **CIFAR10._asdict())).eval()
    set_threshold(network, golden.config["threshold"])
    return golden, network


def test_meansparse_through_the_identity_has_the_gradient_of_the_leaderboard() -> None:
    golden, network = meansparse()
    for rules in ({MeanSparse: "identity"}, {"*meansparse_*": "identity"}):
        x = golden["in_x"].requires_grad_()
        logits = with_backward(network, rules).with_gradient("bpda")(x)
        assert torch.equal(logits, network(x))
        golden.check(out_logits=logits)
        (grad,) = torch.autograd.grad(logits, x, golden["in_cotangent"])
        reference = golden["out_bpda_gradient"]
        assert (grad - reference).abs().max() <= 1e-4 * reference.abs().max()  # float32, other orders of sums


def test_its_operators_are_suspects_and_layers_in_place_beside_them_are_not() -> None:
    _, network = meansparse()
    x = Golden("rb_rawrn_tiny")["in_x"]
    names = {suspect.name for suspect in suspects(network, x)}
    assert names == {name for name, layer in network.named_modules() if isinstance(layer, MeanSparse)}
    golden = Golden("rb_rawrn_tiny")
    config = golden.config
    honest = RaWideResNet(config["depth"], config["stage_width"], config["stem_width"], **CIFAR10._asdict())
    assert suspects(golden.fill(honest).eval(), x) == []
