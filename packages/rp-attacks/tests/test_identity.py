"""An evaluation's folder belongs to one model, one attack and one set of images: any other gets no number from it."""

import copy
import functools
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rp_attacks import PGD, FixedNoise, MeanLogits, Saved, Square, Transfer, evaluate
from rp_attacks.identity import alike, fingerprint, identify, settings
from rp_attacks.presets import OnMeanLogits
from torch import Tensor, nn

from .models import NoisyModel, images, linear, tiny_conv

ATTACK = {"square": Square(eps=0.02, queries=3)}


def problem(count: int = 12):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    return model, x, model(x).argmax(1)


def same(one, other) -> bool:
    _, x, _ = problem()
    index = torch.arange(len(x))
    return alike(identify(one, x, index), identify(other, x, index))


class Levels(nn.Module):
    """Rounds to a number of grey levels, which stands in a plain attribute and in no weight."""

    def __init__(self, net: nn.Module, levels: int, rule: str = "identity", hidden: bool = False) -> None:
        super().__init__()
        self.net = net
        if hidden:
            self._levels, self._rule = levels, rule
        else:
            self.levels, self.rule = levels, rule
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        levels, rule = getattr(self, "levels", None) or self._levels, getattr(self, "rule", None) or self._rule
        rounded = (x * levels).round() / levels
        slope = {"identity": x, "tanh": x.tanh()}[rule]
        return self.net(slope + (rounded - slope).detach())


class Scikit:
    """A classifier that shows no weights, as those of scikit-learn do."""

    def __init__(self, shift: float) -> None:
        self._coef = np.random.default_rng(0).normal(size=(192, 10)) + shift * np.eye(192, 10)

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x @ self._coef


class Wrapped(nn.Module):
    def __init__(self, estimator: Scikit) -> None:
        super().__init__()
        self.estimator = estimator
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.estimator.predict(x.detach().double().flatten(1).numpy())).float()


class Buffer(nn.Module):
    """A buffer that no state dict holds."""

    def __init__(self, net: nn.Module, shift: float) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x + self.shift).clamp(0, 1))


def pairs():
    net, other = tiny_conv(), tiny_conv()
    with torch.no_grad():
        other[-1].bias[0] += 0.5

    def rounded(levels):
        return lambda z: net((z * levels).round() / levels)

    return {
        "a plain attribute": (Levels(net, 255), Levels(net, 2)),
        "a private attribute": (Levels(net, 255, hidden=True), Levels(net, 2, hidden=True)),
        "a backward rule": (Levels(net, 16), Levels(net, 16, "tanh")),
        "a private backward rule": (Levels(net, 16, hidden=True), Levels(net, 16, "tanh", hidden=True)),
        "a buffer that is not saved": (Buffer(net, 0.0), Buffer(net, 0.4)),
        "a model without weights": (Wrapped(Scikit(0.0)), Wrapped(Scikit(1.0))),
        "a plain function": (lambda z: net(z), lambda z: other(z)),
        "what a function closes over": (rounded(255), rounded(4)),
        "arguments of a partial": (functools.partial(torch.mul, 2.0), functools.partial(torch.mul, 3.0)),
        "known noise": (FixedNoise(NoisyModel(net, 0.2), seed=0), FixedNoise(NoisyModel(net, 0.2), seed=1)),
        "passes of an average": (
            MeanLogits(NoisyModel(net, 0.2), passes=2, seed=0),
            MeanLogits(NoisyModel(net, 0.2), passes=3, seed=0),
        ),
        "weights in a list": (_Listed([net]), _Listed([other])),
    }


class _Listed:
    def __init__(self, nets: list[nn.Module]) -> None:
        self.nets = nets

    def __call__(self, z: Tensor) -> Tensor:
        return torch.stack([net(z) for net in self.nets]).mean(0)


@pytest.mark.parametrize("kind", [kind for kind in pairs() if "partial" not in kind])
def test_two_defences_never_share_a_folder(kind: str, tmp_path: Path) -> None:
    first, second = pairs()[kind]
    _, x, y = problem()
    report = evaluate(first, x, y, ATTACK, seed=0, folder=tmp_path, probes=0, passes=1)
    with pytest.raises(ValueError, match=r"another problem \(model differ\)"):
        evaluate(second, x, y, ATTACK, seed=0, folder=tmp_path, probes=0, passes=1)
    again = evaluate(first, x, y, ATTACK, seed=0, folder=tmp_path, probes=0, passes=1)
    assert np.array_equal(again.worst.right, report.worst.right)


def test_settings_are_read_off_functions_and_partials() -> None:
    one, other = pairs()["arguments of a partial"]
    assert settings(one) != settings(other)
    assert settings(lambda z, scale=1.0: z) != settings(lambda z, scale=2.0: z)


