"""`convert.py` as a user runs it."""

import pytest
import rp_models
import torch
from rp_models.importers import read_nvlabs
from rp_testing import GOLDEN_FILES, Golden, fill_state

from .running import app, process


def test_an_official_file_becomes_a_checkpoint_with_the_same_outputs(tmp_path):
    source = GOLDEN_FILES / "edm_network_fixture.pkl"
    done = process("convert", "nvlabs", source, tmp_path / "edm.safetensors", cwd=tmp_path)
    assert "261,075 parameters" in done.stdout
    ours, theirs = rp_models.load(tmp_path / "edm.safetensors"), read_nvlabs(source).build()
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0])
    assert torch.equal(ours(x, sigma), theirs(x, sigma))
    again = app("convert", "nvlabs", source, tmp_path / "edm.safetensors", cwd=tmp_path, status=2)
    assert "exists" in again.stderr


def test_layout_true_files_of_other_kinds_convert_too(tmp_path):
    mae = rp_models.build("mae", image_size=32, patch_size=8, width=64, depth=2, heads=4, decoder_width=32)
    torch.save({"model": mae.state_dict()}, tmp_path / "mae.pth")
    options = ("--option", "heads=4", "--option", "decoder_heads=16", "--option", "mean=null", "--option", "std=null")
    app("convert", "mae", tmp_path / "mae.pth", tmp_path / "mae.safetensors", *options, cwd=tmp_path)
    back = rp_models.load(tmp_path / "mae.safetensors")
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in mae.state_dict().items())
    wrn = rp_models.build("wrn-28-10-swish", depth=10, width=1)
    state = {f"module.0.{key}": value for key, value in wrn.state_dict().items()}
    torch.save({"model_state_dict": state, "unaveraged_model_state_dict": state}, tmp_path / "weights-best.pt")
    app("convert", "robust", tmp_path / "weights-best.pt", tmp_path / "wrn.safetensors", cwd=tmp_path)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(rp_models.load(tmp_path / "wrn.safetensors")(x), wrn.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nvlabs", "none.pkl", "t.safetensors"], "no such file"),
        (["edm", "none.pkl", "t.safetensors"], "invalid choice 'edm'"),
        (["mae", GOLDEN_FILES / "edm_network_fixture.pkl", "t.safetensors"], "fixture.pkl"),
        (["nvlabs", GOLDEN_FILES / "edm_network_fixture.pkl", "t.safetensors", "--option", "a=1"], "has no option 'a'"),
        (["nvlabs", GOLDEN_FILES / "edm_network_fixture.pkl", "t.safetensors", "--option", "a"], "NAME=VALUE"),
    ],
)
def test_bad_input_to_the_converter_ends_in_one_sentence(arguments, message, tmp_path):
    assert message in app("convert", *arguments, cwd=tmp_path, status=2).message
    assert not list(tmp_path.iterdir())


def test_networks_of_the_comparison_purifiers_convert(tmp_path):
    for kind, name, size in (("score-sde", "adbm_purify_tiny", 8), ("guided-diffusion", "guided_process_tiny", 8)):
        golden = Golden(name)
        torch.save({key: torch.from_numpy(value) for key, value in fill_state(golden.shapes).items()}, tmp_path / kind)
        target = tmp_path / f"{kind}.safetensors"
        app("convert", kind, tmp_path / kind, target, "--option", f"img_resolution={size}", cwd=tmp_path)
        network = rp_models.load(target)
        assert network(torch.zeros(1, 3, size, size), torch.ones(1)).shape == (1, 3, size, size)
    message = app(
        "convert", "score-sde", tmp_path / "guided-diffusion", tmp_path / "x.st", cwd=tmp_path, status=2
    ).message
    assert "expected the averaged weights ema/shadow_params" in message
