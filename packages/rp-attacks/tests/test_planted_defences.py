"""Defences that only look robust: the evaluation must report the truth, and a finding must name the trick."""

from collections.abc import Callable

import pytest
import torch
from rp_attacks import PGD, FixedNoise, Report, evaluate, noise, suite
from rp_attacks.defence import COPY_STRIDE
from torch import Tensor

from .models import NoisyModel, images, linear

EPS, SHAPE = 0.12, (1, 6, 6)


def problem(count: int = 40, bits: bool = False):
    """A linear model of two classes with images on both sides of its robust margin."""
    model = linear(SHAPE, 2, scale=1.0)
    x = images(count, SHAPE, seed=3)
    if bits:
        x = (x > 0.5).float()
    weight = (model[1].weight[1] - model[1].weight[0]).detach().reshape(SHAPE)
    y = model(x).argmax(1)
    toward = torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * weight  # raises the wrong logit's lead
    return model, x, y, toward


def margin_at(model, x: Tensor, y: Tensor) -> Tensor:
    logits = model(x).detach()
    return logits.gather(1, y[:, None])[:, 0] - logits.gather(1, 1 - y[:, None])[:, 0]


def report_on(defence: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float = EPS, **options) -> Report:
    return evaluate(defence, x, y, suite("quick", eps=eps, random=False, classes=2), seed=0, **options)


def alarms(report: Report) -> set[str]:
    return {finding.check for finding in report.findings if finding.level == "alarm"}


@pytest.mark.parametrize("eps", [0.05, 0.12])
def test_an_honest_model_gives_the_truth_and_no_alarm(eps: float) -> None:
    model, x, y, toward = problem()
    truth = (margin_at(model, x + eps * toward.sign(), y) > 0).float().mean()
    assert 0.1 < truth < 0.9
    report = report_on(model, x, y, eps)
    assert report.robust_accuracy == pytest.approx(truth.item())
    assert alarms(report) == set()
    assert {finding.level for finding in report.findings} == {"ok", "note"}
    assert [finding.check for finding in report.findings if finding.level == "note"] == ["classes"]


def test_saturated_softmax_is_seen_through_and_named() -> None:
    model, x, y, toward = problem()
    truth = (margin_at(model, x + EPS * toward.sign(), y) > 0).float().mean().item()

    def defence(z: Tensor) -> Tensor:
        return 1e4 * model(z)

    alone = evaluate(defence, x, y, {"pgd": PGD(eps=EPS, start="clean")}, seed=0, probes=0)
    assert alone.robust_accuracy > truth + 0.2  # what the field would have printed
    report = report_on(defence, x, y)
    assert report.robust_accuracy == pytest.approx(truth)
    assert "saturated softmax" in alarms(report)


@pytest.mark.parametrize("cut", ["rounding", "detached"])
def test_a_defence_without_derivative_is_seen_through_and_named(cut: str) -> None:
    model, x, y, toward = problem()

    def quantise(z: Tensor) -> Tensor:
        return (z * 40).round() / 40 if cut == "rounding" else z.detach()

    def defence(z: Tensor) -> Tensor:
        return model(quantise(z))

    # a monotone function of each pixel: its worst case is at the end of the pixel's interval
    truth = (margin_at(model, quantise(x + EPS * toward.sign()), y) > 0).float().mean().item()
    report = report_on(defence, x, y)
    assert report.robust_accuracy <= truth + 1.5 / len(x)
    assert report.robust_accuracy >= truth - 1e-6
    assert {"zero gradients", "black box beats white box", "unbounded attack"} <= alarms(report)


def test_a_clamp_that_cuts_gradients_is_seen_through_and_named() -> None:
    model, x, y, toward = problem(bits=True)
    # images of black and white pixels, which can only move inwards
    optimum = (x + EPS * toward.sign()).clamp(0, 1)
    truth = (margin_at(model, optimum, y) > 0).float().mean().item()

    def defence(z: Tensor) -> Tensor:
        inside = (z > 0) & (z < 1)  # derivative 0 at the border, whatever torch's clamp has there
        return model(torch.where(inside, z, z.detach().clamp(0, 1)))

    alone = evaluate(defence, x, y, {"pgd": PGD(eps=EPS, start="clean")}, seed=0, probes=0)
    assert alone.robust_accuracy == 1  # no pixel ever moves
    report = report_on(defence, x, y)
    assert report.robust_accuracy == pytest.approx(truth)
    assert "clamped pixels" in alarms(report)


