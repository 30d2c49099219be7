"""EDM's losses against recorded values of the public reference, and their random numbers."""

import pytest
import torch
from rp_models.edm import EDMLoss, EDMPrecond, VELoss, VEPrecond, VPLoss, VPPrecond

from .golden.files import Golden


@pytest.mark.parametrize(
    ("name", "loss", "precondition", "draw"),
    [
        ("edm_loss_tiny", EDMLoss(), EDMPrecond, "in_rnd"),
        ("edm_vploss_tiny", VPLoss(), VPPrecond, "in_rnd_uniform"),
        ("edm_veloss_tiny", VELoss(), VEPrecond, "in_rnd_uniform"),
    ],
)
def test_losses_equal_the_reference(name, loss, precondition, draw):
    golden = Golden(name)
    model = golden.fill(precondition(**golden.config["build"]["kwargs"])).eval()
    labels = golden["in_class_labels"] if "in_class_labels" in golden.arrays else None
    value = loss(model, golden["in_images"], labels, rnd=golden[draw], noise=golden["in_noise"])
    kind = type(loss).__name__
    golden.check(**{f"out_{kind}": value, f"out_{kind}_mean": value.mean()})
    assert torch.equal(
        value, loss(model, golden["in_images"], labels, rnd=golden[draw].flatten(), noise=golden["in_noise"])
    )
