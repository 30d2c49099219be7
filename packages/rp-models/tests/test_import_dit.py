"""Official files of MaskDiT, REPA, LightningDiT, VA-VAE and SD-VAE, in files that the tests make in their layout."""

import argparse
from pathlib import Path

import pytest
import torch
from rp_models import CheckpointError, build, load, save
from rp_models.importers.lightningdit import read_latent_statistics, read_lightningdit
from rp_models.importers.maskdit import read_maskdit
from rp_models.importers.repa import read_repa
from rp_models.importers.vae import read_vae
from rp_testing import Golden, fill_state
from torch import Tensor, nn

from .test_lightningdit import NAMES
from .test_lightningdit import filled as lightningdit
from .test_maskdit import draw
from .test_maskdit import tiny as maskdit
from .test_sit import reference_model as sit
from .test_vae import SD_VAE
from .test_vae import tiny as vae

HEADS = {"heads": 2, "decoder_heads": 2}
TRAINING = argparse.Namespace(model_type="DiT-XL/2", use_decoder=True, lr=1e-4)


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def zeros_like(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def same_state(model: nn.Module, state: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)


def test_a_maskdit_training_file_becomes_the_same_model_and_a_checkpoint(tmp_path):
    original, x, y = maskdit(), draw(2, 1, 8, 8), torch.tensor([0, 2])
    state = original.state_dict()
    content = {"model": zeros_like(state), "ema": state, "opt": {"state": {}, "step": 3}, "args": TRAINING}
    model = read_maskdit(write(tmp_path / "2000000.pt", content), **HEADS).build()
    save(model, tmp_path / "ours.safetensors")
    with torch.no_grad():
        assert torch.equal(model(x, 0.5, y), original(x, 0.5, y))
        assert torch.equal(load(tmp_path / "ours.safetensors")(x, 0.5, y), original(x, 0.5, y))
    plain = read_maskdit(tmp_path / "2000000.pt", **HEADS, weights="model")
    assert same_state(plain.build(), zeros_like(state))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net."])
@pytest.mark.parametrize("places", [(), ("ema",), ("net",), ("net", "ema"), ("state_dict",)])
def test_every_prefix_and_place_of_the_weights_is_understood(tmp_path, prefix, places):
    read = {
        "maskdit": (maskdit().state_dict(), lambda path: read_maskdit(path, **HEADS)),
        "sit": (sit().state_dict(), lambda path: read_repa(path, heads=2)),
        "lightningdit": (lightningdit(Golden(NAMES[0])).state_dict(), lambda path: read_lightningdit(path, heads=2)),
        "vae": (vae().state_dict(), read_vae),
    }
    for name, (state, reader) in read.items():
        if (name, places[-1:]) == ("vae", ("ema",)):
            continue  # it has no average
        content = {prefix + key: value for key, value in state.items()}
        for place in reversed(places):
            content = {place: content, "step": 3}
        assert reader(write(tmp_path / "x.pt", content)).state.keys() == state.keys(), name


def test_an_unconditional_pixel_model_without_mask_token_is_recognised(tmp_path):
    model = maskdit(num_classes=0, mask_token=False, mlp_ratio=2.0)
    path = write(tmp_path / "x.pt", model.state_dict())
    imported = read_maskdit(path, **HEADS, sigma_data=0.3)
    assert same_state(imported.build(), model.state_dict())
    assert imported.build().sigma_data == 0.3
    with pytest.raises(CheckpointError, match=r"no official size is 16 wide.*give heads="):
        read_maskdit(path)
    with pytest.raises(CheckpointError, match="give decoder_heads="):
        read_maskdit(path, heads=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", ["ema", "bare", "module."])
def test_every_lightningdit_flag_is_read_off_the_file(tmp_path, name, layout):
    golden = Golden(name)
    state = lightningdit(golden).state_dict()
    contents = {
        "ema": {"model": zeros_like(state), "ema": state, "opt": {}, "config": {"model": {"use_rope": True}}},
        "bare": state,
        "module.": {"model": {f"module.{key}": value for key, value in state.items()}, "config": {}},
    }
    weights = "model" if layout == "module." else "ema"
    imported = read_lightningdit(write(tmp_path / "x.pt", contents[layout]), heads=4, weights=weights)
    with torch.no_grad():
        golden.check(out_v=imported.build()(golden["in_x"], golden["in_t"], golden["in_y"].long()))


@pytest.mark.parametrize("learn_sigma", [False, True])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_learned_variance_is_recognised_at_every_patch_size(tmp_path, patch_size, learn_sigma):
    sizes = {"image_size": 8, "patch_size": patch_size, "in_channels": 3, "width": 16, "depth": 1, "heads": 2}
    state = build("lightningdit", **sizes, num_classes=3, learn_sigma=learn_sigma).state_dict()
    imported = read_lightningdit(write(tmp_path / "x.pt", state), heads=2)
    assert imported.arguments["learn_sigma"] is learn_sigma
    assert same_state(imported.build(), state)


def test_the_rotary_table_tells_the_heads(tmp_path):
    state = lightningdit(Golden("lightningdit_tiny")).state_dict()
    assert read_lightningdit(write(tmp_path / "x.pt", state)).arguments["heads"] == 4


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("full_maskdit-xl2-256", read_maskdit),
        ("full_lightningdit-xl1", read_lightningdit),
        ("full_repa-sit-xl2", read_repa),
        ("full_vavae-f16d32", read_vae),
        ("full_maskdit-sdvae", read_vae),
    ],
)
def test_official_sizes_are_recognised_from_keys_and_shapes(tmp_path, file, read):
    golden = Golden(file)
    state = {key: torch.empty(shape, device="meta") for key, shape in golden.shapes.items()}  # shapes without values
    imported = read(write(tmp_path / "x.pt", state))
    with torch.device("meta"):
        golden.check_keys(build(imported.architecture, **imported.arguments))