class NoisyCut(NoisyModel):
    """A pixel of an image with some black in it has no gradient, in a random defence."""

    def with_noise(self, *, seed: int, index: Tensor):
        whole = super().with_noise(seed=seed, index=index)
        # the first pixel: a clamp has no derivative below 0, where black pixels lie here
        cut = lambda z: torch.cat([(z[..., :1, :1] - 1e-4).clamp(0), z[..., :1, 1:]], dim=-1)  # noqa: E731
        return lambda z: whole(torch.cat([cut(z), z[..., 1:, :]], dim=-2))


@pytest.mark.parametrize(("sigma", "alarm"), [(0.0, True), (0.1, False)])
def test_one_pixel_without_a_gradient_is_chance_in_a_random_defence(sigma: float, alarm: bool) -> None:
    model, x, y, _ = problem(20)
    x[:, :, 0, 0] = 0
    defence = NoisyCut(model, sigma)
    report = evaluate(defence, x, y, {"pgd": PGD(eps=EPS, steps=2)}, seed=0, probes=8, passes=4 if sigma else 1)
    assert ("clamped pixels" in alarms(report)) == alarm


def test_noise_is_no_defence_and_is_judged_by_its_true_accuracy() -> None:
    model, x, y, toward = problem()
    sigma = 0.1
    margin = margin_at(model, x + EPS * toward.sign(), y)
    truth = torch.distributions.Normal(0, 1).cdf(margin / (sigma * toward[0].norm())).mean().item()
    defence = NoisyModel(model, sigma)
    attacks = {"pgd-eot": PGD(eps=EPS, step_size=EPS / 4, steps=20, eot=10, loss="cw")}
    report = evaluate(defence, x, y, attacks, seed=0, probes=8)
    assert report.robust_accuracy == pytest.approx(truth, abs=0.04)  # 800 passes: standard error 0.015
    assert report.verdict(report.worst).all_of_n.estimate < report.robust_accuracy
    assert "randomness" in {finding.check for finding in report.findings}
    assert alarms(report) == set()


def test_noise_from_the_global_generator_is_told_how_to_be_reproducible() -> None:
    model, x, y, _ = problem(10)

    def defence(z: Tensor) -> Tensor:
        return model(z + 0.1 * torch.randn_like(z))

    state = torch.get_rng_state()
    first, second = (
        evaluate(defence, x, y, {"pgd": PGD(eps=EPS, steps=2)}, seed=0, probes=2, block_size=10) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.worst.right == second.worst.right).all()
    assert any("with_noise" in finding.text for finding in first.findings)


def test_a_stronger_backward_rule_is_named() -> None:
    model, x, y, _ = problem()

    class Rounding:
        gradients = ("identity",)

        def __call__(self, z: Tensor) -> Tensor:
            return model((z * 40).round() / 40)

        def with_gradient(self, name: str):
            return lambda z: model(z + ((z * 40).round() / 40 - z).detach())

    report = report_on(Rounding(), x, y)
    text = next(finding.text for finding in report.findings if finding.check == "surrogates")
    assert "'identity' is a stronger attack than the exact gradient" in text
    broken = evaluate(
        Rounding(), x, y, {"bpda": PGD(eps=EPS, step_size=EPS / 4, loss="cw", grad="identity")}, seed=0, probes=0
    )
    assert broken.robust_accuracy < 1


def test_transfer_that_beats_the_white_box_is_named() -> None:
    model, x, y, _ = problem()

    def defence(z: Tensor) -> Tensor:
        return model((z * 40).round() / 40)

    report = evaluate(defence, x, y, {"pgd": PGD(eps=EPS)}, seed=0, source=model)
    assert any("transfer from the undefended classifier breaks" in finding.text for finding in report.findings)


def test_an_evaluation_above_its_clean_accuracy_is_refused() -> None:
    model, x, y, _ = problem()
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


