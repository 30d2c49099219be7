"""Backward rules by layer: the forward pass stays what it is, the gradient is that of the rule."""

import copy
import functools
import threading

import pytest
import torch
import torch.nn.functional as F
from rp_attacks import PGD
from rp_attacks.backward import VJP, with_backward
from rp_attacks.identity import settings
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .models import MeanSparse, NoisyModel, images, load_golden


class Round(nn.Module):
    def forward(self, x: Tensor, levels: int = 16, *, up: bool = False) -> Tensor:
        return ((x * levels).ceil() if up else (x * levels).round()) / levels


class Net(nn.Module):
    """A shared layer called twice with arguments that are no tensors, one in place, and a function in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.quantise = Round()
        self.again = self.quantise
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(inplace=True), nn.Flatten())
        self.listed = [self.body]  # a plain list, which torch does not know of
        self.head = nn.Linear(48, 5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.again(self.quantise(x, 16), 8, up=True)
        return self.head(self.listed[0](h).sign())


def gradient(model, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    waves = torch.arange(logits.numel()).reshape(logits.shape).float().cos()
    (grad,) = torch.autograd.grad((logits * waves).sum(), leaf, allow_unused=True)
    return logits.detach(), torch.zeros_like(x) if grad is None else grad


def net() -> Net:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return Net()


@pytest.mark.parametrize(
    "rules",
    [
        {Round: "identity", torch.sign: "identity"},
        {"quantise": "identity", "torch.sign": "identity"},
        {"*ise": lambda x, *_, **__: x, "torch.sign": VJP(lambda x, y, g: g)},
        {lambda name, layer: isinstance(layer, Round): VJP(lambda x, y, g: g), "torch.sign": lambda x: 1 * x},
        {"again": "identity", torch.Tensor.sign: "identity"},
    ],
)
def test_every_way_to_say_the_identity_gives_its_gradient_and_the_true_answer(rules) -> None:
    model, x = net(), images(4)
    before, state, public = set(vars(model)), copy.deepcopy(model.state_dict()), settings(model)
    wrapped = with_backward(model, rules)
    assert wrapped.gradients == ("exact", "bpda")
    logits, grad = gradient(wrapped.with_gradient("bpda"), x)
    true, exact = gradient(model, x)
    assert torch.equal(logits, true)
    assert torch.equal(gradient(wrapped, x)[0], true)
    assert not exact.any()

    waves = torch.arange(20).reshape(4, 5).float().cos()
    at = model.again(model.quantise(x, 16), 8, up=True).requires_grad_()
    (by_hand,) = torch.autograd.grad((model.body(1 * at) * (waves @ model.head.weight).detach()).sum(), at)
    torch.testing.assert_close(grad, by_hand, rtol=1e-6, atol=1e-7)  # the same sums, in another order
    assert (set(vars(model)), settings(model)) == (before, public)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())
    assert type(model.quantise) is Round


def test_layers_in_place_get_the_gradient_at_their_own_input() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU(inplace=True), nn.Linear(4, 3)).eval()
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    exact = gradient(model, x)
    for rule in (F.silu, VJP(lambda z, out, g: g * torch.func.grad(lambda u: F.silu(u).sum())(z))):
        logits, grad = gradient(with_backward(model, {"1": rule}).with_gradient("bpda"), x)
        assert torch.equal(logits, exact[0])
        torch.testing.assert_close(grad, exact[1], rtol=1e-5, atol=1e-7)  # the derivative of SiLU in two formulas


def test_the_outermost_match_counts() -> None:
    model = nn.Sequential(nn.Sequential(Round(), nn.Tanh()), nn.Flatten(), nn.Linear(16, 3)).eval()
    x = images(2)
    outer, both = (
        with_backward(model, rules).with_gradient("bpda") for rules in ({"0": "identity"}, {"0*": "identity"})
    )
    assert torch.equal(gradient(outer, x)[1], gradient(both, x)[1])
    assert not torch.equal(
        gradient(outer, x)[1], gradient(with_backward(model, {"0.0": "identity"}).with_gradient("bpda"), x)[1]
    )


def test_rules_reach_into_functions_objects_and_compiled_networks() -> None:
    inner, x = net(), images(2)
    rules = {"*quantise": "identity", torch.sign: "identity"}
    expected = gradient(with_backward(inner, rules).with_gradient("bpda"), x)

    class Holder:
        def __init__(self, part) -> None:
            self.part, self.nothing = part, 3

        def __call__(self, z: Tensor) -> Tensor:
            return self.part(z)

    compiled = torch.compile(inner, backend="eager")
    for model in (
        lambda z: inner(z),
        functools.partial(inner.__call__),
        Holder(inner),
        Holder(inner).__call__,
        compiled,
    ):
        logits, grad = gradient(with_backward(model, rules).with_gradient("bpda"), x)
        assert torch.equal(logits, expected[0])
        assert torch.equal(grad, expected[1])


def test_rules_hold_under_checkpointing_and_in_threads() -> None:
    inner, x = net(), images(2)

    class Saving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, z: Tensor) -> Tensor:
            return checkpoint(self.inner, z, use_reentrant=False)

    rules = {Round: VJP(lambda x, y, g: 2 * g), torch.sign: "identity"}
    expected = gradient(with_backward(inner, rules).with_gradient("bpda"), x)
    saving = with_backward(Saving().eval(), rules).with_gradient("bpda")
    assert torch.equal(gradient(saving, x)[1], expected[1])
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(gradient(saving, x)[1])) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not gradient(inner, x)[1].any()  # the model itself meanwhile
    for thread in threads:
        thread.join()
    assert all(torch.equal(grad, expected[1]) for grad in found)
    assert len(found) == 3


def test_a_random_defence_keeps_its_noise_and_its_own_rules() -> None:
    class Defence(NoisyModel):
        gradients = ("half",)

        def with_gradient(self, name: str):
            return lambda z: self.model(0.5 * z + 0.5 * z.detach())

    model, x, index = Defence(net(), 0.1), images(3), torch.tensor([4, 5, 6])
    wrapped = with_backward(model, {Round: "identity", torch.sign: "identity"})
    assert wrapped.gradients == ("exact", "half", "bpda")
    ruled = wrapped.with_gradient("bpda").with_noise(seed=1, index=index)
    assert torch.equal(ruled(x), model.with_noise(seed=1, index=index)(x))
    assert gradient(ruled, x)[1].any()
    assert PGD(eps=0.1, steps=2, grad="bpda")(wrapped, x, torch.zeros(3, dtype=torch.int64), seed=0).shape == x.shape


@pytest.mark.parametrize(
    ("model", "rules", "message"),
    [
        (net, {"nothing.*": "identity"}, "no layer matches 'nothing.*'"),
        (net, {}, "rules is empty"),
        (net, {"head": "straight"}, "got 'straight'"),
        (net, {"torch.rond": "identity"}, "torch has no function"),
        (lambda: net().train(), {"head": "identity"}, "is in train mode"),
        (net, {"head": "identity"}, "the identity needs equal shapes"),
        (net, {torch.sign: lambda x: x[:, :2]}, "gives \\(2, 2\\)"),
        (net, {torch.cos: "identity"}, "is not called"),
        (lambda: lambda z: z.flatten(1).clone().sign_(), {torch.sign: "identity"}, "in place"),
        (lambda: lambda z: z.argmax(dim=1), {torch.argmax: "identity"}, "gives torch.int64"),
        (lambda: nn.Sequential(torch.jit.script(nn.Tanh())).eval(), {"0": "identity"}, "is scripted"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit.script
def test_rules_that_do_not_fit_are_refused(model, rules, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient(with_backward(model(), rules).with_gradient("bpda"), images(2))


def test_meansparse_has_its_references_gradients() -> None:
    golden = {
        key: torch.as_tensor(value) for key, value in load_golden("rb_meansparse_operator").items() if key != "config"
    }
    layer = MeanSparse(5, 0.4).eval()
    layer.running_mean.copy_(golden["in_running_mean"])
    layer.running_var.copy_(golden["in_running_var"])
    for name, model in (
        ("gradient", layer),
        ("bpda_gradient", with_backward(layer, {MeanSparse: "identity"}).with_gradient("bpda")),
    ):
        leaf = golden["in_x"].clone().requires_grad_()
        out = model(leaf)
        assert torch.equal(out.detach(), layer(leaf).detach())
        torch.testing.assert_close(out.detach(), golden["out_y"], rtol=1e-5, atol=1e-6)
        (grad,) = torch.autograd.grad(out, leaf, golden["in_cotangent"])
        assert torch.equal(grad, golden[f"out_{name}"])