@pytest.mark.parametrize("layout", ["bare", "training", "old"])
def test_a_repa_file_gives_the_references_numbers(tmp_path, layout):
    golden = Golden("repa_sit_tiny")
    state = golden.fill(sit()).state_dict()
    renamed = {"blocks.2.": "decoder_blocks.0.", "blocks.3.": "decoder_blocks.1."}
    old = {renamed.get(key[:9], key[:9]) + key[9:]: value for key, value in state.items()}
    content = {
        "bare": state,
        "training": {"model": state, "ema": state, "opt": {}, "args": argparse.Namespace(encoder_depth=2), "steps": 7},
        "old": old,
    }[layout]
    imported = read_repa(write(tmp_path / "last.pt", content), heads=4, encoder_depth=2 if layout == "bare" else None)
    with torch.no_grad():
        output = imported.build().project(golden["in_x"], golden["in_t"], golden["in_y"].long())
    golden.check(out_v=output.velocity, out_zs0=output.projections[0])


def test_the_released_repa_depth_is_assumed_for_a_bare_file(tmp_path):
    with torch.device("meta"):
        state = build("sit", image_size=4, width=384, depth=9, heads=6, projector_hidden=8).state_dict()
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    assert read_repa(write(tmp_path / "last.pt", state)).arguments["encoder_depth"] == 8


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_va_vae_file_is_read_without_what_only_training_needs(tmp_path, wrapped):
    golden = Golden("vavae_tiny")
    state = vae().state_dict()
    extra = {
        "loss.discriminator.main.0.weight": torch.zeros(2),
        "foundation_model.model.cls_token": torch.zeros(1, 1, 4),
        "linear_proj.weight": torch.zeros(8, 4, 1, 1),
    }
    content = {"state_dict": {**state, **extra}, "epoch": 3} if wrapped else {**extra, **state}
    model = read_vae(write(tmp_path / "vavae.pt", content)).build()
    assert same_state(model, state)
    with torch.no_grad():
        golden.check(out_mean=model.encode((golden["in_image"] + 1) / 2).mean)


def test_an_sd_vae_file_is_read(tmp_path):
    golden = Golden("maskdit_sdvae_tiny")
    state = {key: torch.from_numpy(value) for key, value in fill_state(golden.shapes).items()}
    imported = read_vae(write(tmp_path / "autoencoder_kl.pth", state))
    assert tuple(imported.arguments["attention"]) == SD_VAE["attention"]
    assert same_state(imported.build(), state)


def test_latent_statistics_become_a_normalisation(tmp_path):
    mean, std = draw(1, 32, 1, 1), draw(1, 32, 1, 1, seed=1).abs() + 0.5
    path = write(tmp_path / "latents_stats.pt", {"mean": mean, "std": std})
    z = draw(2, 32, 4, 4)
    normalization = read_latent_statistics(path, multiplier=0.5).build()
    torch.testing.assert_close(normalization(z), (z - mean) / std * 0.5)
    with pytest.raises(CheckpointError, match=r"expected the entries mean and std, found \['mean'\]"):
        read_latent_statistics(write(tmp_path / "x.pt", {"mean": mean}))


class Hostile:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("reader", [read_maskdit, read_lightningdit, read_repa, read_vae, read_latent_statistics])
def test_foreign_and_hostile_files_are_refused(tmp_path, capsys, reader):
    with pytest.raises(CheckpointError, match="no such file"):
        reader(tmp_path / "missing.pt")
    with pytest.raises(CheckpointError, match="print"):
        reader(write(tmp_path / "hostile.pt", {"ema": Hostile()}))
    assert capsys.readouterr().out == ""
    with pytest.raises(CheckpointError, match=r"no weights of|expected the entries"):
        reader(write(tmp_path / "other.pt", {"fc.weight": torch.zeros(2, 2)}))


def test_files_that_lack_what_was_asked_for_are_refused(tmp_path):
    state = maskdit().state_dict()
    with pytest.raises(CheckpointError, match=r"holds no 'ema' weights, only \['args', 'model'\]"):
        read_maskdit(write(tmp_path / "a.pt", {"model": state, "args": TRAINING}))
    with pytest.raises(CheckpointError, match="expected a state dict under 'ema', found a int"):
        read_maskdit(write(tmp_path / "b.pt", {"ema": 3}))
    with pytest.raises(CheckpointError, match="Namespace"):
        read_lightningdit(write(tmp_path / "c.pt", {"ema": state, "args": TRAINING}))
    flat = {**state, "model.x_embedder.proj.weight": torch.zeros(3)}
    with pytest.raises(CheckpointError, match="a shape does not fit"):
        read_maskdit(write(tmp_path / "d.pt", flat))
    with pytest.raises(CheckpointError, match=r"1 unexpected: model\.extra"):
        read_maskdit(write(tmp_path / "e.pt", {**state, "model.extra": torch.zeros(1)}), **HEADS).build()
