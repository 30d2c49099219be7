import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rp_attacks import PGD, AutoAttack, Saved, Square, evaluate
from rp_attacks.store import load_images

from .models import NoisyModel, images, linear, tiny_conv

EPS = 0.04
ATTACKS = {
    "pgd": PGD(eps=EPS, step_size=0.01, steps=3),
    "pgd-cw": PGD(eps=EPS, step_size=0.01, steps=10, loss="cw", select="best", early_stop=True),
}


def problem(count: int = 24):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    y = model(x).argmax(1)
    y[::6] = (y[::6] + 1) % 10  # a few wrong when clean
    return model, x, y


def run(model, x, y, attacks=ATTACKS, **options):
    return evaluate(model, x, y, attacks, **{"seed": 0, "probes": 0, "block_size": 7, **options})


def test_the_worst_case_is_taken_image_by_image() -> None:
    model, x, y = problem()
    report = run(model, x, y, exhaustive=True)
    threat = report.threats[0]
    twin = report.clean.right & threat.attacks["pgd"].right & threat.attacks["pgd-cw"].right
    assert np.array_equal(threat.worst.right, twin)
    assert report.robust_accuracy == twin.mean()
    assert np.array_equal((model(threat.images).argmax(1) == y).numpy(), twin[:, 0])
    assert 0 < twin.mean() < report.clean.right.mean() < 1


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_distances_are_those_of_the_images_that_were_judged(norm: str, tmp_path: Path) -> None:
    model, x, y = problem()
    eps = {"linf": 0.05, "l2": 0.3, "l1": 3.0}[norm]
    report = run(model, x, y, {"pgd": PGD(norm=norm, eps=eps, step_size=eps / 4)}, folder=str(tmp_path))
    record = report.threats[0].attacks["pgd"]
    order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
    moved = (load_images(tmp_path, "pgd") - x).flatten(1).norm(p=order, dim=1)
    np.testing.assert_allclose(record.distance, moved, rtol=1e-5, atol=1e-7)  # another order of summation
    assert (record.distance[record.tried] > 0.3 * eps).all()
    assert (record.distance[~record.tried] == 0).all()
    assert report.clean.tried.all()
    assert (report.clean.distance == 0).all()


def test_only_standing_images_go_on_and_the_worst_case_stays_the_same() -> None:
    model, x, y = problem()
    full, cascade = run(model, x, y, exhaustive=True), run(model, x, y)
    first, second = cascade.threats[0].attacks.values()
    assert np.array_equal(first.tried, cascade.clean.standing)
    assert np.array_equal(second.tried, first.standing)
    assert np.array_equal(full.worst.right, cascade.worst.right)


def test_the_result_does_not_depend_on_the_batch_size() -> None:
    model, x, y = problem()
    noisy = NoisyModel(model, 0.05)
    small, large = (run(noisy, x, y, batch_size=size, passes=4) for size in (2, 50))
    assert np.array_equal(small.worst.right, large.worst.right)
    assert small.threats[0].chosen == large.threats[0].chosen


@pytest.mark.parametrize("random", [False, True])
def test_at_radius_zero_the_report_is_the_clean_control(random: bool) -> None:
    model, x, y = problem(12)
    defence = NoisyModel(model, 0.2) if random else model
    attacks = {"pgd": PGD(eps=0.0), "square": Square(eps=0.0, queries=3), "aa": AutoAttack(eps=0.0)}
    report = run(defence, x, y, attacks)
    assert report.passes == (20 if random else 1)
    assert 0 < report.clean.right.mean() < 1
    assert np.array_equal(report.worst.right, report.clean.right)
    assert np.array_equal(report.threats[0].noise.right, report.clean.right)


def test_a_random_defence_is_reported_by_other_noise_than_selects() -> None:
    model, x, y = problem()
    report = run(NoisyModel(model, 0.3), x, y, {"pgd": PGD(eps=0.01, steps=2, eot=2)})
    clean = report.clean
    # were the selecting passes reported, the worst of several candidates would look worse than it is
    assert not np.allclose(1 - clean.right.mean(1), clean.wrong)
    verdict = report.verdict(report.worst)
    assert verdict.all_of_n.estimate <= verdict.per_query.estimate <= 1
    assert verdict.all_of_n.estimate <= verdict.majority.estimate
    assert verdict.per_query.low <= verdict.per_query.estimate <= verdict.per_query.high


