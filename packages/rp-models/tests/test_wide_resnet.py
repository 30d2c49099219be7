import pytest
import torch
from rp_models import build, zoo
from rp_models.networks.dm_wide_resnet import DMWideResNet
from rp_models.networks.wide_resnet import SameConv2d, WideResNet
from rp_testing import Golden
from torch import nn
from torch.nn import functional as F

CLASSIC = ["wrn_classic_d10_w2", "wrn_trades_subblock_d10_w1"]
DM = [
    "wrn_dmat_d10_w2",
    "wrn_dmat_cifar100_d10_w1",
    "wrn_dmat_svhn_d16_w1",
    "wrn_dmat_tiny_d10_w1",
    "wrn_dmat_relu_d10_w1",
]


def reference_model(golden: Golden) -> nn.Module:
    args = golden.config["args"]
    sizes = {"depth": args["depth"], "num_classes": args["num_classes"]}
    if "widen_factor" in args:
        return WideResNet(width=args["widen_factor"], sub_block="subblock" in golden.name, **sizes)
    return DMWideResNet(
        width=args["width"], mean=args["mean"], std=args["std"], activation=args["activation"].lower(), **sizes
    )


@pytest.mark.parametrize("name", CLASSIC + DM)
def test_eval_logits_loss_and_input_gradient_equal_the_reference(name: str) -> None:
    golden = Golden(name)
    model = golden.fill(reference_model(golden)).eval()
    x = golden["in_x"].requires_grad_()
    logits = model(x)
    ce = F.cross_entropy(logits, torch.arange(len(x)) % logits.shape[1])
    (gradient,) = torch.autograd.grad(ce, x)
    golden.check(out_logits=logits, out_ce=ce, out_input_grad=gradient)


@pytest.mark.parametrize(
    "name", [name for name in CLASSIC + DM if "d10" in name and "relu" not in name and "tiny" not in name]
)
def test_train_logits_and_batch_norm_buffers_equal_the_reference(name: str) -> None:
    golden = Golden(name)
    model = golden.fill(reference_model(golden)).train()
    with torch.no_grad():
        golden.check(out_logits_train=model(golden["in_x"]))
    buffers = dict(model.named_buffers())
    recorded = [key for key in golden.arrays if key.startswith("out_after_train.")]
    assert len(recorded) == 4
    golden.check(**{key: buffers[key.removeprefix("out_after_train.")] for key in recorded})


@pytest.mark.parametrize(
    ("file", "name", "arguments"),
    [
        ("keys_wrn_classic_28_10", "wrn-28-10", {}),
        ("keys_wrn_classic_34_10", "wrn-34-10", {}),
        ("keys_wrn_classic_70_16", "wrn-70-16", {}),
        ("keys_wrn_trades_subblock_34_10", "wrn-34-10", {"sub_block": True}),
        ("keys_wrn_dmat_28_10", "wrn-28-10-swish", {}),
        ("keys_wrn_dmat_28_10_cifar100", "wrn-28-10-swish-cifar100", {}),
        ("keys_wrn_dmat_28_10_svhn", "wrn-28-10-swish-svhn", {}),
        ("keys_wrn_dmat_34_20", "wrn-34-20-swish", {}),
        ("keys_wrn_dmat_70_16", "wrn-70-16-swish", {}),
        ("keys_wrn_dmat_70_16_cifar100", "wrn-70-16-swish", {"num_classes": 100}),
    ],
)
def test_full_size_keys_shapes_and_parameter_counts_equal_the_reference(file: str, name: str, arguments: dict) -> None:
    golden = Golden(file)
    with torch.device("meta"):
        model = build(name, **arguments)
    golden.check_keys(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.config["n_parameters"]


@pytest.mark.parametrize("name", ["wide-resnet", "dm-wide-resnet"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 15, 13)])
def test_any_image_size_and_channel_count_gives_logits_from_pooled_features(name: str, shape: tuple[int, ...]) -> None:
    model = build(name, depth=10, width=1, num_classes=7, in_channels=shape[0]).eval()
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    features = model.forward_features(x)
    assert features.shape == (2, 64)
    torch.testing.assert_close(model.head(features), model(x))


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_same_padding_of_stride_two_follows_tensorflow_for_odd_and_even_sizes(size: int) -> None:
    conv = SameConv2d(1, 1, 2)
    x = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0))
    out = -(-size // 2)
    total = max((out - 1) * 2 + 3 - size, 0)  # TensorFlow's rule: the odd pixel goes to the right and bottom
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    torch.testing.assert_close(conv(x), F.conv2d(padded, conv.weight, stride=2))


def test_padding_puts_black_pixels_around_the_image_before_normalisation() -> None:
    arguments = {"depth": 10, "width": 1, "in_channels": 1, "mean": (0.3,), "std": (0.2,)}
    padded, plain = build("dm-wide-resnet", padding=2, **arguments).eval(), build("dm-wide-resnet", **arguments).eval()
    plain.load_state_dict(padded.state_dict())
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(padded(x), plain(F.pad(x, (2, 2, 2, 2))))


def test_the_unused_group_of_trades_changes_nothing_and_is_not_trained() -> None:
    model = WideResNet(10, 1, sub_block=True)
    assert not any(p.requires_grad for key, p in model.named_parameters() if key.startswith("sub_block1"))
    assert "sub_block1.layer.0.conv1.weight" in model.state_dict()
    without = WideResNet(10, 1)
    without.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("sub_block1")})
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.eval()(x), without.eval()(x))


