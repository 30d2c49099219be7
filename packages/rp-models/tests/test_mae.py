import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models import build, load, save
from rp_models.mask import Mask, complement, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.position import sincos_table
from rp_models.networks.transformer import patchify, unpatchify
from rp_testing import Golden
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def tiny(**arguments: object) -> MaskedAutoencoder:
    """8x8 images of one channel, 16 patches."""
    sizes = {"image_size": 8, "patch_size": 2, "in_channels": 1, "width": 16, "depth": 2, "heads": 2}
    decoder = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return MaskedAutoencoder(**{**sizes, **decoder, **arguments}).eval()  # type: ignore[arg-type]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def some_mask(batch: int = 2, rate: float = 0.75, tokens: int = 16, seed: int = 1) -> Mask:
    return random_mask(images(batch, tokens, seed=seed), rate)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden("mae_tiny_p4_32")


@pytest.fixture
def reference_model(golden: Golden) -> MaskedAutoencoder:
    args = golden.config["args"]
    model = MaskedAutoencoder(
        image_size=args["img_size"],
        patch_size=args["patch_size"],
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        decoder_width=args["decoder_embed_dim"],
        decoder_depth=args["decoder_depth"],
        decoder_heads=args["decoder_num_heads"],
    )
    golden.check(out_pos_embed_init=model.pos_embed, out_decoder_pos_embed_init=model.decoder_pos_embed)
    golden.fill(model)
    return model.eval()


def test_prediction_latents_loss_and_gradient_equal_the_reference(
    golden: Golden, reference_model: MaskedAutoencoder
) -> None:
    model, x = reference_model, golden["in_x"]
    mask = random_mask(golden["in_noise"], 0.75)
    golden.check(out_mask=mask.mask, out_ids_restore=mask.ids_restore)
    loss = model.loss(x, mask).mean()
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    pred = model(x, mask)
    golden.check(
        out_latent=model.encode(x, mask),
        out_pred=pred,
        out_patches=model.target(x),
        out_unpatchified_pred=unpatchify(pred, 4),
        out_loss=loss,
        out_grad_norm=torch.stack([grad.norm() for grad in grads]).norm(),
    )
    assert model.pos_embed.grad is None
    assert model.decoder_pos_embed.grad is None


def test_normalised_pixel_loss_and_unmasked_latents_equal_the_reference(
    golden: Golden, reference_model: MaskedAutoencoder
) -> None:
    model, x = reference_model, golden["in_x"]
    model.norm_pix = True
    golden.check(out_loss_norm_pix=model.loss(x, random_mask(golden["in_noise"], 0.75)).mean())
    unmasked = random_mask(golden["in_noise"], 0.0)
    golden.check(out_latent_unmasked=model.encode(x, unmasked), out_ids_restore_unmasked=unmasked.ids_restore)


