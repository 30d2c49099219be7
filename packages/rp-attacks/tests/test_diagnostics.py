"""Findings: randomness that is rare, black boxes that beat gradients, defences that optimise, and what they cost."""

import dataclasses
import random

import numpy as np
import pytest
import torch
from rp_attacks import FAB, PGD, AutoAttack, LibrarySquare, RayS, Square, Transfer, evaluate, suite
from rp_attacks.diagnostics import diagnose
from rp_attacks.presets import OnMeanLogits
from rp_attacks.probes import Probe, black_box
from rp_attacks.record_checks import kind
from torch import Tensor, nn

from .models import NoisyModel, images, linear, tiny_conv

SHAPE = (1, 6, 6)


def problem(count: int = 40):
    model, x = linear(SHAPE, 2), images(count, SHAPE, seed=3)
    return model, x, model(x).argmax(1)


def checks(report, level: str) -> set[str]:
    return {finding.check for finding in report.findings if finding.level == level}


def rarely(share: float, per_call: bool = False):
    """Right in this share of passes, drawn from the global generator for each image, or once for a whole call."""

    def defence(z: Tensor) -> Tensor:
        right = torch.rand(1 if per_call else len(z)) < share
        lead = torch.where(right, 1.0, -1.0).expand(len(z)) + 0 * z.flatten(1)[:, 0]
        return torch.stack([lead, -lead], dim=1)

    return defence


def test_a_defence_that_is_seldom_wrong_is_random_and_asked_twenty_times() -> None:
    x, y = images(400, SHAPE), torch.zeros(400, dtype=torch.int64)
    report = evaluate(rarely(0.8), x, y, {"none": PGD(eps=0.0)}, seed=0, probes=0)
    assert report.random
    assert report.passes == 20
    # 0.8^10 of 400 images: standard error 0.015; the blocks of images must not share their noise
    assert report.verdict(report.clean).all_of_n.estimate == pytest.approx(0.107, abs=0.05)
    assert report.verdict(report.clean).per_query.estimate == pytest.approx(0.8, abs=0.015)
    blocks = report.clean.right[:384].reshape(3, 128, 20)
    assert not np.array_equal(blocks[0], blocks[1])


@pytest.mark.parametrize(("share", "per_call"), [(0.98, False), (0.8, True)])
def test_rare_randomness_is_noticed(share: float, per_call: bool) -> None:
    x = images(40, SHAPE)
    report = evaluate(
        rarely(share, per_call), x, torch.zeros(40, dtype=torch.int64), {"none": PGD(eps=0.0)}, seed=0, probes=0
    )
    assert report.random


@pytest.mark.parametrize("draw", [lambda n: np.random.rand(n, 1), lambda n: [[random.random()] for _ in range(n)]])  # noqa: NPY002
def test_noise_of_numpy_and_python_is_drawn_apart_and_repeats(draw) -> None:
    model, x, y = problem(12)

    def defence(z: Tensor) -> Tensor:
        return model(z) + torch.tensor(np.asarray(draw(len(z))), dtype=torch.float32) * torch.tensor([3.0, -3.0])

    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first, second = (evaluate(defence, x, y, {"pgd": PGD(eps=0.1, steps=2)}, seed=0, probes=2) for _ in range(2))
    assert first.random
    assert (first.worst.right == second.worst.right).all()
    assert 0 < first.clean.right.mean() < 1
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert random.getstate() == before[1]


def test_randomness_in_the_logits_alone_is_noticed() -> None:
    model, x, y = problem()

    def defence(z: Tensor) -> Tensor:  # never another class
        return model(z) * (1 + 0.01 * (torch.rand(len(z), 1) < 0.05))

    assert evaluate(defence, x, y, {"none": PGD(eps=0.0)}, seed=0, probes=0).random


class Blind:
    """Gives the clean images back: a gradient attack that finds nothing."""

    def __init__(self, attack) -> None:
        self.norm, self.eps = attack.norm, attack.eps

    def __call__(self, model, x, y, *, seed, index=None):
        return x.clone()