def test_what_changes_by_being_asked_is_no_setting(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.calls, self.last = net, 0, None
            self.register_buffer("seen", torch.zeros(()))
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            self.calls, self.last = self.calls + 1, x.detach()
            self.seen += len(x)
            return self.net(x)

    model, x, y = problem()
    counting, calls = Counting(model), 0

    def function(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return model(z)

    for defence in (counting, function):
        folder = tmp_path / type(defence).__name__
        first = evaluate(defence, x, y, ATTACK, seed=0, folder=folder, probes=0)
        defence(x)
        second = evaluate(defence, x, y, ATTACK, seed=0, folder=folder, probes=0)
        assert np.array_equal(first.worst.right, second.worst.right)
    assert calls > 0


def test_the_same_model_in_another_place_goes_on() -> None:
    model, _, _ = problem()
    assert same(model, copy.deepcopy(model))
    assert same(model, nn.DataParallel(model))
    assert same(NoisyModel(model, 0.1), NoisyModel(model, 0.1))
    assert not same(NoisyModel(model, 0.1), NoisyModel(model, 0.2))
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert same(model, frozen)


def test_compiled_and_traced_models_are_evaluated_and_resume(tmp_path: Path) -> None:
    model, x, y = problem()
    whole = evaluate(model, x, y, ATTACK, seed=0, folder=tmp_path / "whole", probes=0)
    compiled = torch.compile(model, backend="eager")
    again = evaluate(compiled, x, y, ATTACK, seed=0, folder=tmp_path / "whole", probes=0)
    assert np.array_equal(again.worst.right, whole.worst.right)
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and still in use
        traced = torch.jit.trace(model, x)
    for _ in range(2):
        report = evaluate(traced, x, y, ATTACK, seed=0, folder=tmp_path / "traced", probes=0)
        assert np.array_equal(report.worst.right, whole.worst.right)


def test_answers_may_be_rounded_differently_but_no_more() -> None:
    model, x, _ = problem()
    before = identify(model, x, torch.arange(len(x)))
    with torch.no_grad():
        now = identify(lambda z: model(z) * (1 + 1e-5), x, torch.arange(len(x)))
        other = identify(lambda z: model(z) * (1 + 1e-2), x, torch.arange(len(x)))
    assert alike(before["answers"], now["answers"])
    assert alike(before["gradients"], now["gradients"])
    assert not alike(before["answers"], other["answers"])
    assert not alike(before, now)  # a function is not the module


def test_a_model_with_a_generator_of_its_own_is_known_by_its_settings() -> None:
    class Own(nn.Module):
        def __init__(self, net: nn.Module, sigma: float) -> None:
            super().__init__()
            self.net, self.sigma, self.generator = net, sigma, torch.Generator().manual_seed(0)
            self.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x + self.sigma * torch.randn(x.shape, generator=self.generator))

    model, _, _ = problem()
    assert same(Own(model, 0.1), Own(model, 0.1))
    assert not same(Own(model, 0.1), Own(model, 0.2))


@pytest.mark.parametrize("kind", ["saved images", "a transfer's source", "a source inside"])
def test_two_attacks_never_share_a_folder(kind: str, tmp_path: Path) -> None:
    model, x, y = problem()
    index, pgd = torch.arange(len(x)), PGD(eps=0.05, steps=2)
    moved = [(x + shift).clamp(0, 1) for shift in (0.01, -0.05)]
    net = linear((3, 8, 8), 10)
    one, other = {
        "saved images": [Saved(images=z, index=index, eps=0.05) for z in moved],
        "a transfer's source": [Transfer(pgd, Levels(net, levels)) for levels in (255, 2)],
        "a source inside": [OnMeanLogits(Transfer(pgd, Levels(net, levels)), passes=2) for levels in (255, 2)],
    }[kind]
    evaluate(model, x, y, {"attack": one}, seed=0, folder=tmp_path, probes=0)
    with pytest.raises(ValueError, match=r"another problem \(attacks differ\)"):
        evaluate(model, x, y, {"attack": other}, seed=0, folder=tmp_path, probes=0)


def test_a_fingerprint_sees_values_shape_and_type() -> None:
    x = torch.arange(12.0)
    assert fingerprint(x) == fingerprint(x.clone()) == fingerprint(x.numpy())
    assert (
        len(
            {
                fingerprint(x),
                fingerprint(x + 1),
                fingerprint(x.reshape(3, 4)),
                fingerprint(x.double()),
                fingerprint(x.bfloat16()),
                fingerprint(x.half()),
            }
        )
        == 6
    )
