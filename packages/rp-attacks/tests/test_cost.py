"""What an evaluation costs: passes by image, forecasts, state inside an attack, and steps that can be watched."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rp_attacks import APGD, FAB, PGD, SPSA, AutoAttack, CarliniWagner, DeepFool, RayS, Square, Transfer, evaluate
from rp_attacks.alma import ALMA
from rp_attacks.ddn import DDN
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.economy import fit_chunk, network_calls
from rp_attacks.fmn import FMN
from rp_attacks.forecast import forecast, passes_of
from rp_attacks.presets import OnMeanLogits
from rp_attacks.resume import keeping, resumable
from rp_attacks.sigma_zero import SigmaZero
from rp_attacks.super_deepfool import SuperDeepFool
from rp_attacks.watch import Passes, Step, counting, watched
from torch import Tensor, nn

from .models import NoisyModel, images, linear

SHAPE, EPS = (1, 6, 6), 1e-6  # a radius at which nothing breaks and nothing stops early


def problem(count: int = 6, classes: int = 10):
    model, x = linear(SHAPE, classes), images(count, SHAPE, seed=3)
    return model, x, model(x).argmax(1)


ATTACKS = {
    "pgd": PGD(eps=EPS, steps=3, eot=4, restarts=2, select="best"),
    "pgd-last": PGD(eps=EPS, steps=3, eot=2),
    "pgd-kl": PGD(eps=EPS, steps=2, loss="kl"),
    "apgd": APGD(eps=EPS, steps=3, eot=2),
    "apgd-t": APGD(eps=EPS, steps=3, loss="targeted-dlr", targets=4),
    "malt": APGD(eps=EPS, steps=3, loss="targeted-dlr", targets=4, order="malt"),
    "square": Square(eps=EPS, queries=5, passes=3),
    "spsa": SPSA(eps=EPS, steps=2, samples=3),
    "cw": CarliniWagner(eps=EPS, search_steps=1, steps=4, eot=2),
    "mean": OnMeanLogits(PGD(eps=EPS, steps=2), passes=3),
    "diffhammer": DiffHammer(eps=EPS, steps=2, restarts=2, draws=3, eot=2),
    "transfer": Transfer(PGD(eps=EPS, steps=2), linear(SHAPE, 10)),
    "fmn": FMN(steps=4, eot=2, bisections=2),
    "alma": ALMA(steps=4, bisections=3),
    "sigma-zero": SigmaZero(steps=3, bisections=0),
    "ddn": DDN(steps=4, first_length=1.0, bisections=2),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_passes_are_counted_by_image_and_are_those_of_the_forecast(name: str) -> None:
    model, x, y = problem()
    index = torch.tensor([5, 40, 3, 9, 11, 2])
    with counting(index) as passes:
        ATTACKS[name](NoisyModel(model, 1e-4), x, y, seed=0, index=index)
    expected = passes_of(ATTACKS[name])
    if name in ("fmn", "alma", "sigma-zero", "ddn"):  # bisections ask about images that were found alone
        assert expected.backward == ATTACKS[name].steps * ATTACKS[name].eot
        found = ATTACKS[name].search(model, x, y, seed=0).distance.isfinite()
        assert passes.forward.max() <= expected.forward
        assert (passes.forward[found] >= expected.forward - ATTACKS[name].bisections * ATTACKS[name].eot).all()
        assert passes.backward.tolist() == [expected.backward] * 6
        return
    if name == "diffhammer":  # without a purifier nothing goes back twice
        expected = (expected[0] - 2 * 3 * 2, expected[1])
    assert passes.forward.tolist() == [expected[0]] * 6
    assert passes.backward.tolist() == [expected[1]] * 6
    assert passes.source.tolist() == [2 if name == "transfer" else 0] * 6


@pytest.mark.parametrize(
    ("attack", "share"),
    [
        (RayS(eps=EPS, queries=30), 0.6),
        (DeepFool(eps=EPS, steps=3), 0.3),
        (FAB(eps=EPS, steps=4, targets=3), 0.5),
        (SuperDeepFool(steps=3, deepfool_steps=3), 0.2),
        (DDN(steps=3), 0.1),
    ],
)
def test_a_forecast_is_not_below_what_attacks_take_that_stop_by_themselves(attack, share: float) -> None:
    model, x, y = problem(4)
    with counting(torch.arange(4)) as passes:
        attack(model, x, y, seed=0)
    expected = passes_of(attack, classes=10)
    assert share * expected.forward <= passes.forward.max() <= expected.forward
    assert passes.backward.max() <= expected.backward


@pytest.mark.slow
def test_the_forecast_of_autoattack_is_what_the_library_takes() -> None:
    model, x, y = problem(2)
    with counting(torch.arange(2)) as passes:
        AutoAttack(eps=EPS)(model, x, y, seed=0)
    expected = passes_of(AutoAttack())
    assert passes.forward.tolist() == pytest.approx([expected.forward] * 2, rel=0.01)
    assert passes.backward.tolist() == pytest.approx([expected.backward] * 2, rel=0.01)


def test_images_that_leave_an_attack_cost_no_more_passes() -> None:
    model, x, y = problem(20, classes=2)
    eps, index = 0.1, torch.arange(20)
    with counting(index) as passes:
        PGD(eps=eps, step_size=eps / 4, steps=10, loss="cw", early_stop=True)(model, x, y, seed=0)
    looked = passes.forward
    assert looked.max() == 11
    assert looked.min() < 6
    assert (looked - passes.backward).tolist() == [1.0] * 20  # the last iterate is judged


def test_rows_of_other_images_are_not_counted() -> None:
    passes = Passes(torch.tensor([4, 2]))
    passes.add(torch.tensor([2, 4, 4, 7]), backward=False, each=1.0)
    assert passes.forward.tolist() == [2.0, 1.0]


def test_a_report_tells_the_passes_of_each_image() -> None:
    model, x, y = problem(10)
    noisy, attacks = (
        NoisyModel(model, 1e-4),
        {"pgd": PGD(eps=EPS, steps=3, eot=2), "square": Square(eps=EPS, queries=4)},
    )
    report = evaluate(noisy, x, y, attacks, seed=0, passes=5, probes=0)
    cost = report.cost
    assert cost.forward.tolist() == [3 * 2 + 4.0] * 10
    assert cost.backward.tolist() == [6.0] * 10
    expected = forecast(noisy, x, y, attacks, random=True, passes=5)
    assert (expected.forward, expected.backward) == (10, 6)
    assert cost.judged.max() <= expected.judging
    assert "Passes of an image, median and largest: forward 10 (at most 10)" in str(report)
    told = report.to_json()["cost"]
    assert told["forward"]["median"] == told["forward"]["max"] == 10
    assert len(told["seconds"]["per_image"]) == 10
    assert "at most 10 forward and 6 backward passes of an image" in str(expected)
    assert expected.seconds > 0


def test_a_forecast_says_which_attack_it_does_not_know() -> None:
    model, x, y = problem(4)

    class Own:
        norm, eps = "linf", EPS

        def __call__(self, model, x, y, *, seed, index=None):
            return x

    assert "without own, whose passes are not known" in str(forecast(model, x, y, {"own": Own()}, random=False))


class Iterating(nn.Module):
    """A purifier of five calls of one layer, before a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.classifier = nn.Conv2d(1, 1, 3, padding=1), linear(SHAPE, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = x + 0.01 * self.layer(x)
        return self.classifier(x)


def test_calls_of_the_network_inside_are_a_second_count() -> None:
    model, (_, x, _) = Iterating().eval(), problem(4)
    assert network_calls(model, x[:1], torch.arange(1)) == 5
    assert network_calls(lambda z: model(z), x[:1], torch.arange(1)) == 5
    assert network_calls(linear(SHAPE, 3), x[:1], torch.arange(1)) == 1
    report = evaluate(model, x, model(x).argmax(1), {"pgd": PGD(eps=EPS, steps=3)}, seed=0, probes=0)
    assert (report.cost.network == 5 * (report.cost.forward + report.cost.judged)).all()


def test_passes_fill_the_batch_and_change_no_result() -> None:
    model, x, y = problem()
    attack = APGD(eps=0.1, steps=4, eot=6)
    fitted = fit_chunk(attack, 6, 24)
    assert fitted.eot_chunk == 4
    assert fit_chunk(Transfer(attack, model), 6, 100).attack.eot_chunk == 6
    assert fit_chunk(Square(), 1, 100) == Square()
    made = [one(NoisyModel(model, 0.1), x, y, seed=0) for one in (attack, fitted)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-6)


class Interrupting(NoisyModel):
    """Stops the process, as it were, at one of its passes."""

    def __init__(self, model: nn.Module, after: int) -> None:
        super().__init__(model, 0.1)
        self._left = after

    def with_noise(self, *, seed: int, index: Tensor):
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return super().with_noise(seed=seed, index=index)


LONG = {
    "pgd": PGD(eps=0.05, step_size=0.01, steps=8, eot=2, restarts=2, momentum=0.5, select="best", early_stop=True),
    "apgd": APGD(eps=0.05, steps=9, restarts=2),
    "apgd-l1": APGD(eps=1.0, norm="l1", steps=9),
    "square": Square(eps=0.05, queries=15, passes=2),
    "diffhammer": DiffHammer(eps=0.05, steps=5, restarts=2, draws=2),
    "fmn": FMN(eps=0.05, norm="linf", steps=9, bisections=4),
    "ddn": DDN(eps=0.5, steps=9, bisections=4),
    "alma": ALMA(eps=0.5, steps=12, bisections=4),
    "sigma-zero": SigmaZero(eps=9, steps=12, bisections=4),
    "super-deepfool": SuperDeepFool(eps=0.5, steps=3, deepfool_steps=4, eot=2, bisections=4),
    "deepfool": DeepFool(eps=0.5, steps=6, eot=3, overshoot=-0.5),
    "cw": CarliniWagner(eps=0.5, search_steps=2, steps=8),
    "spsa": SPSA(eps=0.05, steps=3, samples=2),
    "rays": RayS(eps=0.05, queries=25),
}


@pytest.mark.parametrize("name", LONG)
def test_an_interrupted_attack_goes_on_inside_and_ends_at_the_same_images(name: str, tmp_path: Path) -> None:
    model, x, y = problem()
    counted = Interrupting(model, 10**6)
    whole = LONG[name](counted, x, y, seed=0)
    total = 10**6 - counted._left
    for after in (total // 2, total - 1):
        folder = tmp_path / str(after)
        with pytest.raises(KeyboardInterrupt), keeping(folder, seconds=0.0):
            LONG[name](Interrupting(model, after), x, y, seed=0)
        assert list(folder.iterdir())
        again = Interrupting(model, 10**6)
        with keeping(folder, seconds=0.0):
            torch.testing.assert_close(LONG[name](again, x, y, seed=0), whole, rtol=0, atol=0)
        assert again._left > counted._left  # part of the work was not done again
        assert not folder.exists()


class Slow(NoisyModel):
    """Each pass takes two seconds by its own clock; the process is killed at one of them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, 0.1)
        self._passes, self._killed_at = 0, -1

    def with_noise(self, *, seed: int, index: Tensor):
        self._passes += 1
        if self._passes == self._killed_at:
            raise KeyboardInterrupt
        return super().with_noise(seed=seed, index=index)

    def now(self) -> float:
        return 2.0 * self._passes


def test_a_killed_evaluation_repeats_less_than_two_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = problem(8)
    attacks = {
        "pgd": PGD(eps=0.05, step_size=0.01, steps=12, eot=2),
        "fmn": FMN(eps=0.05, norm="linf", steps=15, bisections=5),
        "square": Square(eps=0.05, queries=25),
    }
    options = {"seed": 0, "passes": 3, "probes": 0, "batch_size": 4, "block_size": 8}
    whole, defence = Slow(model), Slow(model)
    expected = evaluate(whole, x, y, attacks, **options)
    monkeypatch.setattr("rp_attacks.resume.time.monotonic", defence.now)
    repeated: list[int] = []
    for killed_at in range(60, whole._passes, whole._passes // 6):
        folder, defence._passes, defence._killed_at = tmp_path / str(killed_at), 0, killed_at
        with pytest.raises(KeyboardInterrupt):
            evaluate(defence, x, y, attacks, folder=folder, **options)
        resumed = evaluate(defence, x, y, attacks, folder=folder, **options)
        both, defence._passes = defence._passes, 0
        evaluate(defence, x, y, attacks, folder=folder, **options)  # reads what is there, and asks who the model is
        repeated.append(both - whole._passes - defence._passes)
        assert np.array_equal(resumed.worst.right, expected.worst.right)
        assert np.array_equal(resumed.cost.forward, expected.cost.forward)  # what was counted before is kept
        assert not list(folder.rglob("unfinished*"))
    assert min(repeated) >= 0
    assert 0 < 2 * max(repeated) < 120


def test_a_finished_loop_is_not_run_again_and_inner_loops_belong_to_their_round(tmp_path: Path) -> None:
    class State:
        def __init__(self) -> None:
            self.total, self.flag, self.nothing, self.tensor = 0, True, None, torch.zeros(2)

    def work(stop: tuple[int, int] | None) -> tuple[list, State]:
        seen, outer = [], State()
        for a in resumable("outer", 2, outer):
            inner = State()
            for b in resumable("inner", 3, inner):
                if (a, b) == stop:
                    raise KeyboardInterrupt
                seen.append((a, b))
                inner.total += 1
                inner.tensor += b
            outer.total += inner.total
            outer.nothing = torch.ones(1) * a
        return seen, outer

    plain = work(None)
    assert plain[0] == [(a, b) for a in range(2) for b in range(3)]
    with pytest.raises(KeyboardInterrupt), keeping(tmp_path / "k", seconds=0.0):
        work((1, 1))
    with keeping(tmp_path / "k", seconds=0.0):
        seen, outer = work(None)
    assert seen == [(1, 1), (1, 2)]
    assert outer.total == 6
    assert outer.flag is True
    assert outer.nothing.item() == 1


@pytest.mark.parametrize("name", ["pgd", "apgd", "square", "diffhammer"])
def test_every_step_can_be_watched(name: str) -> None:
    model, x, y = problem()
    steps: list[Step] = []
    with watched(steps.append):
        made = LONG[name](NoisyModel(model, 0.1), x, y, seed=0)
    assert torch.equal(made, LONG[name](NoisyModel(model, 0.1), x, y, seed=0))  # to look changes nothing
    assert {step.attack for step in steps} == {type(LONG[name]).__name__}
    for step in steps:
        assert len(step.image) == len(step.loss) == len(step.wrong) == len(step.distance)
        assert (step.distance <= 0.05 * (1 + 1e-5)).all()
        assert (step.gradient is None) == (name == "square")
        if step.gradient is not None:
            assert (step.gradient > 0).all()
    assert steps[0].number == 0
    assert max(step.loss.max() for step in steps) >= steps[0].loss.max()


def test_an_evaluation_shows_steps_and_knows_those_on_a_source(tmp_path: Path) -> None:
    model, x, y = problem()
    steps: list[Step] = []
    attacks = {"transfer": Transfer(PGD(eps=0.02, steps=2), tiny_twin()), "pgd": PGD(eps=0.02, steps=2)}
    evaluate(model, x, y, attacks, seed=0, probes=0, watcher=steps.append)
    assert [step.on_source for step in steps] == [True, True, False, False]


def tiny_twin() -> nn.Module:
    return linear(SHAPE, 10, seed=5)


def test_blocks_are_cut_to_the_processes_and_found_again(tmp_path: Path) -> None:
    model, x, y = problem(10)
    attacks = {"pgd": PGD(eps=0.02, steps=1)}
    for rank in range(4):
        part = evaluate(model, x, y, attacks, seed=0, probes=0, folder=tmp_path, shard=(rank, 4))
        assert len(part.index) == (3 if rank < 3 else 1)
    whole = evaluate(model, x, y, attacks, seed=0, probes=0, folder=tmp_path)
    assert whole.problem["block_size"] == 3
    assert np.array_equal(whole.worst.right, evaluate(model, x, y, attacks, seed=0, probes=0).worst.right)
