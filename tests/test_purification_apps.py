"""`pretrain.py` and `purify.py` as a user runs them: command lines and what they leave."""

import json
from unittest import mock

import numpy as np
import pytest
import rp_models
import torch
from rp_models.checkpoint import read_header, read_tensors
from rp_models.data import describe, load_images, read_synthetic, subset_index, write_synthetic
from rp_models.training import seeded
from rp_models.training.mae import mae_loss

from .running import app, process, without_torch
from .tiny_networks import tiny_classifier, tiny_maskdit

SMOKE_MAE = ("pretrain", "mae", "--recipe", "smoke", "--device", "cpu", "--out")
PURIFY = ("purify", "--device", "cpu", "--out")
STEPS = ("--purifier.steps", "2")


def outcome(*words, cwd):
    """What a command line did; "INTERRUPT" in front of it presses Ctrl-C when it comes to save a checkpoint."""
    if words[0] == "INTERRUPT":
        with mock.patch("rp_models.save", side_effect=KeyboardInterrupt):
            return outcome(*words[1:], cwd=cwd)
    return app(*words, cwd=cwd, status=None)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with some inputs."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny classifier"):
        classifier = tiny_classifier()
        maskdit = tiny_maskdit()
    rp_models.save(classifier, folder / "classifier.safetensors")
    rp_models.save(maskdit, folder / "maskdit.safetensors")
    test = load_images("digits", "test")
    write_synthetic(test.images[:10], test.labels[:10], folder / "ten.npz")
    (folder / "damaged.npz").write_bytes((folder / "ten.npz").read_bytes()[:300])
    (folder / "pictures").mkdir()
    for name, image in zip("ab", test.images, strict=False):
        Image.fromarray(image[0].numpy()).save(folder / "pictures" / f"{name}.png")
    np.savez(folder / "bare.npz", image=test.images[:4].permute(0, 2, 3, 1).numpy())
    Image.fromarray(test.images[2, 0].numpy()).save(folder / "c.jpg", quality=100)
    Image.new("RGB", (9, 8)).save(folder / "wide.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """What the command lines did that need torch."""
    digits = ("--images", "12", "--batch-size", "5", "--classifier", "classifier.safetensors")
    (work / "taken").mkdir()
    (work / "taken" / "thesis.tex").write_text("years of work")
    commands = {
        "mae": (*SMOKE_MAE, "mae"),
        "mae again": (*SMOKE_MAE, "mae"),
        "mae resumed": (*SMOKE_MAE, "mae", "--resume"),
        "mae of another seed": (*SMOKE_MAE, "mae", "--resume", "--seed", "3"),
        "mae interrupted": ("INTERRUPT", *SMOKE_MAE, "mae2"),
        "mae completed": (*SMOKE_MAE, "mae2", "--resume"),
        "half": (*SMOKE_MAE, "half", "--half"),
        "mae of another size": (*SMOKE_MAE, "bad", "--mae.network", "mae-fashion-mnist"),
        "no mae": (*SMOKE_MAE, "bad", "--mae.network", "vit-digits"),
        "edm": ("pretrain", "edm", "--recipe", "smoke", "--device", "cpu", "--out", "edm"),
        "digits": (*PURIFY, "p-digits", *STEPS, *digits),
        "whole split": (*PURIFY, "p-whole", *STEPS),
        "npz": (*PURIFY, "p-npz", "--input", "ten.npz", "--purifier.kind", "noise"),
        "bare npz": (*PURIFY, "p-bare", "--input", "bare.npz", "--purifier.kind", "none"),
        "bare npz judged": (*PURIFY, "bad", "--input", "bare.npz", "--classifier", "classifier.safetensors"),
        "png": (*PURIFY, "p-png", "--input", "pictures", "--purifier.kind", "mae-reconstruction"),
        "jpeg": (*PURIFY, "p-jpeg", "--input", "c.jpg", "pictures", "--purifier.kind", "none"),
        "same name": (*PURIFY, "bad", "--input", "c.jpg", "c.png"),
        "diffpure": (
            *(*PURIFY, "p-edm", "--images", "3", "--purifier.kind", "diffpure", "--purifier.times", "4"),
            *("--purifier.model", "edm/checkpoints/model.safetensors"),
        ),
        "maskdit-pure": (
            *(*PURIFY, "p-maskdit", *STEPS, "--images", "3", "--purifier.kind", "maskdit-pure"),
            *("--purifier.model", "maskdit.safetensors"),
        ),
        "denoise": (
            *(*PURIFY, "p-denoise", "--images", "3", "--purifier.kind", "denoise"),
            *("--purifier.model", "maskdit.safetensors"),
        ),
        "likelihood": (
            *(*PURIFY, "p-likelihood", *STEPS, "--images", "3", "--purifier.kind", "likelihood"),
            *("--purifier.model", "maskdit.safetensors"),
        ),
        "none": (*PURIFY, "p-none", "--images", "3", "--purifier.kind", "none"),
        "missing": (*PURIFY, "bad", "--classifier", "nowhere.safetensors"),
        "mae as classifier": (*PURIFY, "bad", "--classifier", "mae-digits"),
        "classifier as mae": (*PURIFY, "bad", "--purifier.mae", "classifier.safetensors"),
        "classifier as edm": (
            *(*PURIFY, "bad", "--purifier.kind", "diffpure"),
            *("--purifier.model", "classifier.safetensors"),
        ),
        "guided without classifier": (*PURIFY, "bad", "--purifier.kind", "soap"),
        "preset of another size": (
            *(*PURIFY, "bad", "--purifier.preset", "imagenet/diffpure"),
            *("--purifier.model", "classifier.safetensors"),
        ),
        "nothing visible": (*PURIFY, "bad", "--purifier.mask-rate", "0.99"),
        "damaged": (*PURIFY, "bad", "--input", "damaged.npz"),
        "wide": (*PURIFY, "bad", "--input", "wide.png"),
        "text": (*PURIFY, "bad", "--input", "text.png"),
        "empty folder": (*PURIFY, "bad", "--input", "mae"),
        "taken": (*PURIFY, "taken"),
        "device": ("purify", "--device", "tpu9", "--out", "bad"),
    }
    return {name: outcome(*words, cwd=work) for name, words in commands.items()}


def result(work, run):
    return json.loads((work / run / "result.json").read_text())


def same_tensors(one, other):
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_every_good_run_ends_well(runs) -> None:
    for name in (
        *("mae", "mae resumed", "mae completed", "half", "edm", "digits", "whole split", "npz", "png"),
        *("bare npz", "jpeg", "diffpure", "maskdit-pure", "denoise", "likelihood", "none"),
    ):
        assert runs[name].returncode == 0, f"{name}: {runs[name].stderr}"


@pytest.mark.parametrize("kind", ["mae", "edm"])
def test_pretraining_leaves_a_model_its_loss_and_a_sheet(runs, work, kind) -> None:
    folder, found = work / kind, result(work, kind)
    notes = read_header(folder / "checkpoints" / "model.safetensors").notes
    assert notes["data"] == "digits"
    assert notes["steps"] == 4
    assert notes["validation_loss"] == found["validation_loss"] > 0
    assert str(found["validation_loss"]) in runs[kind].stdout
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["model.safetensors"]
    assert (folder / "figures" / "samples.png").read_bytes().startswith(b"\x89PNG")
    tiles = json.loads((folder / "figures" / "samples.json").read_text())
    rows = ["original", "masked", "reconstruction"] if kind == "mae" else list("0123456789")
    assert list(dict.fromkeys(tile["row"] for tile in tiles)) == rows
    assert len(tiles) == 10 * len(rows)


def test_the_reported_loss_is_that_of_the_stored_weights(runs, work) -> None:
    validation = load_images("digits", "validation")
    for run, dtype in (("mae", torch.float32), ("half", torch.float16)):
        file = work / run / "checkpoints" / "model.safetensors"
        assert {tensor.dtype for tensor in read_tensors(file).values()} == {dtype}
        loss = mae_loss(rp_models.load(file), validation, mask_rate=0.5, seed=0)
        assert result(work, run)["validation_loss"] == pytest.approx(loss, abs=1e-5)  # stored with five decimals


def test_a_finished_run_is_not_overwritten_and_another_one_is_refused(runs) -> None:
    assert runs["mae again"].returncode == 2
    assert "already holds a run; go on with --resume" in runs["mae again"].message
    assert runs["mae resumed"].stdout == runs["mae"].stdout
    assert runs["mae of another seed"].returncode == 2
    assert "seed: 0 there, 3 asked for" in runs["mae of another seed"].message


def test_an_interrupted_training_ends_with_the_same_weights(runs, work) -> None:
    """Interrupted when all steps are done and the checkpoint is not: everything must come back from the state file."""
    assert runs["mae interrupted"].returncode == 130
    assert "go on with --resume" in runs["mae interrupted"].stderr
    assert same_tensors(*(work / run / "checkpoints" / "model.safetensors" for run in ("mae", "mae2")))


def test_purified_images_stand_in_the_file_and_the_numbers_belong_to_them(runs, work) -> None:
    found, info = result(work, "p-digits"), describe("digits")
    purified = read_synthetic(work / "p-digits" / "purified.npz", info)
    test = load_images("digits", "test")
    chosen = torch.from_numpy(np.random.RandomState(0).choice(300, 12, replace=False))  # the field's draw
    assert torch.equal(purified.labels, test.labels[chosen])
    change = (purified.images.int() - test.images[chosen].int()).abs() / 255
    assert found["largest_change"] == pytest.approx(float(change.max()), abs=1e-6)  # float32
    assert found["mean_change"] == pytest.approx(float(change.double().mean()), abs=1e-6)
    assert 0 < found["largest_change"] <= 0.015 + 0.5 / 255  # a whole and a half step of 0.01, rounded to bytes
    loss = mae_loss(rp_models.load("mae-digits"), purified, mask_rate=0.5, seed=0)
    assert found["mae_loss"]["after"] == pytest.approx(loss, rel=1e-6)
    assert found["mae_loss"]["after"] < found["mae_loss"]["before"]
    classifier = rp_models.load(work / "classifier.safetensors")
    x, y = purified.batch(slice(None))
    assert found["accuracy"]["after"]["right"] == int((classifier(x).argmax(dim=1) == y).sum())
    assert "no robust accuracy" in runs["digits"].stdout
    assert "no robust accuracy" in found["caution"]
    assert (work / "p-digits" / "figures" / "before_after.png").read_bytes().startswith(b"\x89PNG")


def test_neither_the_batch_size_nor_the_choice_of_images_changes_a_purified_image(runs, work) -> None:
    some, whole = (read_synthetic(work / run / "purified.npz", describe("digits")) for run in ("p-digits", "p-whole"))
    assert len(whole) == 300
    assert torch.equal(some.images, whole.images[subset_index(300, 12)])


def test_other_inputs_come_out_in_their_own_form(runs, work) -> None:
    from PIL import Image

    given, purified = (read_synthetic(work / name, describe("digits")) for name in ("ten.npz", "p-npz/purified.npz"))
    assert torch.equal(given.labels, purified.labels)
    assert not torch.equal(given.images, purified.images)
    with np.load(work / "p-npz" / "purified.npz") as file:
        assert file["image"].shape == (10, 8, 8, 1)
        assert file["image"].dtype == np.uint8
    assert sorted(path.name for path in (work / "p-png" / "purified").iterdir()) == ["a.png", "b.png"]
    with Image.open(work / "p-png" / "purified" / "a.png") as image:
        assert (image.mode, image.size) == ("L", (8, 8))
    assert not (work / "p-png" / "purified.npz").exists()
    with np.load(work / "p-bare" / "purified.npz") as file, np.load(work / "bare.npz") as bare:
        assert list(file) == ["image"]
        assert np.array_equal(file["image"], bare["image"])
    # what was purified is not compressed again, under whatever name it came
    assert sorted(path.name for path in (work / "p-jpeg" / "purified").iterdir()) == ["a.png", "b.png", "c.png"]
    with Image.open(work / "c.jpg") as before, Image.open(work / "p-jpeg" / "purified" / "c.png") as after:
        assert np.array_equal(np.array(before), np.array(after))
    assert result(work, "p-none")["largest_change"] == 0
    for run in ("p-edm", "p-maskdit", "p-denoise", "p-likelihood"):
        assert len(read_synthetic(work / run / "purified.npz", describe("digits"))) == 3
        assert result(work, run)["mean_change"] > 0


def test_an_interrupted_purification_goes_on_after_its_last_batch(runs, work) -> None:
    folder, info = work / "p-digits", describe("digits")
    parts = sorted((folder / "parts").iterdir())
    assert [part.name for part in parts] == ["00000000.npz", "00000005.npz", "00000010.npz"]
    whole = read_synthetic(folder / "purified.npz", info)
    (folder / "purified.npz").unlink()
    parts[2].unlink()
    marked = read_synthetic(parts[0], info)
    write_synthetic(255 - marked.images, marked.labels, parts[0])  # so that one sees whether it is made again
    command = (
        *PURIFY,
        "p-digits",
        *STEPS,
        "--images",
        "12",
        "--batch-size",
        "5",
        "--classifier",
        "classifier.safetensors",
    )
    process(*command, "--resume", cwd=work)
    resumed = read_synthetic(folder / "purified.npz", info)
    assert torch.equal(resumed.images[5:], whole.images[5:])
    assert torch.equal(resumed.images[:5], 255 - whole.images[:5])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mae of another size", "mae.network 'mae-fashion-mnist' does not suit digits"),
        ("no mae", "mae.network must name a masked autoencoder"),
        ("missing", "nowhere.safetensors: no such checkpoint file"),
        ("mae as classifier", "mae-digits does not take the images of digits"),
        ("classifier as mae", "expected a masked autoencoder, this is a DMWideResNet"),
        ("classifier as edm", "classifier.safetensors: expected a denoiser D(x; sigma), this is a DMWideResNet"),
        (
            "guided without classifier",
            "soap asks the classifier that it defends: name its checkpoint",
        ),
        ("preset of another size", "imagenet/diffpure is for images of 224 pixels, those of digits have 8"),
        ("nothing visible", "keeps none of 16 tokens"),
        ("damaged", "damaged.npz: expected an .npz with arrays `image` and `label`"),
        ("wide", "wide.png has 9x8 pixels, the images of digits have 8x8"),
        ("text", "text.png: no picture in any known format"),
        ("empty folder", "no PNG or JPEG files in mae"),
        ("same name", "two of the files have the same name"),
        ("bare npz judged", "bare.npz has no array `label`, so there is no accuracy"),
        ("taken", "taken is not empty and holds no run"),
        ("device", "no device 'tpu9' here"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(runs, work, name, message) -> None:
    assert runs[name].returncode == 2, runs[name].stderr
    assert message in runs[name].message
    assert "Traceback" not in runs[name].stderr
    assert not (work / "bad").exists()
    assert [path.name for path in (work / "taken").iterdir()] == ["thesis.tex"]


BAD_SETTINGS = {
    "the first argument must be one of mae, nim, edm, maskdit, classifier, got ''": ("pretrain",),
    "the first argument must be one of mae, nim, edm, maskdit, classifier, got 'vae'": ("pretrain", "vae"),
    "mae.mask_rate must be in [0, 1), got 1.0": ("pretrain", "mae", "--mae.mask-rate", "1"),
    "cannot be halved 4 times": ("pretrain", "edm", "--edm.channel-mult", "1", "1", "1", "1", "1"),
    "did you mean digits": ("pretrain", "mae", "--data", "digit"),
    "Unrecognized options: --edm.steps": ("pretrain", "mae", "--edm.steps", "3"),
    "diffpure needs an EDM network; name its checkpoint": ("purify", "--purifier.kind", "diffpure"),
    "purifier.eta must be in [0, 1], got 8.0": ("purify", "--purifier.eta", "8"),
    "picture files have no labels": ("purify", "--input", "a.png", "--classifier", "c.safetensors"),
    "input must be one .npz or PNG and JPEG files": ("purify", "--input", "a.npz", "b.png"),
    "purifier.kind noise does not use purifier.steps, purifier.eta; its settings are std": (
        *("purify", "--purifier.kind", "noise", "--purifier.steps", "3", "--purifier.eta", "0.3"),
    ),
    "purifier.sigmas are the noise levels of --purifier.schedule grid or annealed": (
        *("purify", "--purifier.kind", "maskdit-pure", "--purifier.model", "m", "--purifier.schedule", "grid"),
    ),
    "likelihood needs an EDM network; name its checkpoint": ("purify", "--purifier.kind", "likelihood"),
    "purifier.levels must be two rising positive numbers": (
        *("purify", "--purifier.kind", "likelihood", "--purifier.model", "m", "--purifier.levels", "0.6", "0.4"),
    ),
    "purifier.reverse_steps must be at least 1, got 0": (
        *("purify", "--purifier.kind", "diffpure", "--purifier.model", "m", "--purifier.reverse-steps", "0"),
    ),
}
ASKING = {
    "help": ("pretrain", "--help"),
    "mae help": ("pretrain", "mae", "--help"),
    "purify help": ("purify", "--help"),
    "mae": ("pretrain", "mae", "--dry-run"),
    "edm": ("pretrain", "edm", "--recipe", "smoke", "--dry-run", "--edm.steps", "9"),
    "purify": ("purify", "--dry-run", "--images", "7", "--purifier.eta", "None"),
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """What the command lines did that end before torch is needed."""
    folder = tmp_path_factory.mktemp("parsed")
    done = without_torch({**BAD_SETTINGS, **ASKING}, folder)
    assert not list(folder.iterdir())
    return done


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_bad_settings_end_in_one_sentence(parsed, message) -> None:
    done = parsed[message]
    assert done.returncode == 2
    assert message in done.message
    assert "Traceback" not in done.stderr


def test_asking_prints_and_does_not_import_torch(parsed) -> None:
    assert {parsed[name].returncode for name in ASKING} == {0}
    assert "pretrain.py edm --help" in parsed["help"].stdout
    assert "--mae.mask-rate" in parsed["mae help"].stdout
    shipped = json.loads(parsed["mae"].stdout)["mae"]
    notes = read_header("mae-digits").notes
    assert {name: shipped[name] for name in ("steps", "batch_size", "lr", "mask_rate")} == {
        name: notes[name] for name in ("steps", "batch_size", "lr", "mask_rate")
    }
    assert json.loads(parsed["edm"].stdout)["edm"]["steps"] == 9
    purify = json.loads(parsed["purify"].stdout)
    assert purify["images"] == 7
    assert (purify["purifier"]["eta"], purify["purifier"]["halve"]) == (None, None)  # no limit; as the purifier has it