@pytest.mark.parametrize(
    "black",
    [
        AutoAttack(eps=0.3, attacks=("square",)),
        Square(eps=0.3, queries=200),
        LibrarySquare(eps=0.3, queries=200),
        RayS(eps=0.3, queries=200),
        Transfer(PGD(eps=0.3), linear(SHAPE, 2)),
        OnMeanLogits(Square(eps=0.3, queries=200), passes=1),
    ],
    ids=lambda attack: type(attack).__name__,
)
@pytest.mark.parametrize("exhaustive", [False, True])
def test_a_black_box_that_breaks_what_the_gradient_left_is_an_alarm(black, exhaustive: bool) -> None:
    model, x, y = problem()
    attacks = {"white": Blind(black), "black": black}
    report = evaluate(model, x, y, attacks, seed=0, probes=0, exhaustive=exhaustive)
    alone = int((report.clean.standing & ~report.worst.standing).sum())
    assert alone > 1
    assert any(f"broke {alone} of 40 images" in f.text for f in report.findings if f.level == "alarm")
    # an honest white box leaves it nothing, and so does one that was never tried on what the black box broke
    honest = {"white": PGD(eps=0.3, step_size=0.08, steps=20, loss="cw"), "black": black}
    assert checks(evaluate(model, x, y, honest, seed=0, probes=0, exhaustive=exhaustive), "alarm") == set()
    if not exhaustive:
        first = {"black": black, "white": Blind(black)}
        assert checks(evaluate(model, x, y, first, seed=0, probes=0), "alarm") == set()


def test_square_in_the_autoattack_suite_raises_the_alarm() -> None:
    model, x, y = problem()

    def defence(z: Tensor) -> Tensor:  # steps finer than the ball, and no derivative
        return model((z * 40).round() / 40)

    attacks = suite("autoattack", eps=0.3, classes=2)
    attacks = {name: attacks[name] for name in ("apgd-ce", "square")}
    report = evaluate(defence, x, y, attacks, seed=0, probes=0)
    assert report.threats[0].attacks["apgd-ce"].right.mean() > report.robust_accuracy + 0.2
    assert "black box beats white box" in checks(report, "alarm")


@pytest.mark.parametrize("how", ["numpy", "detached"])
@pytest.mark.parametrize("probes", [0, 4])
def test_a_model_without_any_gradient_is_attacked_and_named(how: str, probes: int) -> None:
    model, x, y = problem()
    weight = model[1].weight.detach().double().numpy()

    def by_numpy(z: Tensor) -> Tensor:
        return torch.from_numpy(z.detach().double().flatten(1).numpy() @ weight.T).float()

    defence = by_numpy if how == "numpy" else lambda z: model(z.detach())
    attacks = suite("autoattack", eps=0.3, classes=2) | {"pgd": PGD(eps=0.3)}
    report = evaluate(defence, x, y, attacks, seed=0, probes=probes)
    assert "no gradient" in checks(report, "alarm")
    assert "apgd-ce, fab-t, pgd left the images as they are" in str(report)
    alone = evaluate(defence, x, y, {"square": attacks["square"]}, seed=0, probes=0)
    assert (report.worst.right == alone.worst.right).all()
    assert alone.robust_accuracy < 1
    assert "no gradient" not in checks(alone, "alarm")


class Descending(nn.Module):
    """A purifier that takes gradients while it classifies."""

    def __init__(self, model: nn.Module, how: str) -> None:
        super().__init__()
        self.model, self.how = model, how
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = (leaf - 0.5).square().sum()
            if self.how == "backward":
                loss.backward()
                grad = leaf.grad
            elif self.how == "grad":
                (grad,) = torch.autograd.grad(loss, leaf)
            else:
                grad = torch.func.grad(lambda z: (z - 0.5).square().sum())(x)
        return self.model(x - 0.01 * grad)


