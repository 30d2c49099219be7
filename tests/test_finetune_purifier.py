"""`finetune_purifier.py` as a user runs it: command lines and what they leave."""

import json
from unittest import mock

import pytest
import rp_models
import torch
from rp_models.checkpoint import read_header, read_tensors
from rp_models.data import describe, load_images, read_synthetic
from rp_models.training import seeded

from .running import app, process, two_processes, without_torch
from .tiny_networks import tiny_classifier, tiny_maskdit

SMOKE = ("--recipe", "smoke", "--device", "cpu", "--classifier", "classifier.safetensors", "--out")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a classifier and a MaskDiT, tiny and untrained."""
    folder = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny classifier"):
        classifier = tiny_classifier()
        maskdit = tiny_maskdit()
    rp_models.save(classifier, folder / "classifier.safetensors")
    rp_models.save(maskdit, folder / "maskdit.safetensors")
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """What the command lines did that train; at one of them Ctrl-C is pressed when it comes to save the network."""
    done = {"rmae": process("finetune_purifier", *SMOKE, "rmae", cwd=work)}
    with mock.patch("rp_models.save", side_effect=KeyboardInterrupt):
        done["interrupted"] = app("finetune_purifier", *SMOKE, "rmae2", cwd=work, status=130)
    for name, words in {
        "completed": ("rmae2", "--resume"),
        "rmaskdit": ("rmaskdit", "--kind", "maskdit", "--maskdit", "maskdit.safetensors"),
        "steps": ("steps", "--through", "steps", "--unrolled.steps", "1"),
    }.items():
        done[name] = app("finetune_purifier", *SMOKE, *words, cwd=work)
    return done


def same_tensors(one, other):
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("kind", ["rmae", "rmaskdit"])
def test_fine_tuning_leaves_the_network_the_images_and_before_and_after(runs, work, kind) -> None:
    folder, found = work / kind, json.loads((work / kind / "result.json").read_text())
    train = load_images("digits", "train")
    stored = read_synthetic(folder / "adversarial", describe("digits"))
    assert torch.equal(stored.labels, train.labels)
    assert not torch.equal(stored.images, train.images)
    original = "mae-digits" if kind == "rmae" else work / "maskdit.safetensors"
    tuned = folder / "checkpoints" / f"{kind}.safetensors"
    assert read_header(tuned).architecture == read_header(original).architecture
    assert read_header(tuned).notes["finetuned"]["classifier"] == "classifier.safetensors"
    assert not same_tensors(tuned, original)
    assert found["setting"]["attack"].startswith("PGD-1,")
    for name in ("before", "after"):
        row = found[name]
        for accuracy in ("clean", "pgd_on_classifier", "pgd_on_system"):
            assert 0 <= row[accuracy]["right"] <= row[accuracy]["of"] == 8
        assert min(row["amv"].values()) > 0 or (kind, name) == ("rmaskdit", "before")  # fresh blocks change nothing
        assert row["amv"]["purified"] == pytest.approx(row["amv_of_each_layer"]["purified"][-1], rel=1e-5)
        assert row["one_shot_class_loss"] > 0
    assert found["before"] != found["after"]
    assert "no robust accuracies" in " ".join(runs[kind].stdout.split())
    assert (folder / "figures" / "purified.png").read_bytes().startswith(b"\x89PNG")


def test_training_through_steps_is_another_training(runs, work) -> None:
    """The sign has no derivative of its own: without a curved rule the weights would stay where they are."""
    one_shot, steps = (work / run / "checkpoints" / "rmae.safetensors" for run in ("rmae", "steps"))
    assert not same_tensors(steps, "mae-digits")
    assert not same_tensors(steps, one_shot)
    stored = [read_synthetic(work / run / "adversarial", describe("digits")).images for run in ("rmae", "steps")]
    assert not torch.equal(*stored)  # each is attacked through what it is trained through


def test_an_interrupted_fine_tuning_ends_with_the_same_weights(runs, work) -> None:
    """Interrupted when all steps are done and the checkpoint is not: everything must come back from the state file."""
    assert "go on with --resume" in runs["interrupted"].stderr
    assert same_tensors(*(work / run / "checkpoints" / "rmae.safetensors" for run in ("rmae", "rmae2")))
    assert "stage I:" in runs["rmae"].stderr
    assert "stage I:" not in runs["completed"].stderr  # the stored adversarial images were used
    assert runs["completed"].stdout.splitlines()[:-1] == runs["rmae"].stdout.splitlines()[:-1]


@pytest.mark.slow  # some seconds for each process
def test_processes_of_torchrun_share_both_stages(runs, work) -> None:
    two_processes("finetune_purifier", *SMOKE, "two", cwd=work)
    images = [read_synthetic(work / run / "adversarial", describe("digits")).images for run in ("rmae", "two")]
    assert torch.equal(*images)
    first, second = (read_tensors(work / run / "checkpoints" / "rmae.safetensors") for run in ("rmae", "two"))
    for name, value in first.items():
        found = second[name]
        if name.endswith("qkv.bias"):  # the keys' bias has no gradient but rounding, which Adam makes steps of
            value, found = (torch.cat([part[0], part[2]]) for part in (value.chunk(3), found.chunk(3)))
        torch.testing.assert_close(found, value, atol=2e-5, rtol=1e-4)  # sums in another order, Adam's root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "maskdit", "--maskdit", "mae-digits"), "expected a MaskDiT, this is a MaskedAutoencoder"),
        (("--descent.mask-rate", "0.99"), "keeps none of 16 tokens"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(work, arguments, message) -> None:
    assert message in app("finetune_purifier", *SMOKE, "bad", *arguments, cwd=work, status=2).message
    assert not (work / "bad").exists()


def test_settings_are_checked_and_shown_without_torch(tmp_path) -> None:
    bad = {
        "missing: name the classifier's checkpoint; pretrain.py classifier --recipe svhn trains one": (
            "--data",
            "svhn",
        ),
        "kind maskdit needs a checkpoint": ("--kind", "maskdit", "--classifier", "c.safetensors"),
        "attack.eps must be in (0, 1], got 8.0": ("--attack.eps", "8"),
    }
    commands = {message: ("finetune_purifier", *words) for message, words in bad.items()}
    commands |= {option: ("finetune_purifier", option) for option in ("--help", "--dry-run")}
    done = without_torch(commands, tmp_path)
    for message in bad:
        assert done[message].returncode == 2
        assert message in done[message].message
        assert "Traceback" not in done[message].stderr
    assert done["--help"].returncode == 0
    assert json.loads(done["--dry-run"].stdout)["attack"]["eps"] == 0.15
    assert not list(tmp_path.iterdir())
