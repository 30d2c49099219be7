"""Addresses and digests: equal where what determines an artifact is equal, different where it is not."""

import json
from dataclasses import asdict, dataclass, replace
from functools import partial

import pytest
import rp_models
import torch
from rp_experiments.artifacts import Artifact, Store, build, in_order
from rp_experiments.content import address, digest
from rp_experiments.papers.parts import take_parts
from rp_experiments.run import Run
from rp_models.training import RunFolder
from torch import nn


@dataclass(frozen=True)
class Setting:
    value: float = 0.0
    checkpoint: str = "mae-digits"
    files: tuple[str, ...] = ()


def artifact(*values, **needs):
    return Artifact(job="test", config=Setting(*values), needs=needs)


def test_an_address_is_that_of_runs_made_before():
    """Recorded from the three functions that there were."""
    assert address([{"data": "digits", "seed": 0}, "abc"]) == "8a46baf7b8b4fce8"
    assert artifact(1.5).name == "test-b306d56fc0fd"


def test_a_file_enters_by_its_contents_wherever_it_lies_and_a_name_by_itself(tmp_path):
    one, same, other = tmp_path / "a" / "net.pt", tmp_path / "b" / "net.pt", tmp_path / "c" / "net.pt"
    for path, content in ((one, b"x"), (same, b"x"), (other, b"y")):
        path.parent.mkdir()
        path.write_bytes(content)
    for identity in (lambda file: artifact(0.0, file).name, lambda file: artifact(0.0, "", (file,)).name, address):
        names = {identity(str(path)) for path in (one, same)}
        assert len(names) == 1
        assert identity(str(other)) not in names
    before = artifact(0.0, str(one)).name
    one.write_bytes(b"another network")
    assert artifact(0.0, str(one)).name != before
    for word in ("net.pt:build", "net.py"):  # neither is there
        assert address(word) == address(word)


def test_a_folder_of_images_enters_by_its_files(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "1.png").write_bytes(b"x")
    first = address({"data": str(folder)})
    assert address({"run": str(folder)}) != first
    (folder / "cat" / "2.png").write_bytes(b"y")
    assert address({"data": str(folder)}) != first


def test_a_large_file_is_told_apart_by_size_beginning_and_end(tmp_path):
    files = [tmp_path / name / "a.npz" for name in ("one", "two")]
    for file, last in zip(files, (b"x", b"y"), strict=True):
        file.parent.mkdir()
        with file.open("wb") as opened:  # a hole, which takes no room
            opened.seek(2**29)
            opened.write(last)
    assert address(str(files[0])) != address(str(files[1]))


def test_code_enters_by_its_contents(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("def build(): return one")
    first = address(f"{file}:build")
    assert address(f"{file}:other") != first
    file.write_text("def build(): return two")
    assert address(f"{file}:build") != first


def test_settings_and_needs_determine_the_name():
    base = artifact(1.0)
    names = [artifact(2.0).name, artifact(3.0).name, artifact(3.0, base=base).name]
    names += [artifact(3.0, base=artifact(2.0)).name, artifact(3.0, other=base).name]
    assert len(set(names)) == len(names)
    assert replace(artifact(3.0), minutes=5.0).name == artifact(3.0).name
    assert in_order([artifact(3.0, base=base), base]) == [base, artifact(3.0, base=base)]


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_a_digest_sees_every_weight_and_buffer_and_nothing_else(network):
    first = digest(network)
    assert digest(network.eval()) == first
    for name, value in network.state_dict().items():
        before = value.clone()
        with torch.no_grad():
            value.view(-1)[-1] += 1
        assert digest(network) != first, name
        with torch.no_grad():
            value.copy_(before)
    assert digest(network) == first


def test_a_digest_sees_how_a_network_is_built():
    """Equal weights, other settings: two networks."""
    same, other = (rp_models.build("mae-digits", heads=heads) for heads in (4, 2))
    other.load_state_dict(same.state_dict())
    assert digest(same) != digest(other)
    assert digest(nn.Sequential(nn.ReLU())) != digest(nn.Sequential(nn.GELU()))


def test_a_digest_of_a_file_is_that_of_its_network_whatever_the_file_is_called(tmp_path):
    model = rp_models.load("mae-digits")
    for name in ("a.safetensors", "b.safetensors"):
        rp_models.save(model, tmp_path / name, notes={"called": name})
    assert {digest(tmp_path / "a.safetensors"), digest(tmp_path / "b.safetensors"), digest("mae-digits")} == {
        digest(model)
    }


def test_an_artifact_is_made_once_with_what_it_needs(tmp_path):
    store, made = Store(tmp_path), []
    run = Run(folder=RunFolder(tmp_path))

    def make(config, run, needs):
        made.append(config.value)
        run.claim(config).finish({"needs": sorted(needs)})

    whole = artifact(2.0, base=artifact(1.0))
    assert not store.has(whole)
    for _ in range(2):
        for each in in_order([whole]):
            build(each, store, make, run)
    assert made == [1.0, 2.0]
    assert store.get(whole).read()["needs"] == ["base"]
    assert store.get(whole).read()["config"] == json.loads(json.dumps(asdict(whole.config)))
    assert store.get(whole).read("product.json")["needs"] == {"base": artifact(1.0).name}


@dataclass(frozen=True)
class Methods:
    method: tuple[str, ...]
    seed: int = 0


def test_a_product_takes_over_the_methods_of_another_one_and_makes_the_rest(tmp_path):
    store, made = Store(tmp_path), []
    run = Run(folder=RunFolder(tmp_path))

    def make(config, run, needs):
        run.claim(config)
        for method in config.method:
            run.once(f"results/{method}.json", lambda method=method: made.append(method) or {"seed": config.seed})
        run.finish({"methods": config.method})

    def product(*methods, seed=0):
        one = Artifact(job="train_dra", config=Methods(methods, seed))
        return build(one, store, make, run, claimed=partial(take_parts, one, store))

    first = product("at", "dm-at")
    more = product("at", "at+dra", "dm-at")
    assert made == ["at", "dm-at", "at+dra"]
    assert more.read("config.json")["method"] == ["at", "at+dra", "dm-at"]
    assert (more.folder / "results" / "at.json").samefile(first.folder / "results" / "at.json")
    product("at+dra")  # a part of what is there
    assert len(made) == 3
    product("at", seed=1)  # another setting
    assert made[3:] == ["at"]
