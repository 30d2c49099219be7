"""Gradients that are tiny, huge, not finite, or missing: attacks go the right way, or say why they cannot."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from rp_attacks import APGD, FAB, PGD, AutoAttack, CarliniWagner, DeepFool, MeanLogits, ascend, evaluate
from rp_attacks.eot import NoGradientError, expected_gradient
from rp_attacks.losses import cross_entropy, cw_margin
from rp_attacks.norms import NORMS, ascent_step, repaired, size, unit
from rp_attacks.presets import OnMeanLogits
from torch import Tensor, nn

from .models import images, linear, tiny_conv


def right(model, x_adv: Tensor, y: Tensor) -> float:
    return (model(x_adv).argmax(1) == y).float().mean().item()


@settings(deadline=None, max_examples=40)
@given(norm=st.sampled_from(NORMS), power=st.integers(-37, 36), seed=st.integers(0, 99))
def test_a_step_has_its_length_at_every_scale_of_the_gradient(norm: str, power: int, seed: int) -> None:
    grad = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    grad = grad.sign() * grad.abs().clamp_min(0.01)  # times 1e-37 still no number that a processor may flush to zero
    at = torch.full_like(grad, 0.5)
    step = ascent_step(10.0**power * grad, at, norm=norm, step_size=0.5)
    torch.testing.assert_close(size(step, norm), torch.full((3,), 0.5))
    torch.testing.assert_close(step, ascent_step(grad, at, norm=norm, step_size=0.5), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(unit(10.0**power * grad, norm), unit(grad, norm), rtol=1e-4, atol=1e-6)
    assert torch.equal(unit(0 * grad, norm), 0 * grad)


CONFIDENT = {
    "pgd-l2": lambda loss: PGD(norm="l2", eps=0.5, step_size=0.05, steps=20, loss=loss, start="clean"),
    "pgd-l1": lambda loss: PGD(norm="l1", eps=3.0, step_size=0.3, steps=20, loss=loss, start="clean"),
    "pgd-momentum": lambda loss: PGD(eps=0.05, step_size=0.01, steps=20, loss=loss, momentum=0.9, start="clean"),
    "apgd-l2": lambda loss: APGD(norm="l2", eps=0.5, steps=30, loss=loss, start="clean"),
    "apgd-linf": lambda loss: APGD(eps=0.05, steps=30, loss=loss, start="clean"),
    "apgd-l1": lambda loss: APGD(norm="l1", eps=3.0, steps=30, loss=loss, start="clean"),
}


@pytest.mark.parametrize("kind", CONFIDENT)
def test_the_cross_entropy_of_a_confident_model_leads_where_the_margin_does(kind: str) -> None:
    plain, x = linear((1, 8, 8), 10), images(40, (1, 8, 8), margin=0.0)
    best = plain(x).detach().topk(2, dim=1)
    lead, y = (best.values[:, 0] - best.values[:, 1]), best.indices[:, 0]
    keep = lead > 0.5  # else a small move takes the margin where the softmax is 0 exactly
    x, y, scale = x[keep], y[keep], 60 / lead[keep]  # every margin is 60: the softmax is 1 to the last bit

    def model(z: Tensor) -> Tensor:
        return scale[: len(z), None] * plain(z)

    entropy, margin = (right(model, CONFIDENT[kind](loss)(model, x, y, seed=0), y) for loss in ("ce", "cw"))
    assert entropy <= margin + 0.06


def test_cross_entropy_keeps_loss_and_gradient_of_confident_predictions() -> None:
    for gap in (0.0, 5.0, 28.0, 80.0):
        logits = torch.tensor([[gap, 0.0, -1.0], [-1.0, gap, 0.0]], requires_grad=True)
        y = torch.tensor([0, 1])
        loss = cross_entropy(logits, y)
        twin = torch.log1p(torch.tensor(1 + 2.718281828459045**-1.0).double() * torch.tensor(-gap).double().exp())
        torch.testing.assert_close(loss.double(), twin.expand(2), rtol=1e-5, atol=0)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        q = -torch.expm1(-twin)
        torch.testing.assert_close(grad[[0, 1], y].double(), -q.expand(2), rtol=1e-4, atol=0)
        torch.testing.assert_close(grad.sum(dim=1), torch.zeros(2), rtol=0, atol=1e-6 * float(q) + 1e-42)


@pytest.mark.parametrize("scale", [1e-6, 1e-12, 1e-20])
def test_attacks_on_the_nearest_boundary_do_not_see_the_scale_of_logits(scale: float) -> None:
    model, x = tiny_conv(), images(4, (3, 8, 8))
    y = model(x).argmax(1)
    for attack in (DeepFool(eps=1.0), DeepFool(norm="linf", eps=1.0)):
        plain, small = (attack.search(f, x, y, seed=0) for f in (model, lambda z: scale * model(z)))
        torch.testing.assert_close(small, plain, atol=1e-4, rtol=0)
    attack = CarliniWagner(eps=2.0, search_steps=4, steps=60)
    plain, small = (attack.search(f, x, y, seed=0)[1] for f in (model, lambda z: scale * model(z)))
    # the search for the penalty begins elsewhere, and ends at the same distance to its own precision
    torch.testing.assert_close(small, plain, rtol=0.1, atol=0)


def test_repaired_gradients_by_hand() -> None:
    inf, nan = float("inf"), float("nan")
    grad, share = repaired(torch.tensor([[1.0, -2.0, inf, nan], [-inf, inf, nan, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    assert grad.tolist() == [[1, -2, 2, 0], [-1, 1, 0, 0], [1, 2, 3, 4]]
    assert share.tolist() == [0.5, 0.75, 0]


def steep() -> tuple[nn.Module, Tensor, Tensor]:
    """A network behind a root, whose slope is infinite at the black pixels of the three top rows."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    x = torch.rand(64, 1, 8, 8, generator=generator)
    x[:, :, :3] = 0
    return network, x, network(x.pow(0.45)).argmax(1)


