import argparse
from pathlib import Path

import pytest
import torch
from rp_models import CheckpointError, build
from rp_models.importers.mae import read_mae
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.normalization import IMAGENET
from rp_models.networks.vit import VisionTransformer
from torch import Tensor

MEAN_STD = IMAGENET._asdict()
ENCODER = {"image_size": 16, "patch_size": 8, "width": 24, "depth": 2, "heads": 2}
HEADS = {"heads": 2, "decoder_heads": 4}


@pytest.fixture
def autoencoder() -> MaskedAutoencoder:
    sizes = {"decoder_width": 16, "decoder_depth": 3, "decoder_heads": 4}
    return MaskedAutoencoder(**ENCODER, **sizes, **MEAN_STD).eval()  # type: ignore[arg-type]


def images() -> Tensor:
    return torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def test_a_visualize_file_becomes_an_equal_autoencoder_of_pixels(
    autoencoder: MaskedAutoencoder, tmp_path: Path
) -> None:
    path = tmp_path / "mae_visualize_vit_base.pth"
    torch.save({"model": autoencoder.state_dict()}, path)
    imported = read_mae(path, **HEADS)
    assert imported.architecture == "mae"
    assert imported.arguments["norm_pix"] is False
    mask = random_mask(torch.rand(2, 4, generator=torch.Generator().manual_seed(1)), 0.5)
    assert torch.equal(imported.build().loss(images(), mask), autoencoder.loss(images(), mask))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "training", "argument", "expected"),
    [
        ("mae_pretrain_vit_base_full.pth", None, None, True),
        ("mae_pretrain_vit_base_full.pth", None, False, False),
        ("checkpoint-799.pth", True, None, True),
        ("checkpoint-799.pth", False, None, False),
        ("checkpoint-799.pth", False, True, True),
    ],
)
def test_standardised_patches_follow_the_argument_then_the_training_then_the_name(
    autoencoder: MaskedAutoencoder,
    tmp_path: Path,
    name: str,
    training: bool | None,
    argument: bool | None,
    expected: bool,
) -> None:
    content: dict = {"model": autoencoder.state_dict()}
    if training is not None:
        content |= {"optimizer": {"state": {}, "param_groups": []}, "epoch": 799, "scaler": {}}
        content["args"] = argparse.Namespace(norm_pix_loss=training, model="mae_vit_base_patch16", blr=1.5e-4)
    torch.save(content, tmp_path / name)
    assert read_mae(tmp_path / name, **HEADS, norm_pix=argument).arguments["norm_pix"] is expected


def test_a_pretrain_file_becomes_the_encoder_alone(autoencoder: MaskedAutoencoder, tmp_path: Path) -> None:
    state = {k: v for k, v in autoencoder.state_dict().items() if "decoder" not in k and k != "mask_token"}
    torch.save({"model": state}, tmp_path / "mae_pretrain_vit_base.pth")
    imported = read_mae(tmp_path / "mae_pretrain_vit_base.pth", heads=2)
    assert imported.architecture == "vit"
    assert imported.arguments["num_classes"] == 0
    features = imported.build().forward_features(images())  # type: ignore[operator]
    torch.testing.assert_close(features, autoencoder.encode(images())[:, 0])


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_finetune_file_becomes_a_classifier_pooled_as_it_was_tuned(tmp_path: Path, pool: str) -> None:
    model = VisionTransformer(**ENCODER, num_classes=7, pool=pool, **MEAN_STD).eval()  # type: ignore[arg-type]
    torch.save({"model": model.state_dict()}, tmp_path / "mae_finetuned_vit_base.pth")
    imported = read_mae(tmp_path / "mae_finetuned_vit_base.pth", heads=2)
    assert imported.arguments["pool"] == pool
    assert torch.equal(imported.build()(images()), model(images()))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module.", "net."])
@pytest.mark.parametrize("places", [(), ("model",), ("net",), ("state_dict", "model"), ("net", "state_dict")])
def test_every_prefix_and_place_of_the_weights_is_understood(
    autoencoder: MaskedAutoencoder, tmp_path: Path, prefix: str, places: tuple[str, ...]
) -> None:
    content: dict = {prefix + key: value for key, value in autoencoder.state_dict().items()}
    for place in reversed(places):
        content = {place: content, "epoch": 3}
    torch.save(content, tmp_path / "file.pth")
    mask = random_mask(torch.rand(2, 4, generator=torch.Generator().manual_seed(1)), 0.5)
    found = read_mae(tmp_path / "file.pth", **HEADS).build()
    assert torch.equal(found.loss(images(), mask), autoencoder.loss(images(), mask))  # type: ignore[operator]


def test_compiled_blocks_and_averages_of_torch_are_understood(autoencoder: MaskedAutoencoder, tmp_path: Path) -> None:
    state = {f"module.{k.replace('blocks.1.', 'blocks.1._orig_mod.')}": v for k, v in autoencoder.state_dict().items()}
    torch.save({"model": {**state, "n_averaged": torch.tensor(7)}}, tmp_path / "file.pth")
    found = read_mae(tmp_path / "file.pth", **HEADS).build()
    assert torch.equal(found.forward_features(images()), autoencoder.forward_features(images()))  # type: ignore[operator]
    torch.save({**autoencoder.state_dict(), "module.norm.bias": torch.zeros(24)}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="twice, with and without"):
        read_mae(tmp_path / "file.pth", **HEADS)


@pytest.mark.parametrize(("name", "heads"), [("mae-vit-base", 12), ("mae-vit-large", 16), ("mae-vit-huge", 16)])
def test_official_sizes_are_recognised_by_their_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, heads: int
) -> None:
    with torch.device("meta"):
        model = build(name)
    monkeypatch.setattr("rp_models.importers.mae.read_torch_file", lambda path, **_: {"model": model.state_dict()})
    imported = read_mae(tmp_path / "mae_visualize.pth")
    with torch.device("meta"):
        again = build(imported.architecture, **imported.arguments)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert again.blocks[0].attn.heads == heads
    assert again.decoder_blocks[0].attn.heads == 16
    assert again.patch_size == model.patch_size


def test_bad_files_are_errors_that_say_what_is_wrong(autoencoder: MaskedAutoencoder, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": {"conv1.weight": torch.zeros(1)}}, path)
    with pytest.raises(
        CheckpointError, match=r"no weights of a masked autoencoder: there is no 'patch_embed\.proj\.weight'"
    ):
        read_mae(path)
    torch.save({"model": autoencoder.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"no official size is 24 wide.* give heads="):
        read_mae(path)
    with pytest.raises(CheckpointError, match=r"no official size is 16 wide.* give decoder_heads="):
        read_mae(path, heads=2)
    torch.save({"model": {k: v for k, v in autoencoder.state_dict().items() if k != "norm.bias"}}, path)
    with pytest.raises(CheckpointError, match=r"1 missing: norm\.bias"):
        read_mae(path, **HEADS).build()
