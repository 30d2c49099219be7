"""The trainings of other authors' purifiers as a user runs them: what they leave, a stop on the way, two processes."""

import json
import threading
from unittest import mock

import pytest
import rp_models
import torch
from rp_models.checkpoint import read_header, read_tensors
from rp_models.training import preemption, seeded
from rp_models.training.trainer import BaseTrainer

from .running import app, two_processes
from .tiny_networks import tiny_classifier

EDM = "edm-digits-unconditional"
SMOKE = ("--recipe", "smoke", "--device", "cpu")
TUNE = ("finetune_purifier", *SMOKE, "--edm", EDM, "--classifier", "classifier.safetensors")
TRAININGS = {
    "adbm": (*TUNE, "--kind", "adbm"),
    "addt": (*TUNE, "--kind", "addt"),
    "atop": ("finetune_purifier", "--recipe", "smoke-atop", "--device", "cpu", *TUNE[-2:]),
    "nim": ("pretrain", "nim", *SMOKE),
    "dmae": ("pretrain", "nim", "--recipe", "smoke-dmae", "--device", "cpu"),
}
PRODUCT = {"adbm": "adbm", "addt": "addt", "atop": "rmae", "nim": "model", "dmae": "model"}
EACH = pytest.mark.parametrize("name", TRAININGS)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a tiny classifier that was never trained, and what each training makes."""
    folder = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny networks"):
        rp_models.save(tiny_classifier(), folder / "classifier.safetensors")
    for name, words in TRAININGS.items():
        app(*words, "--out", name, cwd=folder)
    return folder


def weights(work, run, name):
    return read_tensors(work / run / "checkpoints" / f"{PRODUCT[name]}.safetensors")


def test_what_is_trained_is_another_network_with_its_settings_and_its_judgement(work) -> None:
    for name, before in {"adbm": EDM, "addt": EDM, "atop": "mae-digits"}.items():
        first = read_tensors(before)
        assert any(not torch.equal(value, weights(work, name, name)[key]) for key, value in first.items())
        found = json.loads((work / name / "result.json").read_text())
        assert {row for row in ("before", "after") if found[row]["clean"]["of"] == 8} == {"before", "after"}
        notes = read_header(work / name / "checkpoints" / f"{PRODUCT[name]}.safetensors").notes["finetuned"]
        assert notes["classifier"] == "classifier.safetensors"
    losses = [json.loads((work / name / "result.json").read_text())["validation_loss"] for name in ("nim", "dmae")]
    assert losses[0] != losses[1]


@EACH
def test_a_training_that_was_stopped_on_the_way_ends_with_the_same_weights(work, name) -> None:
    step = BaseTrainer.step

    def last(trainer, number):
        preemption.ask_to_stop()
        return step(trainer, number)

    asked = mock.patch.object(preemption, "_ASKED", threading.Event())
    with asked, mock.patch.object(BaseTrainer, "step", last), pytest.raises(preemption.Preempted):
        app(*TRAININGS[name], "--out", f"{name}-stopped", cwd=work)
    assert not (work / f"{name}-stopped" / "checkpoints" / f"{PRODUCT[name]}.safetensors").exists()
    app(*TRAININGS[name], "--out", f"{name}-stopped", "--resume", cwd=work)
    one, two = (weights(work, run, name) for run in (name, f"{name}-stopped"))
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.slow  # some seconds for each process
@EACH
def test_two_processes_leave_the_weights_of_one(work, name) -> None:
    two_processes(*TRAININGS[name], "--out", f"{name}-two", cwd=work)
    one, two = (weights(work, run, name) for run in (name, f"{name}-two"))
    changes = torch.cat([(two[key] - value).abs().flatten() for key, value in one.items()])
    # sums in another order: Adam makes whole steps of a gradient that is nothing but rounding, as of the keys' bias
    assert float((changes > 2e-5).float().mean()) < 0.01
    assert float(changes.max()) < 2 * 4 * 2e-3  # both ways in each of up to 4 steps of the largest rate
