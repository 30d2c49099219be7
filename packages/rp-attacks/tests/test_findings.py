"""Every finding once where it fires and once where it does not; nothing fires on honest networks."""

import dataclasses

import numpy as np
import pytest
import torch
from rp_attacks import APGD, PGD, AutoAttack, Square, Transfer, evaluate, suite
from rp_attacks.defence import LogProbabilities
from rp_attacks.model_checks import spread
from rp_attacks.report import Report
from rp_testing.planted import trained_network
from torch import Tensor, nn

from .models import NoisyModel, images, linear, load_golden, tiny_conv

SHAPE, EPS = (1, 6, 6), 0.1


def problem(count: int = 40, classes: int = 4):
    model, x = linear(SHAPE, classes), images(count, SHAPE, seed=3)
    return model, x, model(x).argmax(1)


def run(defence, x: Tensor, y: Tensor, attacks, **options) -> Report:
    return evaluate(defence, x, y, attacks, **{"seed": 0, "probes": 0, **options})


def found(report: Report, level: str | None = None) -> dict[str, str]:
    return {f.check: f.text for f in report.findings if level is None or f.level == level}


def pgd(**options) -> PGD:
    return PGD(**{"eps": EPS, "step_size": EPS / 4, "steps": 20, "loss": "cw", **options})


def shattered(model):
    """A rounding layer: true answers, no gradient."""
    return lambda z: model((40 * z).round() / 40)


@pytest.mark.parametrize("name", ["linear", "convolutional", "adversarially trained"])
def test_nothing_fires_on_an_honest_network(name: str) -> None:
    if name == "adversarially trained":
        golden = load_golden("rb_planted_masking")
        model, x, y = trained_network(), *(torch.from_numpy(golden[key])[:30] for key in ("in_x", "in_y"))
    elif name == "convolutional":
        model, x = tiny_conv(), images(40, (3, 8, 8))
        y = model(x).argmax(1)
    else:
        model, x, y = problem(classes=10)
    eps = {"linear": 0.05, "convolutional": 0.02, "adversarially trained": 0.1}[name]
    norms = {"linf": eps, "l2": 3 * eps} if name != "adversarially trained" else {"linf": eps}
    for norm, radius in norms.items():
        attacks = suite("quick", eps=radius, norm=norm, random=False, source=tiny_twin(x))
        attacks["apgd-t"] = APGD(eps=radius, norm=norm, steps=30, loss="targeted-dlr", targets=3)
        attacks["malt"] = dataclasses.replace(attacks["apgd-t"], order="malt")
        for exhaustive in (False, True):
            report = run(model, x, y, attacks, probes=16 * (not exhaustive), exhaustive=exhaustive)
            assert 0 < report.robust_accuracy < 1
            assert {finding.level for finding in report.findings} <= {"ok", "note"}, str(report)


def tiny_twin(x: Tensor) -> nn.Module:
    """Another network of as many classes, which knows nothing."""
    return linear(tuple(x.shape[1:]), 10, seed=9)


def test_randomness_is_told_with_its_numbers() -> None:
    model, x, y = problem()
    text = found(run(NoisyModel(model, 0.3), x, y, {"none": PGD(eps=0.0)}, probes=4), "note")["randomness"]
    assert "5 passes over 8 images get" in text
    assert "logits of length 1 lie up to" in text
    assert "randomness" not in found(run(model, x, y, {"none": PGD(eps=0.0)}, probes=4))
    passes = torch.tensor([[[3.0, 4.0]], [[6.0, 8.0]], [[4.0, 3.0]]])  # lengths do not count
    assert spread(passes) == pytest.approx(0.2 * 2**0.5, rel=1e-6)


