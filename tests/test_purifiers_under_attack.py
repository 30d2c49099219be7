"""What `rp_attacks` asks of a defence is what `rp_purify.Defended` offers; neither package imports the other."""

import pytest
import rp_models
import torch
from rp_attacks import PGD, evaluate, suite
from rp_attacks.defence import OffersGradients, OffersReconstructionLoss, Randomised, query, with_gradient
from rp_attacks.model_checks import optimises
from rp_attacks.settings import Budget
from rp_models.data import load_images
from rp_purify import Defended, GaussianNoise, MAEPure


@pytest.fixture(scope="module")
def defended() -> Defended:
    purifier = MAEPure(rp_models.load("mae-digits"), steps=3, step_size=0.02, eta=0.1)
    return Defended(purifier, rp_models.build("vit-digits").eval()).eval()


def test_a_defended_classifier_satisfies_the_three_protocols(defended: Defended) -> None:
    assert isinstance(defended, Randomised)
    assert isinstance(defended, OffersGradients)
    assert isinstance(defended, OffersReconstructionLoss)
    plain = Defended(GaussianNoise(0.1), defended.classifier)
    assert isinstance(plain, Randomised)
    assert not isinstance(plain, OffersReconstructionLoss)


def test_queries_are_functions_of_seed_and_index_with_each_backward_rule(defended: Defended) -> None:
    x, _ = load_images("digits", "test").batch(slice(0, 4))
    index = torch.tensor([9, 2, 5, 7])
    expected = query(defended, x, seed=3, index=index)
    for name in defended.gradients:
        other = with_gradient(defended, name)
        leaf = x.clone().requires_grad_()
        logits = query(other, leaf[[2, 0]], seed=3, index=index[[2, 0]])
        torch.testing.assert_close(logits, expected[[2, 0]], atol=1e-5, rtol=1e-5)  # batches of other sizes
        (grad,) = torch.autograd.grad(logits.sum(), leaf)
        assert grad[[2, 0]].abs().sum() > 0
        assert (grad[[1, 3]] == 0).all()


PGD_2 = {"pgd": PGD(eps=0.05, step_size=0.02, steps=2)}


@pytest.fixture(scope="module")
def images(defended: Defended):
    x, _ = load_images("digits", "test").batch(slice(0, 8))
    return x, defended.classifier(x).argmax(1)


@pytest.mark.parametrize(
    "other",
    [{"steps": 2}, {"step_size": 0.05}, {"eta": 0.05}, {"masks": "fixed"}, {"grad": "ste-tanh"}, {"mask_rate": 0.5}],
    ids=lambda other: next(iter(other)),
)
def test_two_purifiers_of_the_same_weights_never_share_a_folder(images, defended: Defended, tmp_path, other) -> None:
    x, y = images
    options = {"steps": 1, "step_size": 0.02, "eta": 0.1}
    mae = defended.purifier.model

    def run(**changes):
        model = Defended(MAEPure(mae, **(options | changes)), defended.classifier).eval()
        return evaluate(model, x, y, PGD_2, seed=0, folder=tmp_path, probes=0, passes=2)

    first = run()
    with pytest.raises(ValueError, match=r"another problem \(model differ\)"):
        run(**other)
    assert (run().worst.right == first.worst.right).all()  # entropy and call counters are no settings
    assert (run(seed=7).worst.right == first.worst.right).all()  # nor is the seed: the evaluation draws the noise


def test_modules_in_eval_mode_need_no_eval_of_what_holds_them(images, defended: Defended) -> None:
    x, y = images
    mae = rp_models.load("mae-digits").eval()
    model = Defended(MAEPure(mae, steps=1), defended.classifier)
    evaluate(model, x, y, PGD_2, seed=0, probes=0, passes=2)
    mae.train()
    with pytest.raises(ValueError, match="in train mode"):
        evaluate(model, x, y, PGD_2, seed=0, probes=0, passes=2)


def test_the_worst_case_of_a_purifier_goes_through_all_its_rules_and_its_loss(defended: Defended) -> None:
    budget = Budget(steps=2, eot=1, curved_steps=2, curved_eot=1, queries=2, query_passes=1)
    attacks = suite("purifier", eps=0.05, defence=defended, source=defended.classifier, budget=budget)
    assert list(attacks) == [
        "transfer", "bpda", "pgd-exact", "apgd-ce", "apgd-dlr", "diffhammer", "square", "pgd-ste-tanh",
        "pgd-normalised", "pgd-cw", "keep-reconstruction",
    ]  # fmt: skip
    x, _ = load_images("digits", "test").batch(slice(0, 2))
    report = evaluate(defended, x, defended(x).argmax(1), attacks, seed=0, probes=0, passes=2)
    assert list(report.threats[0].attacks) == list(attacks)
    (finding,) = optimises(defended, x, torch.arange(2))
    assert (finding.level, finding.check) == ("note", "optimises at test time")
