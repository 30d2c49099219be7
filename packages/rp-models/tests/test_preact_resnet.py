import pytest
import torch
from rp_models import build, load, parameter_count, save, zoo
from rp_models.networks.preact_resnet import DMPreActResNet, PreActResNet
from rp_testing import Golden
from torch import nn
from torch.nn import functional as F

FAMILIES = ["preact-resnet18", "preact-resnet18-swish"]


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["preact_resnet18_classic", "preact_resnet18_swish_dmat"])
def test_logits_loss_and_input_gradient_equal_the_reference(name: str) -> None:
    golden = Golden(name)
    args = golden.config["args"]
    model: nn.Module = PreActResNet(18)
    if "swish" in name:
        model = DMPreActResNet(18, mean=args["mean"], std=args["std"])
    golden.fill(model).eval()
    x = golden["in_x"].requires_grad_()
    logits = model(x)
    ce = F.cross_entropy(logits, torch.arange(len(x)))
    (gradient,) = torch.autograd.grad(ce, x)
    golden.check(out_logits=logits, out_ce=ce, out_input_grad=gradient)


@pytest.mark.parametrize(
    ("name", "features", "blocks"),
    [
        ("preact-resnet18", 512, 8),
        ("preact-resnet34", 512, 16),
        ("preact-resnet50", 2048, 16),
        ("preact-resnet101", 2048, 33),
        ("preact-resnet34-swish", 512, 16),
    ],
)
def test_each_depth_has_its_number_of_blocks_and_features(name: str, features: int, blocks: int) -> None:
    with torch.device("meta"):
        model = build(name)
        assert model.forward_features(torch.empty(2, 3, 32, 32)).shape == (2, features)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert sum(key.endswith((".conv2.weight", ".conv_2d_2.weight")) for key in model.state_dict()) == blocks


def test_a_bottleneck_is_what_its_layers_compute_one_after_the_other() -> None:
    with torch.random.fork_rng():
        block = PreActResNet(50).layer2[0].eval()
    x = images(2, 256, 8, 8) - 0.5
    activated = F.relu(block.bn1(x))
    hidden = F.relu(block.bn2(F.conv2d(activated, block.conv1.weight)))
    hidden = F.relu(block.bn3(F.conv2d(hidden, block.conv2.weight, stride=2, padding=1)))
    expected = F.conv2d(hidden, block.conv3.weight) + F.conv2d(activated, block.shortcut[0].weight, stride=2)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)  # float32 sums of 576 terms


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 11, 9)])
def test_any_image_size_and_channel_count_gives_logits_from_pooled_features(name: str, shape: tuple[int, ...]) -> None:
    statistics = {"mean": (0.5,) * shape[0], "std": (0.5,) * shape[0]}
    model = build(name, num_classes=7, in_channels=shape[0], **statistics).eval()
    features = model.forward_features(images(2, *shape))
    assert features.shape == (2, 512)
    torch.testing.assert_close(model.head(features), model(images(2, *shape)))


def test_bad_input_is_an_error_that_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match="one of 18, 34, got 50"):
        build("preact-resnet18-swish", depth=50)
    with torch.device("meta"):
        model = build("preact-resnet18")
    with pytest.raises(ValueError, match=r"expected images \(batch, 3, height, width\), got \(2, 1, 8, 8\)"):
        model(torch.empty(2, 1, 8, 8))


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpoint_bfloat16_and_channels_last_keep_the_logits(name: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, x = build(name).eval(), images(2, 3, 8, 8)
    logits = model(x)
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(x), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), logits, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_network_compiles_into_one_graph(name: str) -> None:
    model, x = build(name).eval(), images(1, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_every_preactivation_resnet_of_the_zoo_builds() -> None:
    assert all(parameter_count(name) > 11_000_000 for name in zoo.names("preact"))