def test_probabilities_in_place_of_logits_are_a_warning_and_their_logarithm_is_not() -> None:
    model, x, y = problem()

    def soft(z: Tensor) -> Tensor:
        return model(z).softmax(1)

    text = found(run(soft, x, y, {"pgd": pgd()}, probes=4), "warning")["probabilities"]
    assert "rows sum to 1 within" in text
    for honest in (model, LogProbabilities(soft)):
        assert "probabilities" not in found(run(honest, x, y, {"pgd": pgd()}, probes=4))
    torch.testing.assert_close(LogProbabilities(soft)(x), model(x).log_softmax(1))


def test_few_classes_are_told() -> None:
    model, x, y = problem(classes=5)
    attacks = {"t": APGD(eps=EPS, steps=2, loss="targeted-dlr"), "aa": AutoAttack(eps=0.0)}
    text = found(run(model, x, y, attacks, probes=2), "note")["classes"]
    assert "5 classes" in text
    assert "(t 9, aa 9) there are 4" in text
    few = {"t": APGD(eps=EPS, steps=2, loss="targeted-dlr", targets=4)}
    assert "classes" not in found(run(model, x, y, few, probes=2))


def test_a_gradient_that_is_zero_only_at_the_start_is_told() -> None:
    model, x, y = problem()
    x = (x * 10).round() / 10

    def defence(z: Tensor) -> Tensor:
        """A gradient at the images themselves, which are multiples of 1/10, and nowhere else."""
        on_grid = ((10 * z).round() - 10 * z).abs() < 2e-6
        return model(torch.where(on_grid, z, z.detach()))

    report = run(defence, x, y, {"pgd": pgd()}, probes=10)
    assert "for 10 of 10 images at the random start" in found(report, "alarm")["zero gradient at start"]
    assert "zero gradients" not in found(report, "alarm")
    assert "zero gradient at start" not in found(run(model, x, y, {"pgd": pgd()}, probes=10))


def test_square_inside_autoattack_below_its_gradient_attacks() -> None:
    model, x, y = problem(20)
    for defence, fires in ((shattered(model), True), (model, False)):
        # the whole ensemble is one attack: only its parts know which of them broke an image
        report = run(defence, x, y, {"aa": AutoAttack(eps=0.3, attacks=("apgd-ce", "square"))})
        alarms = found(report, "alarm")
        assert ("black box beats white box" in alarms) == fires
        if fires:
            alone = int(report.threats[0].attacks["aa"].blind.sum())
            assert alone > 5
            text = alarms["black box beats white box"]
            assert f"Square broke {alone} of 20 images inside aa" in text
            assert f"(accuracy {report.robust_accuracy:.1%} against {report.robust_accuracy + alone / 20:.1%})" in text


def test_one_call_of_autoattack_and_its_groups_give_the_same_images() -> None:
    from pyautoattack import AutoAttack as Library

    model, x = tiny_conv(), images(12, (3, 8, 8))
    y = model(x).argmax(1)
    for parts in (["apgd-ce", "square"], ["square", "apgd-ce"], ["apgd-ce", "square", "apgd-dlr"]):
        library = Library(model, eps=0.01, norm="Linf", version="custom", attacks=parts, seed=3, device="cpu")
        for part in (library.apgd, library.apgd_targeted):
            part.n_restarts, part.n_iter = 1, 5
        library.square.n_queries = 40
        expected, _ = library.run_standard_evaluation(x, y, batch_size=12)
        from rp_attacks.autoattack import _by_groups

        library.attacks_to_run = parts
        with torch.no_grad():
            assert torch.equal(_by_groups(library, x, y, torch.arange(12)), expected)


class WithRule:
    """A shattered model that offers the identity as backward rule."""

    gradients = ("identity",)

    def __init__(self, model) -> None:
        self.model = model

    def __call__(self, z: Tensor) -> Tensor:
        return shattered(self.model)(z)

    def with_gradient(self, name: str):
        return lambda z: self.model(z + ((40 * z).round() / 40 - z).detach())