class OnceInFive(NoisyModel):
    """Noise that comes in one pass of five alone, for each image by chance."""

    def with_noise(self, *, seed: int, index: Tensor):
        noisy, quiet = super().with_noise(seed=seed, index=index), self.model
        chance = noise.uniform((), seed=seed, purpose="whether", index=index, like=torch.zeros(1))
        return lambda z: torch.where(chance[:, None] < 0.2, noisy(z), quiet(z))

    def forward(self, z: Tensor) -> Tensor:
        return self.with_noise(seed=int(torch.randint(2**31, ())), index=torch.arange(len(z)))(z)


def test_a_layer_that_is_random_once_in_five_is_named_and_judged_by_its_true_accuracy() -> None:
    model, x, y, toward = problem()
    sigma = 0.3
    margin = margin_at(model, x + EPS * toward.sign(), y)
    noisy = torch.distributions.Normal(0, 1).cdf(margin / (sigma * toward[0].norm()))
    truth = (0.8 * (margin > 0) + 0.2 * noisy).mean().item()
    attacks = {"pgd-eot": PGD(eps=EPS, step_size=EPS / 4, steps=20, eot=10, loss="cw")}
    report = evaluate(OnceInFive(model, sigma), x, y, attacks, seed=0, probes=8)
    assert report.passes > 1
    assert report.robust_accuracy == pytest.approx(truth, abs=0.04)  # 800 passes: standard error 0.015
    assert "randomness" in {finding.check for finding in report.findings}
    assert alarms(report) == set()


def test_a_loop_of_optimisation_at_test_time_is_seen_through_and_named() -> None:
    model, x, y, toward = problem()

    def purified(z: Tensor) -> Tensor:
        """Three steps from grey towards the image: 7/8 of the way, and no derivative."""
        made = torch.full_like(z, 0.5)
        for _ in range(3):
            with torch.enable_grad():
                made.requires_grad_()
                (grad,) = torch.autograd.grad((made - z.detach()).square().sum() / 2, made)
            made = (made - 0.5 * grad).detach()
        return made

    truth = (margin_at(model, purified(x + EPS * toward.sign()), y) > 0).float().mean().item()
    report = report_on(lambda z: model(purified(z)), x, y)
    assert report.robust_accuracy <= truth + 1.5 / len(x)
    assert report.robust_accuracy >= truth - 1e-6
    names = {finding.check for finding in report.findings if finding.level in ("warning", "alarm")}
    assert "optimises at test time" in names
    assert names & {"zero gradients", "no gradient"}


class OneStepDenoiser(NoisyModel):
    """Noise, then one step back towards the mean of all images."""

    def with_noise(self, *, seed: int, index: Tensor):
        shape = SHAPE

        def forward(z: Tensor) -> Tensor:
            draws = noise.normal(shape, seed=seed, purpose="step", index=index % COPY_STRIDE, like=z)
            return self.model((z + self.sigma * draws) / (1 + self.sigma**2) + 0.5 * (1 - 1 / (1 + self.sigma**2)))

        return forward


def test_a_one_step_denoiser_whose_noise_is_known_falls_to_its_truth_and_says_what_noise_hid() -> None:
    model, x, y, toward = problem()
    sigma, index = 0.3, torch.arange(40)
    defence = OneStepDenoiser(model, sigma)
    known = FixedNoise(defence, seed=5)
    truth = (margin_at(known.with_noise(seed=0, index=index), x + EPS * toward.sign(), y) > 0).float().mean().item()
    attacks = {"pgd": PGD(eps=EPS, step_size=EPS / 4, steps=20, loss="cw")}
    assert evaluate(known, x, y, attacks, seed=0, probes=0).robust_accuracy == pytest.approx(truth)

    report = evaluate(defence, x, y, {"pgd": PGD(eps=EPS, step_size=EPS / 4, eot=10, loss="cw")}, seed=0, probes=16)
    shrunk = margin_at(model, (x + EPS * toward.sign()) / 1.09 + 0.5 * (1 - 1 / 1.09), y)
    expected = torch.distributions.Normal(0, 1).cdf(shrunk / (sigma / 1.09 * toward[0].norm())).mean().item()
    assert report.robust_accuracy == pytest.approx(expected, abs=0.04)  # 800 passes: standard error 0.015
    text = next(finding.text for finding in report.findings if finding.check == "known noise")
    assert "With its noise frozen and known" in text
