"""Networks that jobs train for themselves: once, in a folder named by all that determines them."""

import pytest
from rp_experiments import networks
from rp_experiments.recipes.pretrain_settings import PretrainClassifier
from rp_experiments.run import Run
from rp_models.training import RunFolder


@pytest.fixture
def run(tmp_path):
    return Run(folder=RunFolder(tmp_path / "run"), cache=tmp_path / "cache")


def test_a_network_is_made_once_and_its_words_are_not_the_job_s(run, capsys):
    made = []

    def make(inside):
        made.append(inside.path)
        print("said by the maker")
        inside.folder.write_text("net", "weights")

    paths = [networks.made(run, "net-1", "net", make, batch=1) for _ in range(2)]
    assert paths == [str(run.cache / "net-1" / "net")] * 2
    assert made == [run.cache / "net-1"]
    assert capsys.readouterr().out == ""


def test_a_network_that_could_not_be_made_is_tried_again(run):
    def fail(inside):
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        networks.made(run, "net-1", "net", fail, batch=1)
    networks.made(run, "net-1", "net", lambda inside: inside.folder.write_text("net", "weights"), batch=1)
    assert (run.cache / "net-1" / "net").read_text() == "weights"


def test_another_seed_is_another_network(run, monkeypatch):
    monkeypatch.setattr(
        networks,
        "pretrain",
        lambda config, inside: inside.folder.write_text("checkpoints/model.safetensors", str(config.seed)),
    )
    paths = [networks.pretrained("classifier", PretrainClassifier(seed=seed), run) for seed in (0, 1, 0)]
    assert paths[0] == paths[2] != paths[1]
    assert "classifier-digits-" in paths[0]
