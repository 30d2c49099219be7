"""Votes as classifiers, every iterate as a submission, passes that a gradient needs, and the published protocols."""

import numpy as np
import pytest
import torch
from rp_attacks import APGD, PGD, MeanLogits, evaluate, preset
from rp_attacks.convergence import eot_convergence
from rp_attacks.defence import query
from rp_attacks.diffhammer import DiffHammer
from rp_attacks.noise import derive_seed
from rp_attacks.record import judge
from rp_attacks.resubmission import worst_on_path
from rp_attacks.votes import Majority, Unanimous
from torch import Tensor

from .models import NoisyModel, images, linear, tiny_conv

SHAPE = (1, 4, 4)


def problem(count: int = 20, classes: int = 3, sigma: float = 0.3):
    model, x = linear(SHAPE, classes), images(count, SHAPE)
    return NoisyModel(model, sigma), x, model(x).argmax(1)


def test_votes_are_those_of_the_passes_and_their_gradient_is_the_mean_logits() -> None:
    defence, x, _ = problem()
    index = torch.arange(20)
    logits = torch.stack([query(defence, x, seed=derive_seed(5, "pass", s), index=index) for s in range(7)])
    votes = torch.nn.functional.one_hot(logits.argmax(2), 3).float().mean(0)
    leaf = x.clone().requires_grad_()
    answer = query(Majority(defence, passes=7, seed=0), leaf, seed=5, index=index)
    torch.testing.assert_close(answer, votes)
    twin = x.clone().requires_grad_()
    mean = query(MeanLogits(defence, passes=7, seed=0), twin, seed=5, index=index)
    upstream = torch.randn_like(mean)
    ours, theirs = (torch.autograd.grad(a, b, upstream)[0] for a, b in ((answer, leaf), (mean, twin)))
    torch.testing.assert_close(ours, theirs)
    unanimous = query(Unanimous(defence, passes=7, seed=0), x, seed=5, index=index).argmax(1)
    agreed = (votes.amax(1) == 1).tolist()
    assert 0 < sum(agreed) < 20
    assert unanimous.tolist() == [int(v) if a else 3 for v, a in zip(votes.argmax(1), agreed, strict=True)]


def test_each_vote_has_a_clean_control_of_its_own() -> None:
    defence, x, y = problem(60)
    attack = {"pgd": PGD(eps=0.02, step_size=0.01, steps=3, eot=2, loss="cw")}
    clean = {
        name: evaluate(judged, x, y, attack, seed=0, passes=6, probes=0).clean.right.mean()
        for name, judged in {
            "query": defence,
            "majority": Majority(defence, passes=9, seed=0),
            "all": Unanimous(defence, passes=9, seed=0),
        }.items()
    }
    assert clean["all"] < clean["query"] < clean["majority"]


def test_votes_pass_backward_rules_on() -> None:
    class Offering(NoisyModel):
        gradients = ("identity",)

        def with_gradient(self, name: str):
            return Offering(self.model, 2 * self.sigma)

    ruled = Majority(Offering(linear(SHAPE, 3), 0.1), passes=3, seed=0).with_gradient("identity")
    assert type(ruled) is Majority
    assert ruled.model.sigma == 0.2


def test_submitting_every_iterate_breaks_clean_images_too() -> None:
    defence, x, y = problem(40)
    short, long = (PGD(eps=0.0, steps=steps, eot=2) for steps in (1, 30))
    few, many = (worst_on_path(defence, x, y, attack, seed=0) for attack in (short, long))
    assert few.submissions == 2
    assert many.submissions == 60
    assert many.attacked.estimate < few.attacked.estimate
    # without a perturbation both are the same classifier's
    assert abs(many.attacked.estimate - many.clean.estimate) < 0.25
    quiet = NoisyModel(defence.model, 0.05)
    real = worst_on_path(quiet, x, y, PGD(eps=0.1, step_size=0.05, steps=15, eot=2), seed=0)
    assert real.attacked.estimate < real.clean.estimate


def test_the_path_of_a_deterministic_model_keeps_its_clean_accuracy_and_needs_steps() -> None:
    model, x = linear(SHAPE, 3), images(12, SHAPE)
    y = model(x).argmax(1)
    found = worst_on_path(model, x, y, APGD(eps=0.05, steps=5), seed=0, batch_size=5)
    assert found.clean.estimate == 1
    assert found.submissions == 6
    with pytest.raises(ValueError, match="shows no steps"):
        worst_on_path(model, x, y, _Silent(), seed=0)