def test_without_a_mask_the_encoder_gives_the_same_latents_in_image_order() -> None:
    model, x, mask = tiny(), images(2, 1, 8, 8), some_mask(rate=0.0)
    shuffled = model.encode(x, mask)[:, 1:]
    restored = shuffled.gather(1, mask.ids_restore[:, :, None].expand_as(shuffled))
    torch.testing.assert_close(model.encode(x)[:, 1:], restored, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.forward_features(x), restored.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_position_tables_equal_the_reference() -> None:
    golden = Golden("mae_sincos_pos_embed")
    rows = [int(row) for row in golden.config["official"]["rows"].split(",")]
    golden.check(
        out_small=sincos_table(64, 8, class_token=True),
        out_official_rows=sincos_table(768, 14, class_token=True)[rows],
    )


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("keys_mae_vit_base_patch16", "mae-vit-base"),
        ("keys_mae_vit_large_patch16", "mae-vit-large"),
        ("keys_mae_vit_base_p4_32", "mae-vit-base-p4-32"),
    ],
)
def test_full_size_keys_shapes_and_parameter_counts_equal_the_reference(file: str, name: str) -> None:
    golden = Golden(file)
    with torch.device("meta"):
        model = build(name)
    golden.check_keys(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.config["n_parameters"]


def test_the_loss_of_each_image_is_the_error_of_its_masked_patches_one_by_one() -> None:
    model, x, mask = tiny(mean=(0.3,), std=(0.2,), norm_pix=True), images(3, 1, 8, 8), some_mask(3)
    pred, loss = model(x, mask), model.loss(x, mask)
    for b in range(3):
        errors = []
        for n in range(16):
            if mask.mask[b, n] == 0:
                continue
            row, column = divmod(n, 4)
            patch = (x[b, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten() - 0.3) / 0.2
            standard = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
            errors.append(((pred[b, n] - standard) ** 2).mean())
        assert len(errors) == 12
        torch.testing.assert_close(loss[b], torch.stack(errors).mean())


def test_the_image_gradient_has_a_part_through_the_target_that_can_be_detached() -> None:
    model, mask = tiny(), some_mask()
    x = images(2, 1, 8, 8).requires_grad_()
    (full,) = torch.autograd.grad(model.loss(x, mask).sum(), x)
    (visible,) = torch.autograd.grad(model.loss(x, mask, detach_target=True).sum(), x)
    hidden_pixels = unpatchify(mask.mask[:, :, None].expand(-1, -1, 4), 2) > 0
    assert not visible[hidden_pixels].any()
    assert visible[~hidden_pixels].any()
    torch.testing.assert_close(full[~hidden_pixels], visible[~hidden_pixels])
    # d/dx of mean over 12 masked patches of mean over 4 pixels of (pred - x)^2
    difference = unpatchify(model(x, mask), 2) - x
    torch.testing.assert_close(full[hidden_pixels], (-2 * difference / (12 * 4))[hidden_pixels])


def test_the_second_derivative_equals_finite_differences() -> None:
    model = tiny(width=8, decoder_width=4, decoder_heads=1, depth=1).double()
    mask = some_mask(1)
    x = images(1, 1, 8, 8).double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        # 64 pixels: every entry of the Hessian-vector products is compared, in float64
        assert torch.autograd.gradgradcheck(lambda x: model.loss(x, mask).sum(), x, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_attention_maps_are_what_the_fused_attention_applies(part: str) -> None:
    model, x, mask = tiny(decoder_depth=2), images(2, 1, 8, 8), some_mask()
    maps = model.attention_maps(x, mask, part=part)  # type: ignore[arg-type]
    blocks = model.blocks if part == "encoder" else model.decoder_blocks
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for block in blocks:
        block.attn.register_forward_hook(lambda _, args, out: (inputs.append(args[0]), outputs.append(out))[0])
    model(x, mask)
    size = 1 + (4 if part == "encoder" else 16)
    assert [tuple(weights.shape) for weights in maps] == [(2, 2, size, size)] * 2
    for block, weights, tokens, output in zip(blocks, maps, inputs, outputs, strict=True):
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 2, size))
        _, _, values = block.attn.project(tokens)
        mixed = block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, output, rtol=1e-5, atol=1e-5)


