import pytest
import torch
from rp_models.networks.dm_wide_resnet import DMWideResNet, RaWideResNet
from rp_models.networks.mean_sparse import MeanSparse, measure_statistics, set_threshold
from rp_models.networks.normalization import CIFAR10
from rp_testing import Golden
from torch import Tensor, nn


def sparse(golden: Golden) -> MeanSparse:
    operator = MeanSparse(5)
    operator.running_mean.copy_(golden["in_running_mean"])
    operator.running_var.copy_(golden["in_running_var"])
    set_threshold(operator, golden.config["threshold"])
    return operator


def test_the_operator_and_its_gradient_equal_the_reference() -> None:
    golden = Golden("rb_meansparse_operator")
    x = golden["in_x"].requires_grad_()
    y = sparse(golden)(x)
    (gradient,) = torch.autograd.grad(y, x, golden["in_cotangent"])
    golden.check(out_y=y, out_gradient=gradient)
    share = (gradient == 0).float().mean().item()
    assert share == pytest.approx(golden.config["share_blocked"], abs=1e-6)


def test_tokens_are_treated_as_the_same_features_in_another_order() -> None:
    golden = Golden("rb_meansparse_operator")
    maps = sparse(golden)
    tokens = MeanSparse(5, dim=-1)
    tokens.load_state_dict(maps.state_dict())
    x = golden["in_x"]
    assert torch.equal(tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), maps(x))


def test_the_statistics_pass_equals_the_reference() -> None:
    golden = Golden("rb_meansparse_operator")
    operator = sparse(golden).train()
    x = golden["in_x"]
    measure_statistics(operator, [x, 0.5 * x + 0.1])
    golden.check(out_stat_running_mean=operator.running_mean, out_stat_running_var=operator.running_var)
    assert operator.training
    assert operator.threshold == 0
    assert torch.equal(operator(x), x)


def test_the_statistics_pass_measures_what_enters_each_operator() -> None:
    with torch.random.fork_rng():
        network = nn.Sequential(nn.Conv2d(1, 3, 3), MeanSparse(3), nn.SiLU(), nn.Flatten(2), nn.Linear(16, 4))
        network.append(MeanSparse(4, dim=-1))
    x = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    measure_statistics(network, [x])
    tokens = network[4](network[3](network[2](network[0](x))))
    torch.testing.assert_close(network[5].running_mean, tokens.mean(dim=(0, 1)))
    torch.testing.assert_close(network[5].running_var, tokens.var(dim=(0, 1)))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_what_cannot_be_measured_or_set_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no MeanSparse operator"):
        set_threshold(nn.Linear(2, 2), 0.1)
    with pytest.raises(ValueError, match="at least 0 standard deviations, got -1"):
        set_threshold(MeanSparse(2), -1)
    with pytest.raises(ValueError, match="at least one batch"):
        measure_statistics(MeanSparse(2), [])


def test_the_network_equals_the_reference() -> None:
    golden = Golden("rb_meansparse_wrn_tiny")
    network = golden.fill(DMWideResNet(10, 1, mean_sparse=True, **CIFAR10._asdict())).eval()
    set_threshold(network, golden.config["threshold"])
    x = golden["in_x"].requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits, x, golden["in_cotangent"])
    golden.check(out_logits=logits)
    same_gradient(golden["out_input_gradient"], gradient)
    for operator in network.modules():  # backward through the identity, forward unchanged
        if isinstance(operator, MeanSparse):
            operator.register_forward_hook(lambda _, inputs, output: inputs[0] + (output - inputs[0]).detach())
    (gradient,) = torch.autograd.grad(network(x), x, golden["in_cotangent"])
    same_gradient(golden["out_bpda_gradient"], gradient)


def test_the_network_with_squeeze_and_excitation_equals_the_reference() -> None:
    golden = Golden("rb_rawrn_tiny")
    config = golden.config
    network = RaWideResNet(config["depth"], config["stage_width"], config["stem_width"], **CIFAR10._asdict())
    golden.fill(network).eval()
    x = golden["in_x"].requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits, x, golden["in_cotangent"])
    golden.check(out_logits=logits)
    same_gradient(golden["out_input_gradient"], gradient)


def same_gradient(recorded: Tensor, computed: Tensor) -> None:
    """To 1e-4 of its largest entry, since float32 sums run in another order."""
    torch.testing.assert_close(computed, recorded, rtol=0, atol=1e-4 * recorded.abs().max().item())
