"""Networks from other people's code: named by the user, never by a file."""

import os
import subprocess
import sys

import pytest
import rp_models
import torch
from rp_models.checkpoint import CheckpointError, save_tensors
from rp_models.data import describe
from rp_models.loading import load_classifier, load_denoiser, load_mae, load_network
from torch import nn

CODE = """
import neighbour
from dataclasses import dataclass
from torch import nn

@dataclass
class Sizes:
    hidden: int = 8

class Net(nn.Module):
    def __init__(self, hidden: int = Sizes().hidden):
        super().__init__()
        last = nn.Linear(hidden, neighbour.CLASSES)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Dropout(0.5), last)
    def forward(self, x):
        return self.net(x)

def number():
    return 3

def broken():
    raise AttributeError("my own fault")

made = Net()
limit = 5
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "neighbour.py").write_text("CLASSES = 10\n")
    (tmp_path / "my_nets.py").write_text(CODE)
    return tmp_path / "my_nets.py"


def test_a_file_of_ones_own_builds_a_network(file):
    before = list(sys.path)
    model = rp_models.build(f"{file}:Net", hidden=5)
    assert model.training
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert model.net[1].out_features == 5
    assert model.recipe == (f"{file}:Net", {"hidden": 5})
    assert sys.path == before
    assert rp_models.build(f"{file}:made") is rp_models.build(f"{file}:made")
    file.write_text(CODE.replace("limit = 5", "Other = Net"))
    assert isinstance(rp_models.build(f"{file}:Other"), nn.Module)  # a file that has changed is read anew


def test_a_class_of_an_installed_package_builds_a_network():
    linear = rp_models.build("torch.nn:Linear", in_features=3, out_features=2)
    assert linear.weight.shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("no_such_package.nets:Net", {}, r"no module 'no_such_package'; name a file as nets.py:factory"),
        ("torch.no_such_module:Net", {}, r"no module 'torch.no_such_module'"),
        ("{folder}/other.py:Net", {}, r"there is no file .*other.py"),
        ("{file}:net", {}, r"my_nets.py has no 'net'; it has Net, Sizes, broken, dataclass, made, number"),
        ("{file}:number", {}, r":number returned a int, expected a torch module"),
        ("{file}:limit", {}, r":limit is a int; expected a function or class"),
        ("{file}:made", {"hidden": 3}, r":made is a network already, it takes no hidden"),
        ("{file}:Net", {"width": 3}, r":Net: .*unexpected keyword argument 'width'"),
        ("wrn-28-11", {}, r"unknown network 'wrn-28-11'; did you mean"),
    ],
)
def test_what_leads_to_no_network_is_said(file, name, arguments, said):
    name = name.format(file=file, folder=file.parent)
    with pytest.raises(ValueError, match=said):
        rp_models.build(name, **arguments)
    if ":" in name and not arguments:
        with pytest.raises(CheckpointError, match=said):
            load_network(name)


def test_an_error_of_the_code_itself_comes_as_it_is(file):
    with pytest.raises(AttributeError, match="my own fault"):
        rp_models.build(f"{file}:broken")
    file.write_text("import no_such_library\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        rp_models.build(f"{file}:Net")


def test_a_foreign_network_serves_as_a_classifier_without_being_saved(file):
    classifier = load_classifier(f"{file}:Net", describe("digits"))
    assert not classifier.training
    with pytest.raises(ValueError, match="does not take the images of cifar10"):
        load_classifier(f"{file}:Net", describe("cifar10"))
    with pytest.raises(CheckpointError, match="expected a masked autoencoder, this is a Net"):
        load_mae(f"{file}:Net", describe("digits"))
    with pytest.raises(ValueError, match=r"expected a denoiser D\(x; sigma\), this is a Net"):
        load_denoiser(f"{file}:Net", describe("digits"))


def test_a_checkpoint_never_executes_the_code_that_its_header_names(file, tmp_path):
    mark = tmp_path / "executed"
    file.write_text(CODE + f"\nopen({str(mark)!r}, 'w').close()\n")
    path = tmp_path / "model.safetensors"
    for architecture in (f"{file}:Net", "os:getcwd", "my_nets:Net"):
        header = {"architecture": architecture, "arguments": {}, "notes": {}}
        save_tensors({"net.1.weight": torch.zeros(8, 64)}, path, header)
        code = f"import rp_models; rp_models.load({str(path)!r})"
        place = {**os.environ, "PYTHONPATH": str(file.parent)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=place, check=False)
        assert "which no file may start; if you trust it, name it" in done.stderr
        assert not mark.exists()


def test_the_weights_of_a_foreign_network_are_read_by_whoever_names_its_code(file, tmp_path):
    model = rp_models.build(f"{file}:Net", hidden=5)
    rp_models.save(model, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="which no file may start"):
        rp_models.load(tmp_path / "model.safetensors", code=f"{file}:made")
    twin = rp_models.load(tmp_path / "model.safetensors", code=f"{file}:Net")
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
