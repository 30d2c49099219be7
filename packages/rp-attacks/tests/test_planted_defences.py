"""Defences that only look robust: the evaluation must report the truth, and a finding must name the trick."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rp_attacks import PGD, FixedNoise, Report, evaluate, suite
from rp_testing.planted import EPS, PLANTED, linear_problem, margin_at, one_step_denoiser, pgd
from torch import Tensor

from .models import NoisyModel

README = Path(__file__).parents[1] / "README.md"


def report_on(defence: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float = EPS, **options) -> Report:
    return evaluate(defence, x, y, suite("quick", eps=eps, random=False, classes=2), seed=0, **options)


def alarms(report: Report) -> set[str]:
    return {finding.check for finding in report.findings if finding.level == "alarm"}


@pytest.mark.parametrize("eps", [0.05, 0.12])
def test_an_honest_model_gives_the_truth_and_no_alarm(eps: float) -> None:
    model, x, y, toward = linear_problem()
    truth = (margin_at(model, x + eps * toward.sign(), y) > 0).float().mean()
    assert 0.1 < truth < 0.9
    report = report_on(model, x, y, eps)
    assert report.robust_accuracy == pytest.approx(truth.item())
    assert alarms(report) == set()
    assert {finding.level for finding in report.findings} == {"ok", "note"}
    assert [finding.check for finding in report.findings if finding.level == "note"] == ["classes"]


@pytest.mark.parametrize("name", PLANTED)
def test_every_planted_defence_is_seen_through_and_named(name: str) -> None:
    planted = PLANTED[name]()
    report = planted.report()
    accuracy, fooled = report.robust_accuracy, planted.left_by_pgd()
    assert accuracy == pytest.approx(planted.truth, abs=planted.off)
    if planted.stops:  # what the field would have printed
        assert fooled > planted.truth + 0.09
    text = next(finding.text for finding in report.findings if finding.check == planted.named)
    if planted.named == "BPDA beats exact gradient":
        text = next(f.text for f in report.findings if "Layers that mask it" in f.text)
        assert "Layers that mask it: 0 (" in text
    row = re.search(
        rf"^\| {name} \| (.*?)% \| (.*?)% \| (.*?)% \| {planted.named} \|$", README.read_text(), re.MULTILINE
    )
    assert row is not None, f"the README's table lacks {name}"
    shown = [float(number) for number in row.groups()]
    assert shown == pytest.approx([100 * fooled, 100 * accuracy, 100 * planted.truth], abs=1.0)


def test_a_denoiser_whose_noise_is_known_falls_to_its_truth() -> None:
    _, x, y, toward = linear_problem()
    known = FixedNoise(one_step_denoiser().defence, seed=5)
    answer = known.with_noise(seed=0, index=torch.arange(40))
    truth = (margin_at(answer, x + EPS * toward.sign(), y) > 0).float().mean().item()
    assert evaluate(known, x, y, {"pgd": pgd()}, seed=0, probes=0).robust_accuracy == pytest.approx(truth)


class NoisyCut(NoisyModel):
    """A pixel of an image with some black in it has no gradient, in a random defence."""

    def with_noise(self, *, seed: int, index: Tensor):
        whole = super().with_noise(seed=seed, index=index)
        # the first pixel: a clamp has no derivative below 0, where black pixels lie here
        cut = lambda z: torch.cat([(z[..., :1, :1] - 1e-4).clamp(0), z[..., :1, 1:]], dim=-1)  # noqa: E731
        return lambda z: whole(torch.cat([cut(z), z[..., 1:, :]], dim=-2))


@pytest.mark.parametrize(("sigma", "alarm"), [(0.0, True), (0.1, False)])
def test_one_pixel_without_a_gradient_is_chance_in_a_random_defence(sigma: float, alarm: bool) -> None:
    model, x, y, _ = linear_problem(20)
    x[:, :, 0, 0] = 0
    defence = NoisyCut(model, sigma)
    report = evaluate(defence, x, y, {"pgd": PGD(eps=EPS, steps=2)}, seed=0, probes=8, passes=4 if sigma else 1)
    assert ("clamped pixels" in alarms(report)) == alarm


def test_noise_from_the_global_generator_is_told_how_to_be_reproducible() -> None:
    model, x, y, _ = linear_problem(10)

    def defence(z: Tensor) -> Tensor:
        return model(z + 0.1 * torch.randn_like(z))

    state = torch.get_rng_state()
    first, second = (
        evaluate(defence, x, y, {"pgd": PGD(eps=EPS, steps=2)}, seed=0, probes=2, block_size=10) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.worst.right == second.worst.right).all()
    assert any("with_noise" in finding.text for finding in first.findings)


def test_transfer_that_beats_the_white_box_is_named() -> None:
    model, x, y, _ = linear_problem()

    def defence(z: Tensor) -> Tensor:
        return model((z * 40).round() / 40)

    report = evaluate(defence, x, y, {"pgd": PGD(eps=EPS)}, seed=0, source=model)
    assert any("transfer from the undefended classifier breaks" in finding.text for finding in report.findings)


def test_an_evaluation_above_its_clean_accuracy_is_refused() -> None:
    model, x, y, _ = linear_problem()
    honest = report_on(model, x, y, probes=0)
    import dataclasses

    from rp_attacks.diagnostics import diagnose

    threat = honest.threats[0]
    impossible = dataclasses.replace(threat, worst=honest.clean)
    worse_clean = dataclasses.replace(honest.clean, right=threat.worst.right)
    findings = diagnose(
        model, x, y, torch.arange(len(x)), clean=worse_clean, threats=[impossible], attacks={}, seed=0, probes=1
    )
    assert findings[0].level == "refused"
    report = dataclasses.replace(honest, findings=tuple(findings))
    assert "REFUSED" in str(report)
    with pytest.raises(ValueError, match="no robust accuracy can be given"):
        _ = report.robust_accuracy
