"""What `rp_attacks` asks of a defence is what `rp_purify.Defended` offers; neither package imports the other."""

import pytest
import rp_models
import torch
from rp_attacks.defence import OffersGradients, OffersReconstructionLoss, Randomised, query, with_gradient
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