STEEP = {
    "pgd-l2": PGD(norm="l2", eps=0.5, step_size=0.1, steps=30),
    "pgd-l2-clean": PGD(norm="l2", eps=0.5, step_size=0.1, steps=30, start="clean", momentum=0.5, eot=2),
    "apgd-l2": APGD(norm="l2", eps=0.5, steps=50),
    "apgd-l1": APGD(norm="l1", eps=2.0, steps=50),
    "deepfool-l2": DeepFool(eps=0.5),
    "deepfool-linf": DeepFool(norm="linf", eps=0.05),
    "cw": CarliniWagner(eps=0.5, search_steps=3, steps=50),
    "fab": FAB(norm="l2", eps=0.5, targets=3, steps=20),
    "library-apgd": AutoAttack(norm="l2", eps=0.5, attacks=("apgd-ce",)),
}


@pytest.mark.parametrize("name", STEEP)
def test_infinite_slopes_neither_stop_an_attack_nor_spoil_its_images(name: str) -> None:
    network, x, y = steep()

    def model(z: Tensor) -> Tensor:
        return network(z.pow(0.45))

    x_adv = STEEP[name](model, x, y, seed=0)
    assert torch.isfinite(x_adv).all()
    # the truth is next to 0: roots of black pixels are steep, and a small move there is large behind them
    assert right(model, x_adv, y) <= 0.1


def test_infinite_slopes_are_told_and_gradients_that_are_nowhere_a_number_refused() -> None:
    network, x, y = steep()
    sample = expected_gradient(
        lambda z: network(z.pow(0.45)), x, y, cw_margin, seed=0, index=torch.arange(64), passes=2, chunk=2
    )
    assert torch.isfinite(sample.grad).all()
    assert (sample.broken >= 0.374).all()  # three rows of eight
    report = evaluate(lambda z: network(z.pow(0.45)), x[:8], y[:8], {"pgd": PGD(steps=2)}, seed=0, probes=4)
    assert "non-finite gradient" in {finding.check for finding in report.findings if finding.level == "warning"}

    def nowhere(z: Tensor) -> Tensor:
        return network(z + (0 * z).sqrt())

    for attack in (PGD(start="clean"), APGD(start="clean")):
        with pytest.raises(ValueError, match="gradient of the loss is NaN or infinite in every pixel of 64 of 64"):
            attack(nowhere, x, y, seed=0)


MISSING = {
    "pgd": PGD(steps=2),
    "apgd": APGD(steps=2),
    "deepfool": DeepFool(steps=2),
    "cw": CarliniWagner(steps=2),
    "mean": OnMeanLogits(PGD(steps=2), passes=2),
    "fab": FAB(steps=2, targets=2),
    "library-apgd": AutoAttack(attacks=("apgd-ce",)),
}


@pytest.mark.parametrize("cut", ["detached", "no_grad", "inference"])
@pytest.mark.parametrize("name", MISSING)
def test_a_missing_gradient_is_an_error_and_never_zeros(name: str, cut: str) -> None:
    model, x = tiny_conv(), images(3, (3, 8, 8))
    y = model(x).argmax(1)
    cuts = {
        "detached": lambda z: model(z.detach()),
        "no_grad": torch.no_grad()(lambda z: model(z)),
        "inference": torch.inference_mode()(lambda z: model(z)),
    }
    with pytest.raises(
        NoGradientError, match=r"no gradient in the images .* under torch\.no_grad\(\) or torch\.inference_mode"
    ):
        MISSING[name](cuts[cut], x, y, seed=0)
    with pytest.raises(NoGradientError):
        ascend(lambda z: cross_entropy(cuts[cut](z), y), x, x, eps=0.1, step_size=0.1, steps=1)
    mean = MeanLogits(cuts[cut], passes=2, seed=0)
    with pytest.raises(NoGradientError):
        expected_gradient(mean, x, y, cross_entropy, seed=0, index=torch.arange(3))