def test_a_backward_rule_that_beats_the_exact_gradient() -> None:
    model, x, y = problem()
    attacks = {"exact": pgd(), "bpda": pgd(grad="identity")}
    for exhaustive in (False, True):
        report = run(WithRule(model), x, y, attacks, exhaustive=exhaustive)
        text = found(report, "alarm")["BPDA beats exact gradient"]
        assert "(bpda) broke" in text
        assert f"accuracy {report.robust_accuracy:.1%} against" in text

    class Honest(WithRule):
        def __call__(self, z: Tensor) -> Tensor:
            return self.model(z)

        def with_gradient(self, name: str):
            return self.model

    assert "BPDA beats exact gradient" not in found(run(Honest(model), x, y, attacks, exhaustive=True))


def test_transfer_that_beats_the_exact_gradient() -> None:
    model, x, y = problem()
    attacks = {"exact": pgd(), "transfer": Transfer(pgd(), model)}
    text = found(run(shattered(model), x, y, attacks), "alarm")["transfer beats exact gradient"]
    assert "Images transferred from another model (transfer) broke" in text
    assert "transfer beats exact gradient" not in found(
        run(model, x, y, {"exact": pgd(restarts=4), "transfer": Transfer(pgd(), model)}, exhaustive=True)
    )


class Tilted(nn.Module):
    """The likeliest wrong classes lie far away: a large logit whose slope is tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear(SHAPE, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        lead = logits.amax(dim=1, keepdim=True)
        far = lead - 0.01 * (1 + torch.arange(3)) + 1e-4 * x.flatten(1)[:, :1]
        return torch.cat([logits, far], dim=1)


def test_targets_in_malt_s_order_that_beat_the_likeliest_ones() -> None:
    model, x = Tilted().eval(), images(40, SHAPE, seed=3)
    y = model(x).argmax(1)
    likeliest = APGD(eps=0.08, steps=20, loss="targeted-dlr", targets=2)
    attacks = {"apgd-t": likeliest, "malt": dataclasses.replace(likeliest, order="malt")}
    report = run(model, x, y, attacks)
    assert "Targets in MALT's order (malt) broke" in found(report, "warning")["MALT beats likeliest targets"]
    honest = linear(SHAPE, 6)
    assert "MALT beats likeliest targets" not in found(run(honest, x, honest(x).argmax(1), attacks))


def test_malt_ranks_classes_by_their_distance_in_a_linear_model() -> None:
    model, x = linear(SHAPE, 6), images(10, SHAPE)
    logits, weight = model(x).detach(), model[1].weight.detach()
    y = logits.argmax(1)
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", float("inf"))):
        attack = APGD(norm=norm, eps=0.1, loss="targeted-dlr", targets=9, order="malt")
        ranked = attack._ranked_classes(model, x, y, 0, torch.arange(10))
        for row in range(10):
            others = [k for k in range(6) if k != y[row]]
            distance = {
                k: (logits[row, y[row]] - logits[row, k]) / (weight[y[row]] - weight[k]).norm(p=dual) for k in others
            }
            assert ranked[row].tolist() == sorted(others, key=distance.__getitem__)


def test_more_iterations_that_help() -> None:
    model, x, y = problem()
    short = pgd(step_size=EPS / 20, steps=10, start="clean")
    text = found(run(model, x, y, {"short": short}, probes=40), "alarm")["more iterations"]
    assert "of up to 10 steps left standing" in text
    assert "those of 20 steps" in text
    assert "more iterations" not in found(run(model, x, y, {"long": pgd()}, probes=40), "alarm")


class Downhill(nn.Module):
    """True answers, and a gradient that points the wrong way."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(2 * x.detach() - x)


def test_a_loss_that_is_highest_at_the_first_iterate() -> None:
    model, x, y = problem()
    for attack in (pgd(start="clean"), APGD(eps=EPS, steps=10, loss="cw", start="clean")):
        report = run(Downhill(model).eval(), x, y, {"attack": attack})
        tried = int(report.threats[0].attacks["attack"].tried.sum())
        text = found(report, "alarm")["best loss at the first iterate"]
        assert f"for {tried} of {tried} images" in text
        assert "best loss at the first iterate" not in found(run(model, x, y, {"attack": attack}))


