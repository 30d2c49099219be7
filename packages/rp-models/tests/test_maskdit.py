"""MaskDiT: the reference's numbers, masks, guidance, features, attention, derivatives, and honest errors."""

from functools import partial

import pytest
import torch
from rp_models import build, noise
from rp_models.diffusion.heun import sample_heun
from rp_models.diffusion.maskdit import GuidedMaskDiT, MaskDiT
from rp_models.diffusion.maskdit_loss import log_normal_sigma, masked_denoising_loss, masked_denoising_terms
from rp_models.mask import Mask, complement, random_mask
from rp_testing import Golden
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def reference_model() -> MaskDiT:
    return MaskDiT(image_size=8, width=32, depth=3, heads=4, num_classes=10)


def tiny(**arguments) -> MaskDiT:
    """A small model with every weight away from zero, so that no branch is closed."""
    sizes = {"image_size": 8, "in_channels": 1, "width": 16, "depth": 2, "heads": 2}
    decoder = {"decoder_width": 8, "decoder_depth": 2, "decoder_heads": 2, "num_classes": 3}
    model = MaskDiT(**{**sizes, **decoder, **arguments})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return model.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half_mask(batch: int = 2, tokens: int = 16) -> Mask:
    return random_mask(noise.uniform((tokens,), seed=0, purpose="mask", index=torch.arange(batch)), 0.5)


@pytest.mark.parametrize("name", ["maskdit_tiny", "maskdit_tiny_kept"])
def test_denoiser_masks_guidance_and_features_equal_the_reference(name):
    golden = Golden(name)
    model = reference_model().eval()
    tables = {key: model.state_dict()[key].clone() for key in golden.config.get("kept_keys", ())}
    golden.fill(model)
    model.load_state_dict(tables, strict=False)
    for key, table in tables.items():
        golden.check(tolerance=1e-6, **{f"const_{key}": table})
    x, sigma, labels = golden["in_x"], golden["in_sigma"], golden["in_class_labels"]
    mask = random_mask(golden["in_mask_noise"], golden.config["mask_ratio"])
    blocks = golden.config["middle_block"] + 1
    with torch.no_grad():
        network, c_noise = model.model, sigma.log() / 4
        c = network.condition(c_noise, labels)
        scaled = x / (sigma**2 + 0.25).sqrt().view(-1, 1, 1, 1)
        golden.check(
            out_D=model(x, sigma, labels),
            out_D_nolabel=model(x, sigma),
            out_D_cfg=model.guided(x, golden["in_sigma_scalar"], labels, scale=golden.config["cfg_scale"]),
            out_hidden=model.features(x, sigma, labels, blocks=blocks),
            out_decoder_layer=network.decoder_layer(network.encode(scaled, c, None), c),
            out_mask=mask.mask,
            out_ids_keep=mask.ids_keep,
            out_ids_restore=mask.ids_restore,
            out_D_masked=model(x, sigma, labels, mask=mask),
            out_masked_hidden=model.features(x, sigma, labels, blocks=blocks, mask=mask),
        )
        assert torch.equal(model(x, sigma, labels.argmax(1)), model(x, sigma, labels))
        assert torch.equal(model.train()(x, sigma, labels, mask=mask), model.eval()(x, sigma, labels, mask=mask))


def test_the_loss_equals_the_reference():
    golden = Golden("maskdit_loss_tiny")
    model = golden.fill(reference_model())
    mask = random_mask(golden["in_mask_noise"], golden.config["mask_ratio"])
    sigma = log_normal_sigma(golden["in_rnd"])
    images, labels, eps = golden["in_images"], golden["in_class_labels"], golden["in_noise"]
    loss = partial(masked_denoising_loss, model, images, labels, sigma=sigma, noise=eps)
    terms = masked_denoising_terms(model, images, labels, sigma=sigma, noise=eps, mask=mask)
    golden.check(
        out_loss=loss(mask=mask),
        out_loss_dsm_only=loss(mask=mask, mae_weight=0.0),
        out_loss_unmasked=loss(),
        out_mae_term=terms.reconstruction,
    )


