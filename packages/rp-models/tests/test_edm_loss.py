"""EDM's losses against recorded values of the public reference, and their random numbers."""

import pytest
import torch
from rp_models.diffusion.edm_augment import Augmentation
from rp_models.diffusion.edm_loss import EDMLoss, VELoss, VPLoss
from rp_models.diffusion.precondition import EDMPrecond, VEPrecond, VPPrecond
from rp_testing import Golden


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
    images, noise = golden["in_images"], golden["in_noise"]
    labels = golden["in_class_labels"] if "in_class_labels" in golden.arrays else None
    value = loss(model, images, labels, rnd=golden[draw], noise=noise)
    kind = type(loss).__name__
    golden.check(**{f"out_{kind}": value, f"out_{kind}_mean": value.mean()})
    assert torch.equal(value, loss(model, images, labels, rnd=golden[draw].flatten(), noise=noise))


def test_noise_levels_and_weights_equal_the_reference():
    golden = Golden("edm_schedule")
    golden.check(out_edm_loss_weight=EDMLoss().weight(golden["in_sigma"]))
    vp = VPLoss(epsilon_t=0.0)  # then the draw is 1 - t
    golden.check(out_vp_sigma=vp.sigma(1 - golden["in_vp_t"]))


def test_noise_levels_span_what_the_paper_says():
    ends = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(VELoss().sigma(ends), torch.tensor([0.02, 100.0]))
    torch.testing.assert_close(
        VPLoss().sigma(ends), torch.tensor([152.16697692871094, 0.0009765625]), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(EDMLoss(P_mean=0.5, P_std=2.0).sigma(ends).log(), torch.tensor([0.5, 2.5]))


def test_a_perfect_denoiser_has_no_loss_and_a_constant_error_has_its_weight():
    images, sigma_one = torch.rand(2, 1, 4, 4), torch.full((2,), 1.0)  # exp(1.2 - 1.2) = 1
    noise = torch.ones_like(images)
    assert not EDMLoss()(lambda x, sigma, labels: images, images, rnd=sigma_one, noise=noise).any()
    value = EDMLoss()(lambda x, sigma, labels: images + 2, images, rnd=sigma_one, noise=noise)
    torch.testing.assert_close(value, torch.full_like(images, 4 * (1 + 0.25) / 0.25), rtol=1e-5, atol=0)
    seen = []
    EDMLoss()(lambda x, sigma, labels: seen.append(x) or x, images, rnd=sigma_one, noise=noise)
    torch.testing.assert_close(seen[0], images + 1, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [EDMLoss(), VPLoss(), VELoss()])
def test_an_images_draw_does_not_depend_on_its_batch_and_has_its_distribution(loss):
    index = torch.arange(2000)
    rnd, noise = loss.draw((1, 2, 2), seed=3, index=index)
    assert rnd.shape == (2000,)
    assert noise.shape == (2000, 1, 2, 2)
    alone = loss.draw((1, 2, 2), seed=3, index=index[77:78])
    assert torch.equal(alone[0][0], rnd[77])
    assert torch.equal(alone[1][0], noise[77])
    mean, std = (0.0, 1.0) if isinstance(loss, EDMLoss) else (0.5, 12**-0.5)
    assert rnd.mean().item() == pytest.approx(mean, abs=4 * std / 2000**0.5)
    assert rnd.std().item() == pytest.approx(std, rel=0.1)
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.05)
    assert not torch.equal(loss.draw((1, 2, 2), seed=4, index=index)[0], rnd)


def test_a_network_learns_from_augmented_images_and_their_labels():
    arguments = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    model = EDMPrecond(8, 1, augment_dim=9, attn_resolutions=[4], dropout=0.0, **arguments)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    index = torch.arange(16)
    images = torch.sin(torch.arange(64.0)).reshape(1, 1, 8, 8).repeat(16, 1, 1, 1)
    losses = []
    for step in range(8):
        augmented, augment_labels = Augmentation(p=0.5)(images, seed=0, index=index)
        rnd, noise = EDMLoss().draw((1, 8, 8), seed=0, index=index)
        value = EDMLoss()(model, augmented, rnd=rnd, noise=noise, augment_labels=augment_labels).sum() / 16
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if step == 1:  # at step 0 the zero-initialised output hides them
            assert model.model.map_augment.weight.grad.abs().max() > 0
    assert losses[-1] < 0.9 * losses[0]


def test_draws_that_do_not_fit_are_refused():
    images = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"noise must have the images' shape \(2, 1, 4, 4\)"):
        EDMLoss()(lambda *a: a[0], images, rnd=torch.zeros(2), noise=torch.zeros(2, 1, 4, 5))
    with pytest.raises(ValueError, match="one value for each of the 2 images"):
        EDMLoss()(lambda *a: a[0], images, rnd=torch.zeros(1), noise=images)
