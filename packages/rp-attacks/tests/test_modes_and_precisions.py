"""The caller's mode, and the precision and layout of images and models, do not change what an attack finds."""

import pytest
import torch
from rp_attacks import APGD, PGD, AutoAttack, DeepFool, LibrarySquare, ascend, evaluate, suite
from rp_attacks.eot import expected_gradient
from rp_attacks.losses import cross_entropy
from rp_attacks.norms import NORMS, random_start, size
from torch import Tensor

from .models import NoisyModel, images, linear, tiny_conv
from .test_every_attack import KINDS


def problem(count: int = 3):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_changes_nothing(kind: str) -> None:
    model, x, y = problem()
    attack, noisy = KINDS[kind](0.02), NoisyModel(model, 0.05)
    outside = attack(noisy, x, y, seed=0)
    with torch.inference_mode():
        # made in the mode, as a test loop's batches are
        made, labels = x.clone(), y.clone()
        inside = attack(noisy, made, labels, seed=0, index=torch.arange(3))
        assert torch.is_inference_mode_enabled()
    assert torch.equal(inside, outside)


def test_inference_mode_changes_nothing_in_the_parts_of_attacks() -> None:
    model, x, y = problem()
    index = torch.arange(3)
    outside = expected_gradient(model, x, y, cross_entropy, seed=0, index=index)
    found = DeepFool(eps=1.0).search(model, x, y, seed=0)

    def trained(z: Tensor, labels: Tensor) -> Tensor:
        return ascend(lambda a: cross_entropy(model(a), labels), z, z, eps=0.02, step_size=0.01, steps=3)

    expected = trained(x, y)
    with torch.inference_mode():
        a, b = x.clone(), y.clone()
        inside = expected_gradient(model, a, b, cross_entropy, seed=0, index=torch.arange(3))
        assert torch.equal(inside.grad, outside.grad)
        assert torch.equal(DeepFool(eps=1.0).search(model, a, b, seed=0), found)
        assert torch.equal(trained(a, y), expected)


def test_a_model_made_in_inference_mode_is_refused_by_the_modes_name() -> None:
    _, x, y = problem()
    with torch.inference_mode():
        model = tiny_conv()
        for attack in (PGD(steps=1), APGD(steps=1), DeepFool(steps=1), AutoAttack(attacks=("apgd-ce",))):
            with pytest.raises(ValueError, match=r"made under torch\.inference_mode"):
                attack(model, x, y, seed=0)


HALF = [torch.float16, torch.bfloat16]
IN_NORMS = {
    "pgd": lambda norm, eps: PGD(norm=norm, eps=eps, step_size=eps / 4),
    "apgd": lambda norm, eps: APGD(norm=norm, eps=eps, steps=8),
    "library": lambda norm, eps: AutoAttack(norm=norm, eps=eps, attacks=("apgd-ce",)),
}


@pytest.mark.parametrize("dtype", [*HALF, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", IN_NORMS)
def test_images_of_any_precision_are_attacked_within_their_ball(kind: str, norm: str, dtype: torch.dtype) -> None:
    model, x, _ = problem(4)
    x = x.to(dtype)
    y, eps = model(x.float()).argmax(1), {"linf": 8 / 255, "l2": 0.5, "l1": 4.0}[norm]
    attack = IN_NORMS[kind](norm, eps)
    x_adv = attack(lambda z: model(z.float()), x, y, seed=0)
    assert x_adv.dtype == dtype
    assert torch.isfinite(x_adv).all()
    assert (size(x_adv.double() - x.double(), norm) <= eps * (1 + 1e-5)).all()
    assert (size(x_adv.double() - x.double(), norm) > 0.7 * eps).any()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@pytest.mark.parametrize("dtype", HALF)
def test_the_start_of_half_precision_images_is_a_number(dtype: torch.dtype) -> None:
    x = torch.full((4, 3, 16, 16), 0.5, dtype=dtype)
    for norm in NORMS:
        start = random_start(x, norm=norm, eps=1.0, seed=0, index=torch.arange(4))
        assert torch.isfinite(start).all()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("how", ["module", "function", "answers"])
def test_models_that_compute_in_half_precision_are_attacked(dtype: torch.dtype, how: str) -> None:
    model, x, _ = problem(8)
    half = tiny_conv().to(dtype)
    asked = {
        "module": half,  # asked again in its own precision where it refuses float32
        "function": lambda z: half(z.to(dtype)),
        "answers": lambda z: model(z).to(dtype),
    }[how]
    y = model(x).argmax(1)

    def accuracy(x_adv: Tensor) -> float:
        return (model(x_adv).argmax(1) == y).float().mean().item()

    # 1/255 is where some images fall and some stand
    attacks = {**suite("autoattack-rand", eps=1 / 255), "pgd": PGD(eps=1 / 255, step_size=1 / 1000, steps=10)}
    quick = {name: APGD(eps=a.eps, loss=a.loss, steps=10) if "apgd" in name else a for name, a in attacks.items()}
    for attack in quick.values():
        exact = accuracy(attack(model, x, y, seed=0))
        assert abs(accuracy(attack(asked, x, y, seed=0)) - exact) <= 0.25  # two images may lie on the boundary
    report = evaluate(asked, x, y, quick, seed=0, probes=0, passes=1)
    assert (
        report.robust_accuracy <= accuracy(PGD(eps=1 / 255, step_size=1 / 1000, steps=10)(model, x, y, seed=0)) + 0.25
    )


def test_half_precision_images_reach_a_half_precision_function_as_they_are() -> None:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = images(4).bfloat16()

    def model(z: Tensor) -> Tensor:
        return z.flatten(1) @ weight.T  # refuses float32

    y = model(x).argmax(1)
    for attack in (PGD(eps=0.3, step_size=0.1), APGD(eps=0.3, steps=5)):
        assert (model(attack(model, x, y, seed=0)).argmax(1) != y).any()


def test_images_channels_last_in_memory_are_attacked_as_others() -> None:
    model, x, y = problem(2)
    turned = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    for attack in (
        AutoAttack(eps=0.001, attacks=("apgd-t",)),
        LibrarySquare(eps=0.001, queries=5),
        PGD(steps=2),
        APGD(steps=3, norm="l1", eps=1.0),
    ):
        torch.testing.assert_close(attack(model, turned, y, seed=0), attack(model, x, y, seed=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("kind", [LibrarySquare, lambda **kind: AutoAttack(**kind, attacks=("apgd-ce", "square"))])
def test_images_that_square_cannot_divide_are_refused_before_anything_runs(kind, norm: str) -> None:
    model, asked = linear((1, 4, 4), 5), []

    def watched(z: Tensor) -> Tensor:
        asked.append(len(z))
        return model(z)

    y = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"Square in {norm} needs images of at least 5 rows, got \(1, 4, 4\)"):
        kind(norm=norm, eps=0.5)(watched, images(2), y, seed=0)
    assert sum(asked) <= 2
    larger = linear((1, 5, 5), 5)
    x_adv = LibrarySquare(norm=norm, eps=0.5, queries=20)(larger, images(2, (1, 5, 5)), y, seed=0)
    assert (size(x_adv - images(2, (1, 5, 5)), norm) <= 0.5 + 1e-5).all()