def test_the_last_layer_of_the_classic_network_can_do_without_a_bias() -> None:
    assert "fc.bias" not in build("wrn-16-4", head_bias=False).state_dict()


def test_weights_start_with_variance_two_over_fan_out_and_zero_head_bias() -> None:
    model = DMWideResNet(10, 4)
    weight = model.layer[2].block[0].conv_1.weight
    # 589,824 draws: the sample deviation is within 0.5 % of sqrt(2 / (9 * 256)) with a probability beyond 5 sigma
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=5e-3)
    assert not model.logits.bias.any()


@pytest.mark.parametrize("name", ["wrn-16-4", "wrn-16-4-swish"])
def test_wrong_channels_are_an_error_that_says_what_was_expected(name: str) -> None:
    model = build(name)
    with pytest.raises(ValueError, match=r"expected images \(batch, 3, height, width\), got \(2, 1, 8, 8\)"):
        model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\)"):
        model(torch.zeros(3, 8, 8))


def test_bad_arguments_are_errors_that_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"6 n \+ 4 .* got 27"):
        build("wide-resnet", depth=27)
    with pytest.raises(ValueError, match="one of silu, relu, pssilu, got 'gelu'"):
        build("dm-wide-resnet", activation="gelu")
    with pytest.raises(ValueError, match="mean has 3 values for 1 channels"):
        build("wrn-28-10-swish", in_channels=1)
    with pytest.raises(ValueError, match="both mean and std"):
        build("wide-resnet", mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="every std must be positive"):
        build("wide-resnet", mean=(0.5, 0.5, 0.5), std=(0.5, 0.0, 0.5))


def test_a_checkpoint_of_each_class_gives_back_an_equal_network(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import rp_models

    for name in ("wrn-16-4", "wrn-16-4-swish"):
        model = build(name, depth=10, width=1).eval()
        rp_models.save(model, tmp_path / "model.safetensors")
        x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(rp_models.load(tmp_path / "model.safetensors")(x), model(x))


@pytest.mark.parametrize("name", ["wide-resnet", "dm-wide-resnet"])
def test_bfloat16_autocast_and_channels_last_give_nearly_the_same_logits(name: str) -> None:
    model = build(name, depth=10, width=1).eval()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits = model(x)
    torch.testing.assert_close(
        model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)),
        logits,
        rtol=1e-4,
        atol=1e-4,
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), logits, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("name", ["wide-resnet", "dm-wide-resnet"])
def test_the_whole_network_compiles_into_one_graph(name: str) -> None:
    model = build(name, depth=10, width=1).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_every_wide_resnet_of_the_zoo_builds() -> None:
    for name in zoo.names("wrn-"):
        assert zoo.parameter_count(name) > 0