def test_per_query_accuracy_of_a_random_defence_is_the_true_one() -> None:
    # a linear model with two classes behind Gaussian noise: P(right) = Phi(margin / (sigma |w|))
    model, x = linear((1, 4, 4), 2), images(200)
    sigma = 0.3
    weight = (model[1].weight[0] - model[1].weight[1]).detach()
    gap = x.flatten(1) @ weight
    y = torch.zeros(200, dtype=torch.int64)
    expected = torch.distributions.Normal(0, 1).cdf(gap / (sigma * weight.norm())).mean()
    report = run(NoisyModel(model, sigma), x, y, {"none": PGD(eps=0.0)})
    assert abs(report.robust_accuracy - expected) < 0.02  # 4,000 passes: standard error 0.008


def test_an_interrupted_evaluation_resumes_where_it_stopped(tmp_path: Path) -> None:
    model, x, y = problem()
    whole = run(model, x, y)
    done = []

    def interrupt(step) -> None:
        done.append(step.stage)
        if len(done) == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, x, y, folder=tmp_path, progress=interrupt)
    calls = 0

    def counting(z):
        nonlocal calls
        calls += 1
        return model(z)

    resumed = run(model, x, y, folder=tmp_path)
    assert np.array_equal(whole.worst.right, resumed.worst.right)
    torch.testing.assert_close(resumed.threats[0].images, whole.threats[0].images)
    before = calls
    again = run(model, x, y, folder=tmp_path)
    assert calls == before
    assert np.array_equal(again.worst.right, whole.worst.right)
    assert not list(tmp_path.rglob(".*"))  # no half-written file is left


def test_two_processes_share_the_blocks_and_one_call_gathers_them(tmp_path: Path) -> None:
    model, x, y = problem()
    halves = [run(model, x, y, folder=tmp_path, shard=(rank, 2)) for rank in (0, 1)]
    assert sorted(np.concatenate([half.index for half in halves])) == list(range(24))
    gathered, alone = run(model, x, y, folder=tmp_path), run(model, x, y)
    assert np.array_equal(gathered.worst.right, alone.worst.right)


@pytest.mark.parametrize("pixels", ["float", "uint8"])
def test_a_process_without_a_block_sees_no_image_and_the_others_do_the_work(tmp_path: Path, pixels: str) -> None:
    model, x, y = problem()
    x = (x * 255).round() / 255
    attacks = ATTACKS | {"l2": PGD(norm="l2", eps=0.1, step_size=0.05, steps=3)}
    options = {"attacks": attacks, "pixels": pixels, "folder": tmp_path}
    parts = [run(model, x, y, shard=(rank, 6), **options) for rank in range(6)]  # 24 images are four blocks of 7
    assert [len(part.index) for part in parts] == [7, 7, 7, 3, 0, 0]
    idle = parts[-1]
    assert [len(threat.images) for threat in idle.threats] == [0, 0]
    assert "| clean | 0 | none left |" in str(idle)
    assert json.loads(json.dumps(idle.to_json()))["per_image"]["clean"] == []
    with pytest.raises(ValueError, match=r"this process had no block; gather all with shard=\(0, 1\)"):
        _ = idle.robust_accuracy
    gathered = run(model, x, y, **options)
    alone = run(model, x, y, attacks=attacks, pixels=pixels)
    assert np.array_equal(gathered.worst.right, alone.worst.right)
    for one, other in zip(gathered.threats, alone.threats, strict=True):
        assert one.images.dtype == other.images.dtype == torch.float32
        assert torch.equal(one.images, other.images)


def test_a_folder_of_another_problem_is_refused(tmp_path: Path) -> None:
    model, x, y = problem(6)
    run(model, x, y, folder=tmp_path)
    with pytest.raises(ValueError, match=r"another problem \(seed differ\)"):
        run(model, x, y, folder=tmp_path, seed=1)
    with pytest.raises(ValueError, match=r"\(model differ\)"):
        run(linear((3, 8, 8), 10), x, y, folder=tmp_path)


