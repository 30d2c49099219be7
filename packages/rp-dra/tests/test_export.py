"""Export: RobustBench's layout is bare tensors under the backbone's keys, and reads back as the same classifier."""

import pytest
import rp_models
import torch
from rp_dra import ClassifierSettings, build_classifier, export_robustbench
from rp_models.data import describe
from rp_models.importers import read_robust


@pytest.mark.parametrize("network", ["dm-wide-resnet", "wide-resnet"])
def test_a_wide_resnet_reads_back_bit_for_bit(tmp_path, network):
    model = build_classifier(ClassifierSettings(network=network, depth=10, width=1), describe("cifar10")).eval()
    export_robustbench(model, tmp_path / "deep" / "m.pt")
    state = torch.load(tmp_path / "deep" / "m.pt", weights_only=True)
    assert state.keys() == model.state_dict().keys()
    assert not any(key.startswith(("module.", "model.")) or key.endswith((".mean", ".std")) for key in state)
    mean, std = (list(values) for values in (describe("cifar10").mean, describe("cifar10").std))
    again = read_robust(tmp_path / "deep" / "m.pt", mean=mean, std=std).build().eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))


def test_an_unfinished_file_is_never_seen(tmp_path, monkeypatch):
    model = build_classifier(ClassifierSettings(depth=10, width=1), describe("digits"))
    export_robustbench(model, tmp_path / "m.pt")
    before = (tmp_path / "m.pt").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export_robustbench(model, tmp_path / "m.pt")
    assert (tmp_path / "m.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


def test_a_network_that_nobody_has_a_class_for_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"has a class for a MaskedAutoencoder.*rp_models\.save"):
        export_robustbench(rp_models.build("mae-digits"), tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())