class _Silent:
    norm, eps = "linf", 0.0

    def __call__(self, model, x: Tensor, y: Tensor, *, seed: int, index=None) -> Tensor:
        return x


def test_more_passes_bring_the_gradient_nearer_to_its_mean() -> None:
    model, x = tiny_conv(), images(6, (3, 8, 8))
    y = model(x).argmax(1)
    points = eot_convergence(NoisyModel(model, 0.3), x, y, seed=0, counts=(1, 4, 32), chunk=4)
    assert [point.passes for point in points] == [1, 4, 32]
    assert points[0].cosine < points[1].cosine < points[2].cosine < 1
    assert points[0].same_sign < points[2].same_sign
    flat = eot_convergence(model, x, y, seed=0, counts=(1, 2))
    assert all(point.cosine == pytest.approx(1) and point.same_sign == 1 for point in flat)
    with pytest.raises(ValueError, match="increasing"):
        eot_convergence(model, x, y, seed=0, counts=(2, 1))


@pytest.mark.parametrize(
    ("name", "norm", "passes", "verdict"),
    [
        ("adbm", "linf", 1, "per_query"), ("adbm", "l1", 1, "per_query"), ("lee-kim", "l2", 10, "majority"),
        ("diffpure", "linf", 1, "per_query"), ("scoreopt", "linf", 1, "per_query"),
        ("diffhammer", "linf", 10, "all_of_n"), ("diffhammer", "l2", 10, "all_of_n"),
        ("diffbreak", "linf", 128, "majority"),
    ],
)  # fmt: skip
def test_every_preset_says_how_it_counts(name: str, norm: str, passes: int, verdict: str) -> None:
    protocol = preset(name, norm=norm)
    assert (protocol.passes, protocol.verdict) == (passes, verdict)
    assert {attack.norm for attack in protocol.attacks.values()} == {norm}


def test_settings_of_the_newer_protocols() -> None:
    assert preset("diffhammer").attacks["diffhammer"] == DiffHammer(eps=8 / 255, steps=50, restarts=3, draws=10, eot=1)
    pgd, apgd = preset("diffbreak").attacks.values()
    assert (pgd.steps, pgd.step_size, pgd.eot, pgd.loss) == (100, 0.008, 128, "ce")
    assert (apgd.loss, apgd.eot) == ("cw", 128)
    bpda = preset("scoreopt", gradients=("identity",))
    assert bpda.attacks["scoreopt-identity"].passes == 15
    assert bpda.judge(linear(SHAPE, 3)).passes == 150
    one_shot = preset("scoreopt", gradients=("one-shot",))
    assert one_shot.judge(linear(SHAPE, 3)).passes == 20
    assert one_shot.attacks["scoreopt-one-shot"].eot == 20
    with pytest.raises(ValueError, match=r"there are adbm \(linf, l2, l1\), lee-kim \(linf, l2\)"):
        preset("diffbreak", norm="l2")


def test_a_candidate_that_cannot_be_the_worse_one_any_more_costs_no_further_pass() -> None:
    model, x = linear((1, 4, 4), 3), images(60, (1, 4, 4))
    defence, y, index = NoisyModel(model, 0.3), model(x).argmax(1), torch.arange(60)
    moved = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    shared = {"seed": 3, "index": index, "passes": 9, "random": True, "batch_size": 16}
    known = judge(defence, moved, y, distance=torch.ones(60), **shared)
    other = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    whole = judge(defence, other, y, distance=torch.ones(60), known=known, **shared)
    repeated = index < 5
    short = judge(defence, other, y, distance=torch.ones(60), known=known, repeated=repeated, whole=False, **shared)
    worse = whole.worse_than(known) & ~repeated.numpy()
    assert 10 < worse.sum() < 45
    assert np.array_equal(short.worse_than(known), worse)
    assert np.array_equal(short.right, np.where(worse[:, None], whole.right, known.right))
    np.testing.assert_allclose(short.wrong[worse], whole.wrong[worse], atol=1e-6)
    assert (short.judged[worse] == 18).all()
    assert (short.judged[~worse] <= 9).all()
    assert short.judged[:5].sum() == 0
    assert short.judged[~worse].sum() < 9 * (~worse[5:]).sum()
