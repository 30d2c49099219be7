import pytest
import torch
from rp_models import build, load, save
from rp_models.networks.transformer import DropPath
from rp_models.networks.vit import VisionTransformer
from rp_testing import Golden
from torch import nn
from torch.nn import functional as F

TINY = {"image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 5, "width": 16, "depth": 2, "heads": 2}
POOLINGS = [{"pool": "token"}, {"pool": "avg"}, {"pool": "avg", "class_token": False}]


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["vit_timm_tiny_p2_token", "vit_timm_tiny_p2_avg", "vit_timm_tiny_p2_avg_cls"])
def test_logits_tokens_loss_and_input_gradient_equal_the_reference(name: str) -> None:
    golden = Golden(name)
    args = golden.config["args"]
    model = VisionTransformer(
        image_size=args["img_size"],
        patch_size=args["patch_size"],
        num_classes=args["num_classes"],
        width=args["embed_dim"],
        depth=args["depth"],
        heads=args["num_heads"],
        pool=args["global_pool"],
        class_token=args["class_token"],
    )
    golden.fill(model).eval()
    x = golden["in_x"].requires_grad_()
    logits = model(x)
    ce = F.cross_entropy(logits, torch.arange(len(x)))
    (gradient,) = torch.autograd.grad(ce, x)
    golden.check(out_logits=logits, out_features=model.forward_tokens(x), out_ce=ce, out_input_grad=gradient)


def test_full_size_keys_shapes_and_parameter_count_equal_the_reference() -> None:
    golden = Golden("keys_vit_base_p2_32_token")
    with torch.device("meta"):
        model = build("vit-b2-32")
    golden.check_keys(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.config["n_parameters"]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_are_the_head_of_the_pooled_features(pooling: dict) -> None:
    model = build("vit", **TINY, **pooling).eval()
    features = model.forward_features(images(2, 1, 8, 8))
    assert features.shape == (2, 16)
    torch.testing.assert_close(model.head(features), model(images(2, 1, 8, 8)))


def test_without_classes_there_is_no_head_and_the_features_come_out() -> None:
    model = build("vit", **{**TINY, "num_classes": 0}).eval()
    assert not any(key.startswith("head") for key in model.state_dict())
    x = images(2, 1, 8, 8)
    assert torch.equal(model(x), model.forward_features(x))


def test_the_drop_rate_rises_linearly_from_zero_and_acts_in_training_only() -> None:
    model = build("vit", **{**TINY, "depth": 4}, drop_path=0.1)
    rates = [module.rate for module in model.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    plain = build("vit", **{**TINY, "depth": 4})
    plain.load_state_dict(model.state_dict())
    x = images(2, 1, 8, 8)
    assert torch.equal(model.eval()(x), plain.eval()(x))


def test_weights_start_as_timms_do() -> None:
    model = build("vit", **{**TINY, "width": 256})
    for tensor in (model.pos_embed, model.head.weight, model.blocks[1].mlp.fc1.weight):
        assert tensor.std().item() == pytest.approx(0.02, rel=0.1)  # from 1,280 draws on
    assert 0 < model.cls_token.abs().max() < 1e-5
    assert not model.blocks[0].attn.qkv.bias.any()


def test_bad_input_is_an_error_that_says_what_was_expected() -> None:
    model = build("vit", **TINY)
    with pytest.raises(ValueError, match=r"expected images \(batch, 1, height, width\), got \(2, 3, 8, 8\)"):
        model(images(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected images \(batch, 1, 8, 8\), got \(2, 1, 16, 16\)"):
        model(images(2, 1, 16, 16))
    with pytest.raises(ValueError, match="divisible by the patch size, got 8 and 3"):
        build("vit", **{**TINY, "patch_size": 3})
    with pytest.raises(ValueError, match="'token' or 'avg', got 'map'"):
        build("vit", **TINY, pool="map")
    with pytest.raises(ValueError, match="needs class_token=True"):
        build("vit", **TINY, class_token=False)


def test_checkpoint_bfloat16_and_channels_last_keep_the_logits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, x = build("vit-digits").eval(), images(2, 1, 8, 8)
    logits = model(x)
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(x), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), logits, rtol=0.05, atol=0.05)  # bfloat16 keeps 8 bits
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), logits, rtol=1e-5, atol=1e-6)


def test_the_whole_network_compiles_into_one_graph() -> None:
    model, x = build("vit", **TINY).eval(), images(2, 1, 8, 8)
    compiled: nn.Module = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