def test_saved_bytes_are_the_images_that_were_judged(tmp_path: Path) -> None:
    model, x, y = problem()
    x = (x * 255).round() / 255
    report = run(model, x, y, folder=tmp_path, pixels="uint8")
    saved = load_images(tmp_path, "pgd")
    assert torch.equal((saved * 255).round() / 255, saved)
    tried = torch.from_numpy(report.threats[0].attacks["pgd"].tried)
    right = model(saved).argmax(1) == y
    assert np.array_equal(right[tried].numpy(), report.threats[0].attacks["pgd"].right[tried.numpy(), 0])
    assert (saved - x).abs().max() <= EPS + 1e-6
    replay = Saved.load(tmp_path, "pgd", index=torch.arange(24), eps=EPS)
    again = run(model, x, y, {"replay": replay}, pixels="uint8")
    assert np.array_equal(again.threats[0].attacks["replay"].right, report.threats[0].attacks["pgd"].right)
    with pytest.raises(ValueError, match="multiples of 1/255"):
        run(model, x * 0.999, y, pixels="uint8")
    with pytest.raises(FileNotFoundError, match=r"no images of 'fab'; it holds clean, noise-linf-0.04, pgd, pgd-cw"):
        load_images(tmp_path, "fab")


def test_every_ball_has_its_own_worst_case_and_there_is_one_over_all() -> None:
    model, x, y = problem()
    attacks = {"linf": PGD(eps=0.01, step_size=0.005), "l2": PGD(norm="l2", eps=0.1, step_size=0.05)}
    report = run(model, x, y, attacks)
    assert [threat.name for threat in report.threats] == ["linf 2.55/255", "l2 0.1"]
    assert np.array_equal(report.worst.right, report.threats[0].worst.right & report.threats[1].worst.right)


def test_the_table_and_the_json_say_the_same() -> None:
    model, x, y = problem()
    report = run(NoisyModel(model, 0.05), x, y, passes=10)
    data = json.loads(json.dumps(report.to_json()))
    text = str(report)
    assert "| clean | 24 |" in text
    assert "all of 10" in text
    worst = next(row for row in data["table"] if row["name"] == "WORST CASE")
    assert worst["per_query"]["estimate"] == report.robust_accuracy
    assert f"{100 * report.robust_accuracy:.2f}%" in text
    assert len(data["per_image"]["linf 10.2/255"]["chosen"]) == 24


def test_an_interval_has_width_even_where_every_pass_agrees() -> None:
    model, x, _ = problem(12)
    y = model(x).argmax(1)
    steady = run(model, x, y, {"none": PGD(eps=0.0)}, passes=3)
    assert steady.verdict(steady.clean).per_query.estimate == 1
    assert 0.7 < steady.verdict(steady.clean).per_query.low < 0.8


def test_two_defences_are_compared_on_the_same_images() -> None:
    model, x, y = problem(60)
    weak, strong = run(model, x, y), run(model, x, y, {"pgd": PGD(eps=0.001)})
    comparison = strong.compare(weak)
    assert comparison.difference.low > 0
    assert comparison.only_second == 0
    assert comparison.p_value < 0.05
    assert "the two differ" in str(comparison)
    with pytest.raises(ValueError, match="different images"):
        weak.compare(run(model, x[:50], y[:50]))


def test_an_attack_that_cheats_is_refused() -> None:
    model, x, y = problem(6)

    class Cheat:
        norm, eps = "linf", 0.01

        def __init__(self, change):
            self.change = change

        def __call__(self, model, x, y, *, seed, index=None):
            return self.change(x)

    for change, message in [
        (lambda x: x + 0.02, "left its linf ball: 0.02 > eps 0.01"),
        (lambda x: x * float("nan"), "finite images"),
        (lambda x: x[:, :1], "finite images of shape"),
        (lambda x: x - 0.9, r"left \[0, 1\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(model, x, y, {"cheat": Cheat(change)})


def test_bad_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model, x, y = problem(6)
    for arguments, options, message in [
        ((model, x * 255, y), {}, "divide bytes by 255"),
        ((model, x, y + 10), {}, "is out of range: the model has 10 classes"),
        ((lambda z: model(z) * float("inf"), x, y), {}, "NaN or infinite logits"),
        ((tiny_conv().train(), x, y), {}, r"train mode.*call \.eval\(\)"),
        ((tiny_conv().to("meta"), x, y), {}, "the model is on meta and x on cpu"),
        ((model, x, y), {"attacks": {}}, "attacks is empty"),
        ((model, x, y), {"attacks": {"a/b": PGD()}}, "cannot name a folder"),
        ((model, x, y), {"attacks": {"clean": PGD()}}, "cannot name a folder"),
        ((model, x, y), {"shard": (2, 2)}, "0 <= rank < processes"),
        ((model, x, y), {"shard": (0, 2)}, "pass one"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(*arguments, **options)
    with pytest.raises(TypeError, match="y must be int64 labels"):
        run(model, x, model(x).softmax(1).detach())
