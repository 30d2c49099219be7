"""`pretrain.py`, `purify.py` and `finetune_purifier.py` as a user runs them: on the command line, in another process.

Importing torch takes longer than any of these runs, so one process runs many command lines, one after the other.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rp_models
import torch
from rp_models.checkpoint import read_header, read_tensors
from rp_models.data import describe, load_images, read_synthetic, subset_index, write_synthetic
from rp_models.training import mae_loss, seeded

ROOT = Path(__file__).parent.parent
SMOKE_MAE = ("pretrain.py", "mae", "--recipe", "smoke", "--device", "cpu", "--out")
SMOKE_TUNE = ("finetune_purifier.py", "--recipe", "smoke", "--device", "cpu", "--classifier", "classifier.safetensors")
PURIFY = ("purify.py", "--device", "cpu", "--purifier.steps", "2", "--out")

# Runs command lines in turn; "INTERRUPT" in front of one presses Ctrl-C when it comes to save a checkpoint.
DRIVER = """
import contextlib, io, json, runpy, sys
def interrupt(*_, **__):
    raise KeyboardInterrupt
apps = sys.argv[1]
sys.path.insert(0, apps)
done = []
for command in json.loads(sys.argv[2]):
    if interrupted := command[0] == "INTERRUPT":
        command = command[1:]
        import rp_models
        save, rp_models.save = rp_models.save, interrupt
    sys.argv, status = command, 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_path(f"{apps}/{command[0]}", run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
    if interrupted:
        rp_models.save = save
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps({"done": done, "torch": "torch" in sys.modules}))
"""


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def message(self) -> str:
        return " ".join(self.err.replace("│", " ").split())


def session(commands, cwd):
    """What each of the named command lines did, and whether torch was imported."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    lines = json.dumps([list(map(str, command)) for command in commands.values()])
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ROOT / "apps"), lines],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(process.stdout.splitlines()[-1])
    done = {name: Done(*row) for name, row in zip(commands, result["done"], strict=True)}
    return done, result["torch"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with some inputs."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny classifier"):
        classifier = rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4])
        maskdit = rp_models.build("maskdit-digits", width=16, heads=2, depth=1, decoder_width=16, decoder_depth=1)
    rp_models.save(classifier, folder / "classifier.safetensors")
    rp_models.save(maskdit, folder / "maskdit.safetensors")
    test = load_images("digits", "test")
    write_synthetic(test.images[:10], test.labels[:10], folder / "ten.npz")
    (folder / "damaged.npz").write_bytes((folder / "ten.npz").read_bytes()[:300])
    (folder / "pictures").mkdir()
    for name, image in zip("ab", test.images, strict=False):
        Image.fromarray(image[0].numpy()).save(folder / "pictures" / f"{name}.png")
    Image.new("RGB", (9, 8)).save(folder / "wide.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """All command lines that need torch."""
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
        "edm": ("pretrain.py", "edm", "--recipe", "smoke", "--device", "cpu", "--out", "edm"),
        "digits": (*PURIFY, "p-digits", *digits),
        "whole split": (*PURIFY, "p-whole"),
        "npz": (*PURIFY, "p-npz", "--input", "ten.npz", "--purifier.kind", "noise"),
        "png": (*PURIFY, "p-png", "--input", "pictures", "--purifier.kind", "mae-reconstruction"),
        "diffpure": (
            *(*PURIFY, "p-edm", "--images", "3", "--purifier.kind", "diffpure", "--purifier.times", "4"),
            *("--purifier.model", "edm/checkpoints/model.safetensors"),
        ),
        "maskdit-pure": (
            *(*PURIFY, "p-maskdit", "--images", "3", "--purifier.kind", "maskdit-pure"),
            *("--purifier.model", "maskdit.safetensors"),
        ),
        "denoise": (
            *(*PURIFY, "p-denoise", "--images", "3", "--purifier.kind", "denoise"),
            *("--purifier.model", "maskdit.safetensors"),
        ),
        "likelihood": (
            *(*PURIFY, "p-likelihood", "--images", "3", "--purifier.kind", "likelihood"),
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
        "nothing visible": (*PURIFY, "bad", "--purifier.mask-rate", "0.99"),
        "damaged": (*PURIFY, "bad", "--input", "damaged.npz"),
        "wide": (*PURIFY, "bad", "--input", "wide.png"),
        "text": (*PURIFY, "bad", "--input", "text.png"),
        "empty folder": (*PURIFY, "bad", "--input", "mae"),
        "taken": (*PURIFY, "taken"),
        "device": ("purify.py", "--device", "tpu9", "--out", "bad"),
        "rmae": (*SMOKE_TUNE, "--out", "rmae"),
        "rmae interrupted": ("INTERRUPT", *SMOKE_TUNE, "--out", "rmae2"),
        "rmae completed": (*SMOKE_TUNE, "--out", "rmae2", "--resume"),
        "rmaskdit": (*SMOKE_TUNE, "--out", "rmaskdit", "--kind", "maskdit", "--maskdit", "maskdit.safetensors"),
        "steps": (*SMOKE_TUNE, "--out", "steps", "--through", "steps", "--unrolled.steps", "1"),
        "mae as maskdit": (*SMOKE_TUNE, "--out", "bad", "--kind", "maskdit", "--maskdit", "mae-digits"),
        "nothing visible to descend on": (*SMOKE_TUNE, "--out", "bad", "--descent.mask-rate", "0.99"),
    }
    done, _ = session(commands, work)
    return done


def result(work, run):
    return json.loads((work / run / "result.json").read_text())


def same_tensors(one, other):
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_every_good_run_ends_well(runs) -> None:
    for name in (
        *("mae", "mae resumed", "mae completed", "half", "edm", "digits", "whole split", "npz", "png"),
        *("diffpure", "maskdit-pure", "denoise", "likelihood", "none", "rmae", "rmae completed", "rmaskdit", "steps"),
    ):
        assert runs[name].status == 0, f"{name}: {runs[name].err}"


@pytest.mark.parametrize("kind", ["mae", "edm"])
def test_pretraining_leaves_a_model_its_loss_and_a_sheet(runs, work, kind) -> None:
    folder, found = work / kind, result(work, kind)
    notes = read_header(folder / "checkpoints" / "model.safetensors").notes
    assert notes["data"] == "digits"
    assert notes["steps"] == 4
    assert notes["validation_loss"] == found["validation_loss"] > 0
    assert str(found["validation_loss"]) in runs[kind].out
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
    assert runs["mae again"].status == 2
    assert "already holds a run; go on with --resume" in runs["mae again"].message
    assert runs["mae resumed"].out == runs["mae"].out
    assert runs["mae of another seed"].status == 2
    assert "seed: 0 there, 3 asked for" in runs["mae of another seed"].message


def test_an_interrupted_training_ends_with_the_same_weights(runs, work) -> None:
    """Interrupted when all steps are done and the checkpoint is not: everything must come back from the state file."""
    for name, files in (
        ("mae", ("mae/checkpoints/model.safetensors", "mae2/checkpoints/model.safetensors")),
        ("rmae", ("rmae/checkpoints/rmae.safetensors", "rmae2/checkpoints/rmae.safetensors")),
    ):
        assert runs[f"{name} interrupted"].status == 130
        assert "go on with --resume" in runs[f"{name} interrupted"].err
        assert same_tensors(*(work / file for file in files))
    assert "stage I:" not in runs["rmae completed"].err  # the stored adversarial images were used
    assert runs["rmae completed"].out.splitlines()[:-1] == runs["rmae"].out.splitlines()[:-1]


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
    assert found["accuracy"]["after"]["correct"] == int((classifier(x).argmax(dim=1) == y).sum())
    assert "no robust accuracy" in runs["digits"].out
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
    command = (*PURIFY, "p-digits", "--images", "12", "--batch-size", "5", "--classifier", "classifier.safetensors")
    done, _ = session({"resumed": (*command, "--resume")}, work)
    assert done["resumed"].status == 0, done["resumed"].err
    resumed = read_synthetic(folder / "purified.npz", info)
    assert torch.equal(resumed.images[5:], whole.images[5:])
    assert torch.equal(resumed.images[:5], 255 - whole.images[:5])


@pytest.mark.parametrize("kind", ["rmae", "rmaskdit"])
def test_fine_tuning_leaves_the_network_the_images_and_before_and_after(runs, work, kind) -> None:
    folder, found = work / kind, result(work, kind)
    train = load_images("digits", "train")
    stored = read_synthetic(folder / "adversarial.npz", describe("digits"))
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
            assert 0 <= row[accuracy]["correct"] <= row[accuracy]["images"] == 8
        assert min(row["amv"].values()) > 0 or (kind, name) == ("rmaskdit", "before")  # fresh blocks change nothing
        assert row["amv"]["purified"] == pytest.approx(row["amv_of_each_layer"]["purified"][-1], rel=1e-5)
        assert row["one_shot_class_loss"] > 0
    assert found["before"] != found["after"]
    assert "no robust accuracies" in " ".join(runs[kind].out.split())
    assert (folder / "figures" / "purified.png").read_bytes().startswith(b"\x89PNG")


def test_training_through_steps_is_another_training(runs, work) -> None:
    """The sign has no derivative of its own: without a curved rule the weights would stay where they are."""
    one_shot, steps = (work / run / "checkpoints" / "rmae.safetensors" for run in ("rmae", "steps"))
    assert not same_tensors(steps, "mae-digits")
    assert not same_tensors(steps, one_shot)
    stored = [read_synthetic(work / run / "adversarial.npz", describe("digits")).images for run in ("rmae", "steps")]
    assert not torch.equal(*stored)  # each is attacked through what it is trained through


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mae of another size", "mae.network 'mae-fashion-mnist' does not suit digits"),
        ("no mae", "mae.network must name a masked autoencoder"),
        ("missing", "nowhere.safetensors: no such checkpoint file"),
        ("mae as classifier", "mae-digits does not take the images of digits"),
        ("classifier as mae", "expected a masked autoencoder, the checkpoint is a DMWideResNet"),
        ("classifier as edm", "classifier.safetensors does not take the images of digits"),
        ("nothing visible", "keeps none of 16 tokens"),
        ("damaged", "damaged.npz: expected an .npz with arrays `image` and `label`"),
        ("wide", "wide.png has 9x8 pixels, the images of digits have 8x8"),
        ("text", "text.png: expected a PNG file"),
        ("empty folder", "no PNG files in mae"),
        ("taken", "taken is not empty and holds no run"),
        ("device", "no device 'tpu9' here"),
        ("mae as maskdit", "expected a MaskDiT, the checkpoint is a MaskedAutoencoder"),
        ("nothing visible to descend on", "keeps none of 16 tokens"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(runs, work, name, message) -> None:
    assert runs[name].status == 2, runs[name].err
    assert message in runs[name].message
    assert "Traceback" not in runs[name].err
    assert not (work / "bad").exists()
    assert [path.name for path in (work / "taken").iterdir()] == ["thesis.tex"]


BAD_SETTINGS = {
    "the first argument must be one of mae, edm, maskdit, classifier, got ''": ("pretrain.py",),
    "the first argument must be one of mae, edm, maskdit, classifier, got 'vae'": ("pretrain.py", "vae"),
    "mae.mask_rate must be in (0, 1), got 1.0": ("pretrain.py", "mae", "--mae.mask-rate", "1"),
    "cannot be halved 4 times": ("pretrain.py", "edm", "--edm.channel-mult", "1", "1", "1", "1", "1"),
    "did you mean digits": ("pretrain.py", "mae", "--data", "digit"),
    "Unrecognized options: --edm.steps": ("pretrain.py", "mae", "--edm.steps", "3"),
    "diffpure needs an EDM network; name its checkpoint": ("purify.py", "--purifier.kind", "diffpure"),
    "purifier.eta must be in [0, 1], got 8.0": ("purify.py", "--purifier.eta", "8"),
    "PNG files have no labels": ("purify.py", "--input", "a.png", "--classifier", "c.safetensors"),
    "input must be one .npz or PNG files": ("purify.py", "--input", "a.npz", "b.png"),
    "--classifier is missing": ("finetune_purifier.py",),
    "kind maskdit needs a checkpoint": ("finetune_purifier.py", "--kind", "maskdit", "--classifier", "c.safetensors"),
    "likelihood needs an EDM network; name its checkpoint": ("purify.py", "--purifier.kind", "likelihood"),
    "purifier.levels must be two rising positive numbers": ("purify.py", "--purifier.levels", "0.6", "0.4"),
    "purifier.reverse_steps must be at least 1, got 0": ("purify.py", "--purifier.reverse-steps", "0"),
    "attack.eps must be in (0, 1], got 8.0": ("finetune_purifier.py", "--attack.eps", "8"),
}
ASKING = {
    "help": ("pretrain.py", "--help"),
    "mae help": ("pretrain.py", "mae", "--help"),
    "purify help": ("purify.py", "--help"),
    "finetune help": ("finetune_purifier.py", "--help"),
    "mae": ("pretrain.py", "mae", "--dry-run"),
    "edm": ("pretrain.py", "edm", "--recipe", "smoke", "--dry-run", "--edm.steps", "9"),
    "purify": ("purify.py", "--dry-run", "--images", "7"),
    "finetune": ("finetune_purifier.py", "--dry-run"),
}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Command lines that end before torch is needed."""
    folder = tmp_path_factory.mktemp("parsed")
    done, torch_imported = session({**BAD_SETTINGS, **ASKING}, folder)
    assert not list(folder.iterdir())
    return done, torch_imported


@pytest.mark.parametrize("message", BAD_SETTINGS)
def test_bad_settings_end_in_one_sentence(parsed, message) -> None:
    done = parsed[0][message]
    assert done.status == 2
    assert message in done.message
    assert "Traceback" not in done.err


def test_asking_prints_and_does_not_import_torch(parsed) -> None:
    done, torch_imported = parsed
    assert not torch_imported
    assert {done[name].status for name in ASKING} == {0}
    assert "pretrain.py edm --help" in done["help"].out
    assert "--mae.mask-rate" in done["mae help"].out
    shipped = json.loads(done["mae"].out)["mae"]
    notes = read_header("mae-digits").notes
    assert {name: shipped[name] for name in ("steps", "batch_size", "lr", "mask_rate")} == {
        name: notes[name] for name in ("steps", "batch_size", "lr", "mask_rate")
    }
    assert json.loads(done["edm"].out)["edm"]["steps"] == 9
    assert json.loads(done["purify"].out)["images"] == 7
    assert json.loads(done["finetune"].out)["attack"]["eps"] == 0.15
