import sys
from types import ModuleType

import pytest
import torch
from rp_models import build, load, save
from rp_models.networks.backbones import Backbone
from rp_models.networks.vit import VisionTransformer
from rp_testing import Golden
from torch import nn

NAMES = ["vit-b16-dinov3", "convnext-b", "resnet50", "resnet101"]


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    return pytest.importorskip("timm")  # its import takes seconds, so all its tests stand in this file


@pytest.fixture(scope="module")
def small(timm: ModuleType) -> Backbone:
    """A ConvNeXt of a few thousand parameters."""
    model = build("timm", model="convnext_atto", num_classes=7, mean=(0.5,) * 3, std=(0.2,) * 3, options=SMALL)
    assert isinstance(model, Backbone)
    return model.eval()


SMALL = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("file", "name"),
    [("keys_timm_vit_base_patch16_dinov3", "vit-b16-dinov3"), ("keys_timm_convnext_base", "convnext-b")],
)
def test_full_size_keys_shapes_and_parameter_counts_equal_the_reference(timm: ModuleType, file: str, name: str) -> None:
    golden = Golden(file)
    classes = 1000 if "head.fc.bias" in golden.shapes else 0
    with torch.device("meta"):
        model = build(name, num_classes=classes)
    golden.check_keys(model)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.config["n_parameters"]


@pytest.mark.parametrize(("name", "width"), list(zip(NAMES, [768, 1024, 2048, 2048], strict=True)))
def test_each_backbone_gives_logits_and_pooled_features(timm: ModuleType, name: str, width: int) -> None:
    with torch.device("meta"):
        model = build(name, num_classes=10)
        x = torch.empty(2, 3, 64, 64)
        features = model.forward_features(x)
        assert features.shape == (2, width)
        assert model.head.in_features == width
        assert model(x).shape == (2, 10)


def test_resnet_keys_are_also_those_of_torchvision(timm: ModuleType) -> None:
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        ours, theirs = build("resnet50", num_classes=1000), models.resnet50()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def test_logits_are_those_of_timm_on_normalised_images(small: Backbone, timm: ModuleType) -> None:
    reference = timm.create_model("convnext_atto", num_classes=7, **SMALL).eval()
    reference.load_state_dict(small.state_dict())
    x = images(2, 3, 32, 32)
    assert torch.equal(small(x), reference((x - 0.5) / 0.2))
    torch.testing.assert_close(small.head(small.forward_features(x)), small(x))


def test_weights_load_back_alone_inside_another_module_and_from_a_checkpoint(small: Backbone, tmp_path) -> None:  # type: ignore[no-untyped-def]
    x = images(2, 3, 32, 32)
    arguments = {"model": "convnext_atto", "num_classes": 7, "mean": (0.5,) * 3, "std": (0.2,) * 3, "options": SMALL}
    twin = build("timm", **arguments).eval()
    assert not torch.equal(twin(x), small(x))
    nested = nn.ModuleDict({"first": small, "second": nn.Linear(1, 1)})
    assert "first.stem.0.weight" in nested.state_dict()
    nn.ModuleDict({"first": twin, "second": nn.Linear(1, 1)}).load_state_dict(nested.state_dict())
    assert torch.equal(twin(x), small(x))
    save(small, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(x), small(x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        twin.load_state_dict({**small.state_dict(), "stray": torch.zeros(1)})


def test_bfloat16_autocast_channels_last_and_one_compiled_graph_keep_the_logits(small: Backbone) -> None:
    x = images(2, 3, 32, 32)
    logits = small(x)
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(small(x).float(), logits, rtol=0.1, atol=0.1)  # bfloat16 keeps 8 bits
    torch.testing.assert_close(small(x.to(memory_format=torch.channels_last)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", [{"pool": "token"}, {"pool": "avg"}, {"pool": "avg", "class_token": False}])
def test_our_vision_transformer_equals_timms_with_its_weights(timm: ModuleType, pooling: dict) -> None:
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=5,
        embed_dim=16,
        depth=3,
        num_heads=2,
        global_pool=pooling["pool"],
        class_token=pooling.get("class_token", True),
    ).eval()
    ours = VisionTransformer(8, 2, 1, 5, width=16, depth=3, heads=2, **pooling).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = images(2, 1, 8, 8).requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x)
    (expected,) = torch.autograd.grad(theirs(x).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_bad_input_is_an_error_that_says_what_was_expected(small: Backbone) -> None:
    with pytest.raises(ValueError, match=r"expected images \(batch, 3, height, width\), got \(2, 1, 32, 32\)"):
        small(images(2, 1, 32, 32))
    with pytest.raises(ValueError, match="has no network 'convnext_huge_typo'"):
        build("timm", model="convnext_huge_typo")
    with torch.device("meta"):
        model = build("vit-b16-dinov3", num_classes=10)
        with pytest.raises(ValueError, match=r"divisible by the patch size \(16, 16\), got \(250, 256\)"):
            model(torch.empty(1, 3, 250, 256))


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'rp-models\[timm\]'"):
        build("convnext-b")
