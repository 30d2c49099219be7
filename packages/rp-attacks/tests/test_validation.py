"""What cannot be evaluated is refused before any attack runs, in a sentence that says what to do."""

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from rp_attacks import APGD, PGD, AutoAttack, Square, Transfer, accuracy_curve, evaluate, suite
from rp_attacks.presets import OnMeanLogits
from torch import Tensor, nn

from .models import images, linear, tiny_conv

ATTACK = {"square": Square(eps=0.02, queries=3)}


def problem(count: int = 6):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    return model, x, model(x).argmax(1)


def run(model, x, y, attacks=ATTACK, **options):
    return evaluate(model, x, y, attacks, **{"seed": 0, "probes": 0, **options})


class Never:
    """An attack whose turn must not come."""

    norm, eps = "linf", 0.1

    def __call__(self, model, x, y, *, seed, index=None):
        raise AssertionError("an attack ran before the problem was checked")


class Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Dropping(nn.Module):
    """A block that does what its mode says."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


def test_a_part_left_in_train_mode_is_refused_by_name() -> None:
    model, x, y = problem()
    net = nn.Sequential(OrderedDict(first=Dropping(), rest=model)).eval()
    run(net, x, y)
    net.first.drop.train()
    held = [net.first.drop]

    class Holding:
        def __init__(self) -> None:
            self.network = net

        def __call__(self, z: Tensor) -> Tensor:
            return self.network(z)

    for hidden in (net, lambda z: net(z), Holding(), Holding().__call__, lambda z: model(held[0](z))):
        with pytest.raises(ValueError, match=r"in train mode \(.*(drop|held).*\), where .* call \.eval\(\)"):
            run(hidden, x, y)
    net.eval()
    net.rest[0].train()  # a convolution does the same in both modes, but a mode that was forgotten is a warning sign
    with pytest.raises(ValueError, match=r"train mode \(rest\.0\)"):
        run(net, x, y)


def test_sources_and_curves_need_eval_mode_too() -> None:
    model, x, y = problem()
    for attacks, options in [
        ({"transfer": Transfer(PGD(eps=0.1), tiny_conv().train())}, {}),
        ({"mean": OnMeanLogits(Transfer(PGD(eps=0.1), tiny_conv().train()), passes=2)}, {}),
        (ATTACK, {"source": tiny_conv().train()}),
    ]:
        with pytest.raises(ValueError, match=r"the source.* is in train mode"):
            run(model, x, y, attacks, **options)
    with pytest.raises(ValueError, match="train mode"):
        accuracy_curve(tiny_conv().train(), x, y, PGD(eps=0.1), [0.1], seed=0)


def test_containers_of_modules_in_eval_mode_need_no_eval_of_their_own() -> None:
    model, x, y = problem()

    class Defended(nn.Module):
        def __init__(self, purifier: nn.Module, classifier: nn.Module) -> None:
            super().__init__()
            self.purifier, self.classifier = purifier, classifier

        def forward(self, z: Tensor) -> Tensor:
            return self.classifier(self.purifier(z))

    for defence in (nn.Sequential(Norm().eval(), model), Defended(nn.Sequential(Norm().eval()), model)):
        assert defence.training
        assert run(defence, x, y).clean.right.shape == (6, 1)
    with_weights = Defended(Norm().eval(), model)
    with_weights.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="train mode"):
        run(with_weights, x, y)


@pytest.mark.parametrize("attacks", [{"pgd": PGD(eps=0.1)}, {"aa": AutoAttack(eps=0.1)}, {"never": Never()}])
def test_what_is_no_logits_is_refused_in_a_sentence(attacks: dict) -> None:
    model, x, y = problem()
    for wrong, error, message in [
        (lambda z: model(z)[:, :1], ValueError, "the model gives one logit, and a classifier needs at least two"),
        (lambda z: model(z)[:, 0], ValueError, r"must give logits \(6, classes\), got shape \(6,\)"),
        (lambda z: (model(z), z), TypeError, r"must give logits as a tensor .*, got tuple; wrap it"),
        (lambda z: {"logits": model(z)}, TypeError, "got dict; wrap it"),
        (lambda z: model(z).detach().numpy(), TypeError, "got numpy.ndarray; wrap it"),
    ]:
        with pytest.raises(error, match=message):
            run(wrong, x, torch.zeros_like(y), attacks)


def test_inputs_of_the_wrong_kind_are_taken_or_refused_in_a_sentence(tmp_path) -> None:
    model, x, y = problem()
    numbers = np.arange(6)
    for arguments, options, error, message in [
        (
            (model, x.numpy(), y),
            {},
            TypeError,
            "x must be a torch tensor .*got numpy.ndarray; convert it with torch.as",
        ),
        ((model, x, y.numpy()), {}, TypeError, "y must be a torch tensor of int64 labels, got numpy.ndarray"),
        ((model, x, y.tolist()), {}, TypeError, "got list; convert it with torch.as_tensor"),
        ((model, x, y), {"index": numbers}, TypeError, "index must be a torch tensor of int64, got numpy.ndarray"),
        ((model, x, y), {"attacks": PGD()}, TypeError, r"a mapping from names to attacks, got PGD; pass e\.g\."),
        ((model, x, y), {"attacks": [PGD()]}, TypeError, "a mapping from names to attacks, got list"),
        ((model, x, y), {"attacks": "quick"}, TypeError, r"got str; pass e\.g\. .* or rp_attacks\.suite\('quick'"),
        ((model, x, y), {"attacks": {"pgd": PGD}}, TypeError, r"'pgd' must be an attack such as PGD\(eps"),
        ((model, x, y), {"attacks": {"pgd": 8 / 255}}, TypeError, "'pgd' must be an attack such as"),
        ((model, x, y), {"attacks": {3: PGD()}}, ValueError, "attack name 3 cannot name a folder"),
        ((model, x, y), {"passes": 0}, ValueError, "passes must be above 0"),
    ]:
        with pytest.raises(error, match=message):
            run(*arguments, **options)
    report = run(
        model, x.clone().requires_grad_(), y, suite("quick", eps=0.02, random=False), folder=str(tmp_path / "a")
    )
    assert not report.threats[0].images.requires_grad
    assert (tmp_path / "a" / "problem.json").exists()


def test_images_in_any_layout_are_attacked_alike() -> None:
    model, x, y = problem()
    attacks = {"pgd": PGD(eps=0.01, steps=3), "apgd-t": AutoAttack(eps=0.1, attacks=("apgd-t",))}
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not last.is_contiguous()
    first, second = (run(model, z, y, attacks) for z in (x, last))
    for one, other in zip(first.threats, second.threats, strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_belongs_in_the_model_and_not_in_the_images(dtype: torch.dtype) -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match=rf"x must be float32, got {dtype}.*pass x\.float\(\)"):
        run(model, x.to(dtype), y, {"never": Never()})

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny_conv().to(dtype)
            self.eval()

        def forward(self, z: Tensor) -> Tensor:
            return self.net(z.to(dtype))

    defence = Half()
    report = run(defence, x, defence(x).argmax(1), {"pgd": PGD(eps=0.3, step_size=0.1, loss="cw")}, probes=4)
    assert report.clean.right.mean() == 1
    assert report.robust_accuracy < 0.5


def test_what_an_attack_needs_is_checked_before_the_first_one_runs() -> None:
    three, x = linear((1, 4, 4), 3), images(4)
    y = three(x).argmax(1)
    for late, message in [
        (AutoAttack(eps=0.1), "attack 'late' needs at least 4 classes, the model has 3"),
        (APGD(eps=0.1, loss="targeted-dlr"), "needs at least 4 classes"),
        (PGD(eps=0.1, grad="tanh"), "grad='tanh' is not offered"),
        (OnMeanLogits(PGD(eps=0.1, grad="tanh"), passes=2), "grad='tanh' is not offered"),
        (PGD(eps=0.1, reconstruction_weight=1.0), "attack 'late' has a reconstruction_weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(three, x, y, {"never": Never(), "late": late})
    two = linear((1, 4, 4), 2)
    with pytest.raises(ValueError, match="needs at least 3 classes"):
        run(two, x, two(x).argmax(1), {"never": Never(), "late": PGD(eps=0.1, loss="dlr")})


def test_a_ball_without_another_image_of_bytes_is_refused() -> None:
    model, x, y = problem()
    x = (x * 255).round() / 255
    for norm in ("linf", "l2", "l1"):
        with pytest.raises(
            ValueError, match=re.escape(f"{norm} eps 0.5/255: no other image of bytes lies in this ball")
        ):
            run(model, x, y, {"pgd": PGD(norm=norm, eps=0.5 / 255)}, pixels="uint8")
    run(model, x, y, {"pgd": PGD(eps=1 / 255), "none": PGD(eps=0.0)}, pixels="uint8")


def test_an_evaluation_inside_inference_mode_is_the_one_outside() -> None:
    model, x, y = problem(12)
    attacks = {"pgd": PGD(eps=0.05, step_size=0.01)}
    outside = run(model, x, y, attacks, probes=4)
    with torch.inference_mode():
        inside = run(model, x + 0, y + 0, attacks, probes=4)
        curve = accuracy_curve(model, x + 0, y + 0, attacks["pgd"], [0.05], seed=0)
    assert torch.equal(inside.threats[0].images, outside.threats[0].images)
    assert inside.findings == outside.findings
    assert curve == accuracy_curve(model, x, y, attacks["pgd"], [0.05], seed=0)
    with torch.inference_mode():
        born = tiny_conv()
    with pytest.raises(ValueError, match=r"weights were made under torch\.inference_mode"):
        run(born, x, y, attacks)