class Overshooting(PGD):
    """Wanders on after it has fooled the model, and gives its last iterate back."""

    __slots__ = ()

    def _step(self, x_adv: Tensor, x: Tensor, grad: Tensor) -> Tensor:
        moved = super()._step(x_adv, x, grad)
        fooling = ((x_adv - x).flatten(1).abs().amax(1) > 0.5 * self.eps)[:, None, None, None]
        return torch.where(fooling, (x + 0.95 * self.eps).clamp(0, 1), moved)


def test_an_iterate_that_fooled_although_the_returned_image_does_not() -> None:
    model, x, y = problem()
    lossy = Overshooting(eps=0.3, step_size=0.2, steps=3, start="clean", loss="cw")
    report = run(model, x, y, {"lossy": lossy})
    silent = report.threats[0].attacks["lossy"].fooled & report.worst.standing
    assert f"for {silent.sum()} of 40 images an iterate fooled" in found(report, "warning")["silent success"]
    kept = dataclasses.replace(lossy, select="best")
    assert "silent success" not in found(run(model, x, y, {"kept": kept}))


def test_failures_that_do_not_use_their_radius() -> None:
    model, x, y = problem()
    timid = pgd(step_size=EPS / 100, steps=20, start="clean")
    report = run(model, x, y, {"timid": timid})
    assert "use 20% of the radius on average (less than 90%)" in found(report, "warning")["unused radius"]
    assert "unused radius" not in found(run(model, x, y, {"pgd": pgd(), "square": Square(eps=EPS, queries=20)}))


def test_known_noise_is_a_note_on_random_defences_alone() -> None:
    model, x, y = problem()
    noisy = run(NoisyModel(model, 0.05), x, y, {"pgd": pgd(eot=2)}, probes=6, passes=4)
    assert "over 3 seeds" in found(noisy, "note")["known noise"]
    assert "known noise" not in found(run(model, x, y, {"pgd": pgd()}, probes=6))


def test_a_surrogate_is_compared_with_the_defence() -> None:
    model, x, y = problem()
    attacks = {"pgd": pgd(), "short": Transfer(pgd(), linear(SHAPE, 4)), "none": Transfer(pgd(), linear(SHAPE, 4, 7))}
    texts = [f.text for f in run(model, x, y, attacks, probes=10).findings if f.check == "surrogate"]
    assert "mean cosine 1.00" in texts[0]
    assert "mean cosine 1.00" not in texts[1]
    source = attacks["short"].source
    assert "surrogate" not in found(run(model, x, y, {"t": Transfer(pgd(), source)}, probes=4, source=source))


def test_attacks_that_are_the_same_run_once_and_are_told() -> None:
    model, x, y = problem(12)
    x[:, :, 0] = 0.0  # black pixels, from which a clamped gradient is cut off
    y = model(x).argmax(1)
    asked = []

    class Clamped:
        """Exact: no gradient at the bounds; identity: one everywhere."""

        gradients = ("exact", "identity")

        def __call__(self, z: Tensor) -> Tensor:
            asked.append("exact")
            return model(torch.where((z > 0) & (z < 1), z, z.detach()))

        def with_gradient(self, name: str):
            return lambda z: (asked.append("identity"), model(z))[1]

    attacks = {"bpda": pgd(grad="identity"), "exact": pgd()}
    report = run(Clamped(), x, y, attacks)
    (threat,) = report.threats
    assert list(threat.same) == ["exact"]
    assert threat.attacks["exact"] is threat.attacks["bpda"]
    assert "exact is bpda, but for" in found(report, "note")["same attack"]
    assert asked.count("identity") >= 20
    assert run(Clamped(), x, y, attacks, exhaustive=True).threats[0].same == {}
    assert run(WithRule(model), x, y, {"bpda": pgd(grad="identity"), "exact": pgd()}).threats[0].same == {}
    assert np.array_equal(report.worst.right, run(model, x, y, {"pgd": pgd()}).worst.right)
