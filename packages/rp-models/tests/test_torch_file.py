import argparse
import pickle
from pathlib import Path

import pytest
import torch
from rp_models import CheckpointError
from rp_models.importers.torch_file import only_tensors, read_torch_file


class Hostile:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.marker,))


def test_tensors_and_plain_values_come_back(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.arange(3.0)}, "epoch": 7, "names": ["a"]}, tmp_path / "file.pth")
    content = read_torch_file(tmp_path / "file.pth")
    assert torch.equal(content["model"]["w"], torch.arange(3.0))
    assert content["epoch"] == 7
    assert content["names"] == ["a"]


def test_files_of_unusual_pickle_protocols_are_read_in_silence_or_refused_with_the_reason(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3.0)}, tmp_path / "file.pth", pickle_protocol=3)
    assert torch.equal(read_torch_file(tmp_path / "file.pth")["w"], torch.arange(3.0))  # warnings are errors here
    for protocol in (4, 5):
        torch.save({"w": torch.arange(3.0)}, tmp_path / "file.pth", pickle_protocol=protocol)
        with pytest.raises(CheckpointError, match=r"of a pickle protocol .* save it anew with protocol 2"):
            read_torch_file(tmp_path / "file.pth")


def test_an_argument_namespace_is_read_on_request_only(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=0.1, dir=None)}, tmp_path / "file.pth")
    assert read_torch_file(tmp_path / "file.pth", allow_namespace=True)["args"].lr == 0.1
    with pytest.raises(CheckpointError, match=r"refused, since it asks for argparse\.Namespace.* nothing was run"):
        read_torch_file(tmp_path / "file.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "was_run"
    content = {"model": {"w": torch.zeros(1)}, "args": Hostile(marker)}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="refused"):
        read_torch_file(tmp_path / "file.pth", allow_namespace=True)
    assert not marker.exists()


def test_a_namespace_cannot_smuggle_code(tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    torch.save({"args": argparse.Namespace(x=Hostile(marker))}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="refused"):
        read_torch_file(tmp_path / "file.pth", allow_namespace=True)
    assert not marker.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    (tmp_path / "file.pth").write_bytes(pickle.dumps(Hostile(marker)))
    with pytest.raises(CheckpointError):
        read_torch_file(tmp_path / "file.pth")
    assert not marker.exists()


def test_what_is_no_checkpoint_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    with pytest.raises(CheckpointError, match="no such file"):
        read_torch_file(file)
    file.write_text("<!DOCTYPE html><html>Google Drive - Virus scan warning</html>")
    with pytest.raises(CheckpointError, match="web page, not a checkpoint; the download failed"):
        read_torch_file(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a complete file"):
        read_torch_file(file)
    torch.save({"w": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="not a complete file"):
        read_torch_file(file)
    torch.save([torch.zeros(1)], file)
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors, found a list"):
        read_torch_file(file)


def test_a_state_dict_holds_tensors_only() -> None:
    with pytest.raises(CheckpointError, match="'epoch' is a int"):
        only_tensors({"w": torch.zeros(1), "epoch": 3}, "file.pth")
    weights = only_tensors({"w": torch.nn.Parameter(torch.zeros(1))}, "file.pth")
    assert not weights["w"].requires_grad
