"""What an attack hands back beside its images, and the one rule for ties that it is judged by."""

import pytest
import torch
from rp_attacks import APGD, PGD, SPSA, CarliniWagner, RayS, Square, Transfer, evaluate
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.losses import cross_entropy
from rp_attacks.norms import size
from torch import Tensor

from .models import NoisyModel, images, tiny_conv
from .test_every_attack import KINDS


def problem(count: int = 6):
    model, x = tiny_conv(), images(count, (3, 8, 8))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_attack_hands_back_images_success_distance_and_passes(kind: str) -> None:
    model, x, y = problem(3)
    attack, asked = KINDS[kind](0.02), []

    def counted(z: Tensor) -> Tensor:
        asked.append(len(z))
        return model(z)

    attack = Transfer(attack.attack, counted) if kind == "transfer" else attack
    result = attack.run(counted, x, y, seed=1)
    spent = sum(asked) - 3  # the last pass judges
    assert torch.equal(result.images, attack(model if kind != "transfer" else counted, x, y, seed=1))
    assert torch.equal(result.success, model(result.images).argmax(1) != y)
    torch.testing.assert_close(result.distance, size(result.images - x, attack.norm))
    assert result.passes == spent / 3


def test_passes_are_those_of_the_settings() -> None:
    model, x, y = problem()
    y, far = torch.zeros_like(y), lambda z: model(z) + 50 * torch.eye(10)[0]
    for attack, passes in [
        (PGD(steps=7, eot=1, restarts=2), 2 * (7 + 1)),
        (APGD(steps=5, restarts=3), 3 * (5 + 1)),
        (Square(queries=9), 9),
        (SPSA(steps=2, samples=3), 2 * (2 * 3 + 1) + 1),
        (CarliniWagner(search_steps=2, steps=4), 1 + 2 * 4),
    ]:
        assert attack.run(far, x, y, seed=0).passes == passes
    noisy = NoisyModel(model, 0.05)
    assert PGD(steps=3, eot=4).run(noisy, x, y, seed=0).passes == 12


def test_soft_labels_are_judged_by_their_largest() -> None:
    model, x, y = problem()
    result = PGD(eps=0.05, step_size=0.02, steps=5).run(model, x, model(x).softmax(1).detach(), seed=0)
    assert torch.equal(result.success, model(result.images).argmax(1) != y)


class Coarse(torch.nn.Module):
    """Logits near 30 in bfloat16, where neighbours are 1/8 apart: many are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_conv()

    def forward(self, x: Tensor) -> Tensor:
        return (0.3 * self.model(x) + 30).bfloat16()


def test_labels_that_are_the_predictions_are_all_right_also_at_ties() -> None:
    model, x = Coarse().eval(), images(40, (3, 8, 8))
    logits = model(x)
    y = logits.argmax(1)
    top = logits.float().topk(2, dim=1).values
    assert (top[:, 0] == top[:, 1]).float().mean() > 0.1
    report = evaluate(model, x, y, {"pgd": PGD(eps=0.0)}, seed=0, probes=0)
    assert report.clean.right.all()
    assert report.worst.right.all()
    index = torch.arange(40)
    _, wrong = margins(model, x, y, seed=0, index=index)
    assert not wrong.any()
    assert not expected_gradient(model, x, y, cross_entropy, seed=0, index=index).wrong.any()


@pytest.mark.parametrize(
    "attack",
    [
        PGD(eps=0.004, step_size=0.001, steps=10, select="best"),
        PGD(eps=0.004, step_size=0.001, steps=10, early_stop=True),
        APGD(eps=0.004, steps=10),
        Square(eps=0.004, queries=30),
        RayS(eps=0.004, queries=60),
        SPSA(eps=0.004, steps=3, samples=4),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_take_a_tie_as_the_verdict_does(attack) -> None:
    model, x = Coarse().eval(), images(40, (3, 8, 8))
    y = model(x).argmax(1)
    found = []

    class Watched:
        def with_noise(self, *, seed: int, index: Tensor):
            def forward(z: Tensor) -> Tensor:
                logits = model(z)
                wrong = logits.argmax(1) != y[index % (2**31 - 1)]
                inside = size(z - x[index % (2**31 - 1)], "linf") <= 0.004 + 1e-6
                found.extend((index % (2**31 - 1))[wrong & inside].tolist())
                return logits

            return forward

        def __call__(self, z: Tensor) -> Tensor:
            return model(z)

    success = model(attack(Watched(), x, y, seed=0)).argmax(1) != y
    # whoever was seen to be fooled inside the ball is handed back fooled
    assert set(found) == set(success.nonzero().flatten().tolist())
    assert success.any() or isinstance(attack, RayS)  # which needs more queries


@pytest.mark.parametrize("attack", [Square(eps=0.1, queries=30), PGD(eps=0.1, steps=1, restarts=8)])
def test_of_two_ties_the_one_that_is_lost_is_kept(attack) -> None:
    x, y = images(20), torch.ones(20, dtype=torch.int64)
    won, lost = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.0])  # the margin of class 1 is 0 in both

    def model(z: Tensor) -> Tensor:
        darker = (z[: len(z), 0, 0, 0] < 0.5)[:, None]
        return torch.where(darker, won, lost) + 0 * z.flatten(1).sum(dim=1, keepdim=True)

    reachable = x[:, 0, 0, 0] > 0.45  # with room to spare for a random point of the ball
    success = model(attack(model, x, y, seed=0)).argmax(1) != y
    assert success[reachable].all()
    assert not success[x[:, 0, 0, 0] < 0.4].any()
    assert (model(x).argmax(1) == y)[reachable].any()


def test_the_nearest_images_are_those_whose_prediction_has_changed() -> None:
    model, x = Coarse().eval(), images(20, (3, 8, 8))
    y = model(x).argmax(1)
    found, distance = CarliniWagner(search_steps=4, steps=40, initial_c=1.0).search(model, x, y, seed=0)
    assert (model(found).argmax(1) != y)[distance.isfinite()].all()
    assert distance.isfinite().any()


@pytest.mark.parametrize("kappa", [0.2, 1.0])
def test_confidence_is_the_margin_that_is_reached(kappa: float) -> None:
    model, x, y = problem(3)
    found, distance = CarliniWagner(search_steps=3, steps=50, confidence=kappa).search(model, x, y, seed=0)
    _, plain = CarliniWagner(search_steps=3, steps=50).search(model, x, y, seed=0)
    reached = distance.isfinite()
    assert reached.any()
    margin, wrong = margins(model, found, y, seed=0, index=torch.arange(3))
    assert (margin >= kappa - 1e-4)[reached].all()
    assert wrong[reached].all()
    assert (distance > plain)[reached].all()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_are_no_logits_are_refused(kind: str) -> None:
    model, x, y = problem(3)
    zeros = torch.zeros_like(y)
    for wrong, labels, error, message in [
        (
            lambda z: (model(z), z),
            y,
            TypeError,
            r"must give logits as a tensor .*, got tuple; wrap it .*model\(x\)\[0\]",
        ),
        (lambda z: {"logits": model(z)}, y, TypeError, r"got dict; wrap it .*model\(x\)\['logits'\]"),
        (lambda z: model(z)[:, :1], zeros, ValueError, "one logit"),
    ]:
        attack = KINDS[kind](0.02)
        attack = Transfer(attack.attack, wrong) if kind == "transfer" else attack
        with pytest.raises(error, match=message):
            attack(wrong, x, labels, seed=0)