@pytest.mark.parametrize("how", ["backward", "grad", "func"])
def test_a_defence_that_optimises_at_test_time_is_named(how: str) -> None:
    model, x, y = problem()
    attacks = {"pgd": PGD(eps=0.1, step_size=0.03)}
    report = evaluate(Descending(model, how), x, y, attacks, seed=0, probes=4)
    assert checks(report, "warning") == {"optimises at test time"}
    assert "takes 1 gradients in one forward pass" in str(report)
    assert "optimises at test time" not in checks(evaluate(model, x, y, attacks, seed=0, probes=4), "warning")


def test_the_number_of_probes_is_the_one_asked_for() -> None:
    model, x, _ = problem()

    def flat(z: Tensor) -> Tensor:
        return model(z.round())

    for probes, batch_size, seen in [(3, 128, 3), (32, 5, 5), (100, 128, 40)]:
        report = evaluate(
            flat, x, flat(x).argmax(1), {"pgd": PGD(eps=0.1)}, seed=0, probes=probes, batch_size=batch_size
        )
        assert f"exactly zero for {seen} of {seen} images" in str(report)


def test_findings_tell_how_far_they_are() -> None:
    model, x, y = problem()
    events = []
    attacks = {"linf": PGD(eps=0.1), "l2": PGD(norm="l2", eps=0.3, step_size=0.1)}
    evaluate(model, x, y, attacks, seed=0, probes=4, progress=events.append)
    findings = [event for event in events if event.stage == "findings"]
    assert [(event.block, event.blocks) for event in findings] == [(number, 18) for number in range(1, 19)]
    assert all(0 <= event.standing <= event.images == 40 for event in findings)
    evaluate(model, x, y, attacks, seed=0, probes=0, progress=(few := []).append)
    assert "findings" not in {event.stage for event in few}


def test_probes_cost_few_queries_where_the_gradient_breaks_the_images() -> None:
    """An undefended network: the rivals of the white box have nothing left to attack."""
    model, x, y = tiny_conv(), images(8, (3, 8, 8)), None
    y, asked = model(x).argmax(1), 0

    def counting(z: Tensor) -> Tensor:
        nonlocal asked
        asked += len(z)
        return model(z)

    evaluate(counting, x, y, {"none": PGD(eps=0.0)}, seed=0, probes=0)
    before, asked = asked, 0
    evaluate(counting, x, y, {"pgd": PGD(eps=0.1, steps=1)}, seed=0, probes=8)
    assert asked - before < 8 * 150  # 980 queries an image before


def test_a_random_defence_that_white_box_and_black_box_break_alike_gives_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # two independent measurements of the same accuracy differ image by image, in both directions
    model, x, y = problem(32)
    probe = Probe(
        model=NoisyModel(model, 0.1),
        x=x,
        y=y,
        index=torch.arange(32),
        seed=0,
        norm="linf",
        eps=0.1,
        passes=5,
        source=None,
    )
    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        Probe, "right", lambda self, attack, **options: (torch.rand(32, 5, generator=generator) < 0.5).float().mean(1)
    )
    assert [finding.level for finding in black_box(probe)] == ["ok"]


def test_chance_between_noise_and_attack_is_no_alarm() -> None:
    model, x, y = problem()
    honest = evaluate(model, x, y, {"pgd": PGD(eps=0.1)}, seed=0, probes=0)
    threat = honest.threats[0]

    def alarms(noise_right: np.ndarray) -> list[str]:
        noise = dataclasses.replace(threat.noise, right=noise_right)
        worst = dataclasses.replace(threat.worst, right=honest.clean.right)
        changed = dataclasses.replace(threat, noise=noise, worst=worst)
        found = diagnose(
            model, x, y, torch.arange(40), clean=honest.clean, threats=[changed], attacks={}, seed=0, probes=0
        )
        return [finding.check for finding in found if finding.level == "alarm"]

    right = honest.clean.right.copy()
    assert alarms(right) == []
    right[:1] = False  # one image of 40 is chance
    assert alarms(right) == []
    right[:12] = False
    assert alarms(right) == ["noise control"]


def test_fab_is_a_white_box() -> None:
    for attack in (FAB(), AutoAttack(), AutoAttack(attacks=("apgd-ce", "square"))):
        assert kind(attack) == "exact gradient"
