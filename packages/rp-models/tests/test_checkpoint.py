"""Checkpoints and the zoo: what is saved comes back, and what does not fit says why."""

import json

import pytest
import torch
from rp_models import CheckpointError, build, load, load_state, names, parameter_count, save
from rp_models.checkpoint import read_header, read_metadata, read_tensors, save_tensors
from rp_models.importers import read_robust
from safetensors.torch import save_file
from torch import nn

SMALL = {"depth": 10, "width": 1, "in_channels": 1, "mean": [0.3], "std": [0.4]}


@pytest.fixture
def model():
    return build("dm-wide-resnet", **SMALL)


def test_a_checkpoint_rebuilds_its_model(model, tmp_path):
    x = torch.rand(2, 1, 8, 8)
    save(model, tmp_path / "deep" / "model.safetensors", notes={"steps": 3})
    back = load(tmp_path / "deep" / "model.safetensors")
    assert not back.training
    assert torch.equal(back(x), model.eval()(x))
    header = read_header(tmp_path / "deep" / "model.safetensors")
    assert header == ("dm-wide-resnet", SMALL, {"steps": 3})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.safetensors"]


def test_others_may_read_a_checkpoint_as_they_may_any_file_of_its_owner(model, tmp_path):
    (tmp_path / "any").touch()
    save(model, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_half_precision_files_load_into_single_precision(model, tmp_path):
    save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    save(model, tmp_path / "single.safetensors")
    back = load(tmp_path / "half.safetensors")
    assert {p.dtype for p in back.parameters()} == {torch.float32}
    # float16 has 11 significant bits
    for own, stored in zip(model.parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(own, stored, rtol=2**-10, atol=1e-6)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "single.safetensors").stat().st_size


def test_a_model_from_elsewhere_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"build it with rp_models\.build"):
        save(nn.Linear(2, 2), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_truncated_files_are_refused(model, tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save(model, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_file_of_torch_is_refused_with_the_way_to_read_it(model, tmp_path, zipped, name):
    torch.save({"state_dict": model.state_dict()}, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"convert\.py robust .*rp_models\.importers\.read_robust\("):
        load(tmp_path / name)


def test_weights_that_are_loaded_in_inference_mode_can_be_differentiated_through(model, tmp_path):
    save(model, tmp_path / "model.safetensors")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with torch.inference_mode():
        models = [
            load(tmp_path / "model.safetensors"),
            build("dm-wide-resnet", **SMALL),
            read_robust(tmp_path / "model.pt", mean=[0.3], std=[0.4]).build(),
        ]
    expected = []
    for found in models:
        assert not any(tensor.is_inference() for tensor in (*found.parameters(), *found.buffers()))
        x = torch.full((2, 1, 8, 8), 0.5, requires_grad=True)
        found.eval()(x).square().sum().backward()
        expected.append(x.grad)
        assert all(parameter.grad is not None for parameter in found.parameters())
    assert torch.equal(expected[0], expected[2])


def test_missing_files_and_foreign_formats_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="expected a checkpoint of format rp/1"):
        load(tmp_path / "foreign.safetensors")
    save_tensors({"a": torch.zeros(1)}, tmp_path / "state.safetensors", {"step": 1})
    with pytest.raises(CheckpointError, match="no model checkpoint"):
        load(tmp_path / "state.safetensors")


def test_a_state_that_does_not_fit_names_what_is_wrong_and_changes_nothing(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = dict(before)
    state["extra"] = state.pop("logits.bias")
    state["logits.weight"] = torch.zeros(3, 4)
    with pytest.raises(CheckpointError) as caught:
        load_state(model, state, origin="the file")
    text = str(caught.value)
    assert "the file does not fit DMWideResNet" in text
    assert "1 missing: logits.bias" in text
    assert "1 unexpected: extra" in text
    assert "logits.weight (3x4 in the file, 10x64 in the model)" in text
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save(model, path)
    old = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("rp_models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(model, path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_nothing_of_a_file_is_executed(tmp_path):
    save_tensors({"a": torch.zeros(1)}, tmp_path / "f.safetensors", {"architecture": "os:system"})
    assert read_metadata(tmp_path / "f.safetensors") == {"architecture": "os:system"}
    header = {"architecture": "os:system", "arguments": {"command": "true"}, "notes": {}}
    save_tensors({"a": torch.zeros(1)}, tmp_path / "g.safetensors", header)
    with pytest.raises(CheckpointError, match=r"made by code outside rp-models \(os:system\), which no file may start"):
        load(tmp_path / "g.safetensors")
    assert list(read_tensors(tmp_path / "g.safetensors")) == ["a"]


def test_unknown_names_and_arguments_get_an_answer():
    with pytest.raises(ValueError, match=r"unknown network 'wrn-28-10-swsh'; did you mean wrn-28-10-swish"):
        build("wrn-28-10-swsh")
    with pytest.raises(ValueError, match=r"dm-wide-resnet: .*unexpected keyword"):
        build("dm-wide-resnet", breadth=3)


def test_parameters_are_counted_without_allocating_them():
    assert parameter_count("wrn-28-10-swish") == 36_479_194
    assert "wrn-28-10-swish" in names("wrn")


def test_arguments_of_every_entry_fit_into_a_json_header():
    from rp_models.zoo import ENTRIES

    for entry in ENTRIES.values():
        json.dumps(entry.arguments)