def test_the_loss_and_its_gradients_equal_a_slow_twin():
    model, clean, eps, mask = tiny().double(), draw(2, 1, 8, 8).double(), draw(2, 1, 8, 8, seed=1).double(), half_mask()
    sigma = torch.tensor([0.3, 1.7], dtype=torch.float64)

    def slow(x: Tensor) -> Tensor:
        losses = []
        for i in range(2):
            one = Mask(mask.mask[i : i + 1], mask.ids_keep[i : i + 1], mask.ids_restore[i : i + 1])
            noisy = x[i] + sigma[i] * eps[i]
            denoised = model(noisy[None], sigma[i : i + 1], mask=one)[0]
            seen, hidden = [], []
            for token in range(16):
                row, column = token // 4 * 2, token % 4 * 2
                patch = (slice(None), slice(row, row + 2), slice(column, column + 2))
                if mask.mask[i, token] == 0:
                    weight = (sigma[i] ** 2 + 0.25) / (0.5 * sigma[i]) ** 2
                    seen.append(weight * (denoised[patch] - x[i][patch]).square().mean())
                else:
                    target = (noisy[patch] - noisy[patch].mean()) / (noisy[patch].var() + 1e-6).sqrt()
                    hidden.append((denoised[patch] - target).square().mean())
            losses.append(torch.stack(seen).mean() + 0.1 * torch.stack(hidden).mean())
        return torch.stack(losses)

    def fast(x: Tensor) -> Tensor:
        return masked_denoising_loss(model, x, sigma=sigma, noise=eps, mask=mask)

    results = []
    for loss in (fast, slow):
        x = clean.clone().requires_grad_()
        value = loss(x)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), [x, *model.model.blocks.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)  # float64, sums in another order


def test_the_reconstruction_loss_can_be_differentiated_twice():
    """The gradient of the norm of an input gradient, against central differences in float64."""
    model, clean, mask = tiny().double(), draw(1, 1, 8, 8).double(), half_mask(1)
    eps, direction = draw(1, 1, 8, 8, seed=1).double(), draw(1, 1, 8, 8, seed=2).double()

    def steepness(x: Tensor) -> Tensor:
        loss = masked_denoising_loss(model, x, sigma=torch.tensor([0.4]), noise=eps, mask=mask)
        (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        return gradient.square().sum()

    with sdpa_kernel(SDPBackend.MATH):
        x = clean.requires_grad_()
        (second,) = torch.autograd.grad(steepness(x), x)
        h = 1e-5
        plus, minus = (steepness((clean + s * h * direction).detach().requires_grad_()) for s in (1, -1))
    expected = (plus - minus).detach() / (2 * h)
    torch.testing.assert_close((second * direction).sum(), expected, rtol=1e-6, atol=0)  # error of order h^2


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_maps_are_those_of_the_fused_path(part, masked):
    model, x, mask = tiny(), draw(2, 1, 8, 8), half_mask() if masked else None
    blocks = model.model.blocks if part == "encoder" else model.model.decoder_blocks
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [b.attn.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out))) for b in blocks]
    with torch.no_grad():
        model(x, 0.5, mask=mask)
        for hook in hooks:
            hook.remove()
        maps = model.attention_maps(x, 0.5, mask=mask, part=part)
        assert len(maps) == len(blocks) == len(seen)
        for block, weights, (tokens, mixed) in zip(blocks, maps, seen, strict=True):
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]), rtol=0, atol=1e-6)
            v = block.attn.project(tokens)[2]
            explicit = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
            torch.testing.assert_close(explicit, mixed, rtol=0, atol=1e-5)


def test_complementary_masks_predict_every_patch_without_seeing_it():
    """What a masked patch holds changes no output of the network; the preconditioning's skip is the only way."""
    model, x, mask = tiny(), draw(1, 1, 8, 8), half_mask(1)
    for one in (mask, complement(mask)):
        with torch.no_grad():
            changed = torch.where(patch_image(one) > 0, x + 1, x)
            raw = [model.model(image, torch.zeros(1), None, one) for image in (x, changed)]
        torch.testing.assert_close(*raw, rtol=0, atol=0)


