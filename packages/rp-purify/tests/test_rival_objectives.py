"""The training objectives of ADBM, ADDT and NIM-MAE follow their authors' public code on given noise."""

from pathlib import Path

import pytest
import torch
from rp_models.diffusion.edm_loss import EDMLoss, VPLoss
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.normalization import IMAGENET
from rp_models.networks.transformer import unpatchify
from rp_purify.addt import ADDTDraws, ADDTLoss, rank_gaussian
from rp_purify.bridge import BridgeDraws, BridgeLoss, bridge_sigma
from rp_purify.nim import NIMDraws, NIMLoss, NIMReconstruction, visible
from rp_testing import Golden
from torch import Tensor, nn

from .models import ShrinkingDenoiser, TinyClassifier, tiny_images, tiny_mae
from .rivals import edm_network, score_network, small_classifier


def gradient_norm(loss: Tensor, model: nn.Module) -> Tensor:
    """The norm of the gradient over all parameters."""
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, retain_graph=True)
    return torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()


def test_adbms_bridge_and_its_adversary(tmp_path: Path) -> None:
    golden = Golden("adbm_loss_tiny")
    network, classifier = score_network(golden, tmp_path), small_classifier(golden)
    loss = BridgeLoss(eps=golden.config["eps_of_255_in_minus1_1"] / 2 / 255, tune_T=golden.config["tune_T"])
    x, y, t = 2 * golden["in_x"] - 1, golden["in_y"], golden["in_t"]
    x = golden["in_x"] if golden["in_x"].min() < 0 else x
    horizon = golden["in_T"].float().expand(len(x))
    start = golden["in_start"]
    draws = BridgeDraws(horizon, t, golden["in_z"], start / (2 * loss.eps))
    adversarial = loss.adversarial(network, classifier, x, y, draws)
    golden.check(out_adv_after_1=adversarial[0], out_adv_after_2=adversarial[1], out_adv=adversarial[2])
    sigma = bridge_sigma(t).view(-1, 1, 1, 1)
    signal = 1 / (1 + sigma.square()).sqrt()
    state = loss.state(x, adversarial[2], draws)
    golden.check(out_net_input=signal * state, out_abar_t=signal.flatten().square(), out_label=999 * t)
    golden.check(out_target=(state - x) / sigma, out_x0=network(state, sigma))
    each = loss(network, classifier, x, y, draws)
    golden.check(out_loss=each.mean(), out_grad_norm=gradient_norm(each.mean(), network))
    assert all(parameter.grad is None for parameter in (*network.parameters(), *classifier.parameters()))


@pytest.mark.parametrize("kind", ["edm", "vp"])
def test_addts_noise_and_loss(kind: str, tmp_path: Path) -> None:
    golden = Golden(f"addt_{kind}_tiny")
    network = edm_network(golden) if kind == "edm" else score_network(golden, tmp_path)
    classifier = small_classifier(golden)
    sigma = golden["in_sigma"] if kind == "edm" else bridge_sigma(golden["in_t"])
    x, y = golden["in_x"], golden["in_y"]
    draws = ADDTDraws(sigma, golden["in_delta0"], golden["in_noise"], golden["in_pseudo"])
    loss = ADDTLoss(base=EDMLoss() if kind == "edm" else VPLoss(epsilon_t=1e-3), leak=True)
    found = loss.adversary(network, classifier, x, y, draws)
    golden.check(out_grad_sum_1=found[0][0], out_grad_sum_5=found[4][0], out_ratio=loss.ratio(sigma))
    golden.check(out_delta_1=found[0][1], out_delta_5=found[4][1])
    terms = loss(network, classifier, x, y, draws)
    assert float(terms.leaked.detach()) == 0
    if kind == "vp":
        state, level = loss.state(x, found[4][1], draws, -1), sigma.view(-1, 1, 1, 1)
        golden.check(out_noisy=state / (1 + level.square()).sqrt(), out_loss=terms.loss.mean())
        golden.check(tolerance=3e-5, out_eps=(state - network(state, level)) / level)  # y - D loses digits
        return
    golden.check(out_D=network(loss.state(x, found[4][1], draws, -1), sigma), out_loss=terms.loss)
    golden.check(out_leaked_grad_norm=gradient_norm(terms.leaked, network))
    golden.check(out_grad_norm=gradient_norm(terms.loss.sum() / len(x), network))


def test_nim_mae() -> None:
    golden = Golden("nim_mae_tiny")
    a = golden.config["args"]
    mae = MaskedAutoencoder(
        image_size=a["img_size"],
        patch_size=a["patch_size"],
        in_channels=a["in_chans"],
        width=a["embed_dim"],
        depth=a["depth"],
        heads=a["num_heads"],
        decoder_width=a["decoder_embed_dim"],
        decoder_depth=a["decoder_depth"],
        decoder_heads=a["decoder_num_heads"],
        mlp_ratio=a["mlp_ratio"],
        norm_pix=golden.config["norm_pix_loss"],
        **IMAGENET._asdict(),
    )
    golden.fill(mae).eval()
    x, std = golden["in_x"], golden.config["sigma_of_255"] / 255
    draws = NIMDraws(torch.full((len(x),), std), golden["in_noise"])
    golden.check(out_loss=NIMLoss()(mae, x, draws).mean())
    noisy, mask = x + std * golden["in_noise"], visible(len(x), mae.tokens, x)
    purifier = NIMReconstruction(mae, std=std)
    image = purifier.reconstruct(x, noisy, mask)
    golden.check(out_tokens=mae(noisy, mask), out_image=image.clamp(0, 1), out_pred=mae.normalize(image))
    assert unpatchify(mae(noisy, mask), mae.patch_size).shape == x.shape