def test_attention_maps_carry_a_gradient_to_the_image() -> None:
    x = images(1, 1, 8, 8).requires_grad_()
    maps = tiny().attention_maps(x, some_mask(1))
    (gradient,) = torch.autograd.grad(maps[-1].var(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_reconstruction_pastes_visible_patches_and_predictions_in_the_units_of_the_image(norm_pix: bool) -> None:
    model, x, mask = tiny(mean=(0.3,), std=(0.2,), norm_pix=norm_pix), images(2, 1, 8, 8), some_mask()
    patches, original, pred = patchify(model.reconstruct(x, mask), 2), patchify(x, 2), model(x, mask)
    hidden = mask.mask > 0
    assert torch.equal(patches[~hidden], original[~hidden])
    expected = pred * 0.2 + 0.3
    if norm_pix:
        expected = pred * original.var(dim=-1, keepdim=True).add(1e-6 * 0.2**2).sqrt() + original.mean(-1, keepdim=True)
    torch.testing.assert_close(patches[hidden], expected[hidden], rtol=1e-4, atol=1e-4)


def test_a_reconstruction_with_the_perfect_prediction_is_the_image() -> None:
    model, x, mask = tiny(mean=(0.3,), std=(0.2,), norm_pix=True), images(2, 1, 8, 8), some_mask()
    model.decode = lambda latent, mask: model.target(x)  # type: ignore[method-assign]
    torch.testing.assert_close(model.reconstruct(x, mask), x)
    torch.testing.assert_close(model.loss(x, mask), torch.zeros(2))


@given(seed=st.integers(0, 2**20), rate=st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=8)
def test_hidden_pixels_never_reach_the_prediction(seed: int, rate: float) -> None:
    model, x, mask = tiny(), images(2, 1, 8, 8), some_mask(rate=rate, seed=seed)
    hidden = unpatchify(mask.mask[:, :, None].expand(-1, -1, 4), 2) > 0
    assert torch.equal(model(x, mask), model(torch.where(hidden, 1 - x, x), mask))


@given(batch=st.integers(2, 5), seed=st.integers(0, 2**20))
@settings(deadline=None, max_examples=8)
def test_the_loss_of_an_image_does_not_depend_on_its_batch(batch: int, seed: int) -> None:
    model, x, noise = tiny(), images(batch, 1, 8, 8, seed=seed), images(batch, 16, seed=seed + 1)
    together = model.loss(x, random_mask(noise, 0.5))
    alone = torch.cat([model.loss(x[i : i + 1], random_mask(noise[i : i + 1], 0.5)) for i in range(batch)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_mask_and_complement_together_measure_every_patch_once() -> None:
    model, x = tiny(), images(2, 1, 8, 8)
    model.decode = lambda latent, mask: torch.zeros(2, 16, 4)  # type: ignore[method-assign]
    mask = some_mask(rate=0.5)
    total = (model.loss(x, mask) + model.loss(x, complement(mask))) / 2
    torch.testing.assert_close(total, x.square().mean(dim=(1, 2, 3)))


def test_bad_input_is_an_error_that_says_what_was_expected() -> None:
    model, x = tiny(), images(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"expected images \(batch, 1, height, width\), got \(2, 3, 8, 8\)"):
        model.loss(images(2, 3, 8, 8), some_mask())
    with pytest.raises(ValueError, match=r"expected images \(batch, 1, 8, 8\), got \(2, 1, 16, 16\)"):
        model(images(2, 1, 16, 16), some_mask())
    with pytest.raises(ValueError, match=r"divide into patches of 2 pixels, got \(2, 1, 9, 9\); resize the images"):
        model.loss(images(2, 1, 9, 9), some_mask())
    with pytest.raises(ValueError, match=r"mask is for \(batch, tokens\) = \(2, 64\)"):
        model(x, some_mask(tokens=64))
    with pytest.raises(ValueError, match="hides no patch"):
        model.loss(x, some_mask(rate=0.0))
    with pytest.raises(ValueError, match="'encoder' or 'decoder', got 'both'"):
        model.attention_maps(x, some_mask(), part="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="need a mask"):
        model.attention_maps(x, None)
    with pytest.raises(ValueError, match="divisible by the patch size, got 32 and 5"):
        tiny(image_size=32, patch_size=5)
    with pytest.raises(ValueError, match="two values or more"):
        tiny(patch_size=1, norm_pix=True)


@pytest.mark.parametrize("name", ["mae-digits", "mae-fashion-mnist"])
def test_small_sizes_of_the_zoo_run_on_their_images(name: str) -> None:
    model = build(name).eval()
    size = model.patch_embed.image_size
    loss = model.loss(images(2, 1, size, size), some_mask(tokens=model.tokens))
    assert loss.shape == (2,)
    assert torch.isfinite(loss).all()


def test_the_huge_encoder_takes_patches_of_14_and_on_request_of_16() -> None:
    with torch.device("meta"):
        assert build("mae-vit-huge").tokens == 256
        assert build("mae-vit-huge", patch_size=16).tokens == 196


def test_a_checkpoint_gives_back_an_equal_network(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = build("mae-digits", norm_pix=True).eval()
    save(model, tmp_path / "mae.safetensors")
    x, mask = images(2, 1, 8, 8), some_mask()
    assert torch.equal(load(tmp_path / "mae.safetensors").loss(x, mask), model.loss(x, mask))


def test_bfloat16_autocast_and_channels_last_give_nearly_the_same_loss() -> None:
    model, x, mask = tiny(), images(2, 1, 8, 8), some_mask()
    loss = model.loss(x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.loss(x, mask), loss, rtol=0.05, atol=0.05)  # bfloat16 keeps 8 bits
    model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model.loss(x, mask), loss, rtol=1e-5, atol=1e-6)


def test_the_loss_compiles_into_one_graph() -> None:
    model, x, mask = tiny(), images(2, 1, 8, 8), some_mask()
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, mask), model.loss(x, mask))
