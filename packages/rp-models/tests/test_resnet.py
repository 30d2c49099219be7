import pytest
import torch
from rp_models import build, load, save
from rp_models.networks.resnet import CifarResNet
from torch.nn import functional as F


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_keys_of_the_smallest_network_are_those_of_the_public_layout() -> None:
    with torch.device("meta"):
        keys = [key for key in build("resnet18-cifar").state_dict() if key.endswith("weight")]
    group = ["{g}.0.conv1", "{g}.0.bn1", "{g}.0.conv2", "{g}.0.bn2", "{g}.0.shortcut.0", "{g}.0.shortcut.1"]
    group += ["{g}.1.conv1", "{g}.1.bn1", "{g}.1.conv2", "{g}.1.bn2"]
    expected = ["conv1", "bn1", *[k.format(g="layer1") for k in group if "shortcut" not in k]]
    expected += [k.format(g=f"layer{i}") for i in (2, 3, 4) for k in group] + ["linear"]
    assert keys == [f"{key}.weight" for key in expected]


@pytest.mark.parametrize(("depth", "features", "parameters"), [(18, 512, 11_173_962), (50, 2048, 23_520_842)])
def test_each_depth_has_the_known_number_of_parameters(depth: int, features: int, parameters: int) -> None:
    with torch.device("meta"):
        model = CifarResNet(depth)
        assert model.forward_features(torch.empty(2, 3, 32, 32)).shape == (2, features)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_a_basic_block_and_a_bottleneck_are_their_layers_one_after_the_other() -> None:
    x = images(2, 64, 8, 8) - 0.5
    block = CifarResNet(18).layer2[0].eval()
    hidden = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=2, padding=1)))
    expected = block.bn2(F.conv2d(hidden, block.conv2.weight, padding=1)) + block.shortcut(x)
    torch.testing.assert_close(block(x), F.relu(expected), rtol=1e-5, atol=1e-5)
    x = images(2, 256, 8, 8) - 0.5
    block = CifarResNet(50).layer2[0].eval()
    hidden = F.relu(block.bn1(F.conv2d(x, block.conv1.weight)))
    hidden = F.relu(block.bn2(F.conv2d(hidden, block.conv2.weight, stride=2, padding=1)))
    expected = block.bn3(F.conv2d(hidden, block.conv3.weight)) + block.shortcut(x)
    torch.testing.assert_close(block(x), F.relu(expected), rtol=1e-5, atol=1e-5)


def test_the_network_keeps_its_logits_through_checkpoint_bfloat16_channels_last_and_compilation(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, x = build("resnet18-cifar", num_classes=7, in_channels=1).eval(), images(2, 1, 12, 12)
    logits = model(x)
    torch.testing.assert_close(model.head(model.forward_features(x)), logits)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), logits)
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(x), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), logits, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), logits, rtol=1e-4, atol=1e-4)


def test_bad_input_is_an_error_that_says_what_was_expected() -> None:
    with pytest.raises(ValueError, match="one of 18, 34, 50, 101, 152, got 20"):
        CifarResNet(20)
    with pytest.raises(ValueError, match=r"expected images \(batch, 3, height, width\), got \(2, 1, 8, 8\)"):
        CifarResNet(18)(images(2, 1, 8, 8))