def test_draws_belong_to_the_image_and_the_levels_have_their_distribution() -> None:
    index = torch.arange(400)
    for loss in (BridgeLoss(), ADDTLoss(), ADDTLoss(base=VPLoss(epsilon_t=1e-3)), NIMLoss()):
        together = loss.draw((1, 4, 4), seed=3, index=index)
        alone = loss.draw((1, 4, 4), seed=3, index=index[7:8])
        for name in together._fields:
            value = getattr(together, name)
            axis = 1 if value.dim() == 5 else 0
            torch.testing.assert_close(value.select(axis, 7), getattr(alone, name).select(axis, 0))
    bridge = BridgeLoss().draw((1, 4, 4), seed=3, index=index)
    assert bool(((bridge.time > 0) & (bridge.time <= bridge.horizon) & (bridge.horizon <= 0.2)).all())
    assert len(bridge.horizon.unique()) > 300
    assert len(BridgeLoss(per="batch").draw((1, 4, 4), seed=3, index=index).horizon.unique()) == 1
    sigma = 255 * NIMLoss().draw((1, 4, 4), seed=3, index=index).sigma
    assert float(sigma.mean()) == pytest.approx(75, abs=2.5)  # 400 draws of deviation 15: standard error 0.75
    assert float(sigma.std()) == pytest.approx(15, abs=2)
    assert NIMLoss(std=0.25).draw((1, 4, 4), seed=3, index=index).sigma.unique().tolist() == [0.25]
    levels = ADDTLoss().draw((1, 4, 4), seed=3, index=index).sigma.log()
    assert float(levels.mean()) == pytest.approx(-1.2, abs=0.2)


def test_addts_other_adversary_takes_sign_steps_of_the_images_in_a_box() -> None:
    denoiser, classifier = ShrinkingDenoiser(), TinyClassifier()
    x, y, index = 2 * tiny_images(3) - 1, torch.tensor([1, 2, 3]), torch.arange(3)
    loss = ADDTLoss(base=VPLoss(epsilon_t=1e-3), variant="linf")
    draws = loss.draw(x.shape[1:], seed=0, index=index)._replace(sigma=torch.tensor([0.05, 0.3, 2.0]))
    found = loss.adversary(denoiser, classifier, x, y, draws)
    (first, delta), (_, last) = found[0], found[-1]
    inside = (x.abs() + 8 / 255 < 1).expand_as(x)
    torch.testing.assert_close(delta[inside], (8 / 255 * first.sign())[inside])
    assert float(last.abs().max()) <= 16 / 255 + 1e-7
    assert float((x + last).abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(loss.ratio(draws.sigma), torch.tensor([10.0, 1 / 0.3, 0.5]))
    torch.testing.assert_close(loss.state(x, delta, draws, 1)[2], (x + 2 * draws.noise[1] + delta)[2])
    assert torch.isfinite(loss(denoiser, classifier, x, y, draws).loss).all()
    with pytest.raises(ValueError, match="variant must be one of ranks, linf"):
        ADDTLoss(variant="l2")  # type: ignore[arg-type]


def test_rank_gaussian_keeps_the_values_of_each_plane_and_takes_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, normals = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
    result = rank_gaussian(scores, normals)
    for i in range(2):
        for c in range(3):
            pairs = sorted(zip(scores[i, c].flatten().tolist(), result[i, c].flatten().tolist(), strict=True))
            assert [value for _, value in pairs] == sorted(normals[i, c].flatten().tolist())
    with pytest.raises(ValueError, match="one shape"):
        rank_gaussian(scores, normals[:1])


def test_the_adversary_inside_spares_modes_and_weights_and_the_leak_is_off_by_default() -> None:
    denoiser, classifier = ShrinkingDenoiser().train(), TinyClassifier()
    x, y, index = 2 * tiny_images(4) - 1, torch.tensor([1, 2, 3, 4]), torch.arange(4)
    for loss in (BridgeLoss(), ADDTLoss()):
        result = loss(denoiser, classifier, x, y, loss.draw(x.shape[1:], seed=0, index=index))  # type: ignore[operator]
        value = result.mean() if isinstance(result, Tensor) else result.loss.mean() + result.leaked
        gradients = torch.autograd.grad(value, list(denoiser.parameters()))
        assert all(bool((gradient != 0).any()) for gradient in gradients)
        assert denoiser.training
        assert all(parameter.requires_grad and parameter.grad is None for parameter in denoiser.parameters())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in classifier.parameters())
    assert not ADDTLoss()(
        denoiser, classifier, x, y, ADDTLoss().draw((1, 8, 8), seed=0, index=index)
    ).leaked.requires_grad
    stronger = BridgeLoss(eps=0.1)
    bridge = stronger.draw(x.shape[1:], seed=0, index=index)
    for image in stronger.adversarial(denoiser, classifier, x, y, bridge):
        assert float((image - x).abs().max()) <= 0.2 + 1e-6
        assert float(image.abs().max()) <= 1
    for wrong in ({"eps": -1.0}, {"tune_T": 0.05}, {"per": "step"}):
        with pytest.raises(ValueError, match=r"expected eps|per must be"):
            BridgeLoss(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole shape"):
        NIMLoss(shape=0)
    with pytest.raises(ValueError, match="std must be positive"):
        NIMLoss(std=0.0)
    with pytest.raises(ValueError, match="needs patch_stats='none'"):
        NIMReconstruction(tiny_mae(), patch_stats="input")
