"""Where `load` looks for a checkpoint that is given by its name."""

import os

import pytest
from rp_models import CheckpointError, build, checkpoint, load, save
from rp_models.checkpoint import named_checkpoints, read_header


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Four folders with a checkpoint of the same name and one of their own, in the order of the search."""
    places = [tmp_path / name for name in ("asked", "asked-too", "weights", "package")]
    for place in places:
        for name in ("shared", f"only-{place.name}"):
            save(build("mae-digits"), place / f"{name}.safetensors", notes={"place": place.name})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RP_WEIGHTS", os.pathsep.join(str(place) for place in places[:2]))
    monkeypatch.setattr(checkpoint, "WEIGHTS", places[3])
    monkeypatch.setattr(checkpoint, "CHECKOUT", None)
    return places


def test_the_first_folder_of_the_search_counts(folders, monkeypatch):
    assert named_checkpoints().keys() == {"shared", *(f"only-{place.name}" for place in folders)}
    for place in folders:
        assert read_header(f"only-{place.name}").notes == {"place": place.name}
    assert read_header("shared").notes == {"place": "asked"}
    monkeypatch.delenv("RP_WEIGHTS")
    assert read_header("shared").notes == {"place": "weights"}
    assert load("only-weights").tokens == 16


def test_a_checkout_offers_its_weights_last(folders, tmp_path, monkeypatch):
    for name in ("shared", "of-the-checkout"):
        save(build("mae-digits"), tmp_path / "root" / "weights" / f"{name}.safetensors", notes={"place": "root"})
    monkeypatch.setattr(checkpoint, "CHECKOUT", tmp_path / "root")
    assert read_header("of-the-checkout").notes == {"place": "root"}
    assert read_header("shared").notes == {"place": "asked"}


def test_this_checkout_is_found():
    assert checkpoint.CHECKOUT is None or (checkpoint.CHECKOUT / "packages" / "rp-models").is_dir()


def test_an_unknown_name_lists_the_known_ones_and_says_how_to_add_a_folder(folders):
    with pytest.raises(CheckpointError, match=r"by name there are only-asked, .*shared\. RP_WEIGHTS names a further"):
        load("sharde")