def patch_image(mask: Mask) -> Tensor:
    return mask.mask.reshape(-1, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_results_do_not_depend_on_the_batch():
    model, x, mask = tiny(), draw(3, 1, 8, 8), half_mask(3)
    sigma, y = torch.tensor([0.2, 1.0, 5.0]), torch.tensor([0, 1, 2])
    with torch.no_grad():
        whole = model(x, sigma, y, mask=mask)
        for i in range(3):
            one = Mask(*(part[i : i + 1] for part in mask))
            torch.testing.assert_close(model(x[i : i + 1], sigma[i : i + 1], y[i : i + 1], mask=one)[0], whole[i])


def test_guidance_moves_along_the_difference_that_the_class_makes():
    model, x, y, sigma = tiny(), draw(2, 1, 8, 8), torch.tensor([0, 2]), torch.tensor([0.3, 2.0])
    with torch.no_grad():
        conditional, unconditional = model(x, sigma, y), model(x, sigma)
        expected = unconditional + 1.5 * (conditional - unconditional)
        torch.testing.assert_close(model.guided(x, sigma, y, scale=1.5), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.guided(x, sigma, y, scale=1.0), conditional, rtol=0, atol=1e-5)


def test_heun_sampling_works_with_and_without_guidance():
    model, latents, y = tiny(), draw(2, 1, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        plain = sample_heun(model, latents, class_labels=y, num_steps=3)
        same = sample_heun(GuidedMaskDiT(model, 1.0), latents, class_labels=y, num_steps=3)
        guided = sample_heun(GuidedMaskDiT(model, 2.0), latents, class_labels=y, num_steps=3)
    assert plain.shape == latents.shape
    torch.testing.assert_close(same, plain, rtol=1e-4, atol=1e-4)  # float32 networks in float64 states
    assert (guided - plain).abs().max() > 1e-2


def test_the_full_size_configuration_equals_the_reference():
    golden = Golden("full_maskdit-xl2-256")
    with torch.device("meta"):
        model = build("maskdit-xl-2-256")
    golden.check_keys(model)
    assert sum(p.numel() for p in model.parameters()) == golden.config["parameters"]
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == golden.config["frozen_parameters"]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("maskdit-digits", (1, 8, 8)), ("maskdit-fashion-mnist", (1, 28, 28)), ("maskdit-cifar10", (3, 32, 32))],
)
def test_pixel_models_start_by_passing_the_scaled_input_and_learn_their_positions(name, shape):
    model, x = build(name), draw(1, *shape)
    mask = half_mask(1, model.tokens)
    denoised = model(x, 0.5, mask=mask)
    torch.testing.assert_close(denoised, 0.5 * x)  # the final layer starts at zero: D = c_skip x, c_skip = 1/2
    loss = masked_denoising_loss(model, x, sigma=torch.tensor([0.5]), noise=draw(1, *shape, seed=1), mask=mask)
    loss.sum().backward()
    assert model.model.pos_embed.requires_grad
    assert model.model.final_layer.linear.weight.grad.abs().max() > 0


def test_bfloat16_autocast_and_compilation_keep_the_numbers():
    model, x, y, mask = tiny(), draw(2, 1, 8, 8), torch.tensor([0, 2]), half_mask()
    with torch.no_grad():
        expected = model(x, torch.tensor([0.3, 2.0]), y, mask=mask)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, torch.tensor([0.3, 2.0]), y, mask=mask), expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x, torch.tensor([0.3, 2.0]), y, mask=mask)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, rtol=0, atol=0.05 * expected.abs().max().item())  # 8-bit mantissa


def test_bad_input_is_refused():
    model, x = tiny(), draw(2, 1, 8, 8)
    for call, message in (
        (lambda: model(draw(2, 3, 8, 8), 1.0), r"expected images \(batch, 1, 8, 8\), got \(2, 3, 8, 8\)"),
        (lambda: model(draw(2, 1, 9, 9), 1.0), r"expected images \(batch, 1, 8, 8\)"),
        (lambda: model(x, 0.0), "sigma must be positive"),
        (lambda: model(x, torch.ones(3)), "expected one sigma or 2, got 3"),
        (lambda: model(x, 1.0, torch.tensor([0, 3])), r"labels must be in 0\.\.2, got 0\.\.3"),
        (lambda: model(x, 1.0, torch.zeros(2, 4)), r"one-hot \(2, 3\), got \(2, 4\)"),
        (lambda: model(x[0], 1.0), r"expected images \(batch, 1, 8, 8\), got \(1, 8, 8\)"),
        (lambda: model(x, 1.0, mask=half_mask(1)), "one row of noise per image"),
        (lambda: model.features(x, 1.0, blocks=3), r"must be in 1\.\.2"),
        (lambda: model.attention_maps(x, 1.0, part="middle"), "part must be"),
        (lambda: tiny(num_classes=0)(x, 1.0, torch.tensor([0, 1])), "unconditional"),
        (lambda: tiny(num_classes=0).guided(x, 1.0, None, scale=2.0), "needs class labels"),
        (lambda: tiny(mask_token=False)(x, 1.0, mask=half_mask()), "no mask token"),
        (lambda: tiny(image_size=9), "divisible by the patch size"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_inputs_are_not_modified():
    model, x, sigma, y = tiny(), draw(2, 1, 8, 8), torch.tensor([0.3, 2.0]), torch.tensor([0, 2])
    kept = x.clone(), sigma.clone(), y.clone()
    masked_denoising_loss(model, x, y, sigma=sigma, noise=draw(2, 1, 8, 8, seed=1), mask=half_mask()).sum().backward()
    for now, before in zip((x, sigma, y), kept, strict=True):
        assert torch.equal(now, before)
