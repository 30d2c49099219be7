"""`generate.py` as a user runs it, also killed in the middle and on two processes.

Importing torch takes longer than any of these runs, so one process imports it once, and every run is a fork of it.
"""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rp_models
import torch
from rp_models.checkpoint import read_tensors
from rp_models.data import describe, read_synthetic
from rp_models.diffusion.sampler_settings import HeunSettings
from rp_models.diffusion.samplers import sampler_of
from rp_models.diffusion.sampling import balanced_labels, sample_images
from rp_models.training import seeded

from .running import APPS, ENVIRONMENT, Done, without_torch
from .tiny_networks import tiny_classifier

SMALL = ("--recipe", "smoke", "--device", "cpu")
QUICK = (*SMALL, "--frechet-images", "0")
SELECT = ("edm.safetensors", *QUICK, "--classifier", "classifier.safetensors", "--keep", "0.5")

# Runs command lines as forks, two at a time, one group after the other. A fork may have environment variables of its
# own, and may be told to kill itself just ahead of its n-th renaming of a finished file.
DRIVER = """
import json, os, runpy, signal, sys, traceback
apps, groups = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, apps)
import torch, rp_experiments.generate
# imports and fonts
rp_experiments.generate.plot_image_grid({"warm": torch.zeros(1, 1, 2, 2)}).save("warm", formats=("png",))

def start(name, arguments, environment, die):
    if child := os.fork():
        return child
    os.environ.update(environment)
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    replace, calls = os.replace, 0
    def fatal(*paths, **options):
        nonlocal calls
        calls += 1
        if calls == die:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **options)
    os.replace, status = fatal, 0
    sys.argv = [f"{apps}/generate.py", *arguments]
    try:
        runpy.run_path(f"{apps}/generate.py", run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)

done = {}
for group in groups:
    children = {}
    while group or children:
        while group and len(children) < 2:
            command = group.pop(0)
            children[start(*command)] = command[0]
        child, status = os.wait()
        done[children.pop(child)] = os.waitstatus_to_exitcode(status)
print(json.dumps(done))
"""


def command(name, *arguments, environment=None, die=0):
    out = () if "--out" in arguments else ("--out", name)
    return [name, [str(a) for a in (*arguments, *out)], environment or {}, die]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with checkpoints of every kind, tiny and untrained."""
    folder = tmp_path_factory.mktemp("work")
    unet = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    dit = {"width": 16, "depth": 1, "heads": 2}
    with seeded(0, "tiny models"):
        models = {
            "edm": rp_models.build("edm-digits", **unet),
            "unconditional": rp_models.build("edm-digits", label_dim=0, **unet),
            "wide": rp_models.build("edm-digits", img_resolution=16, **unet),
            "hundred": rp_models.build("edm-digits", label_dim=100, **unet),
            "maskdit": rp_models.build("maskdit-digits", decoder_width=16, decoder_depth=1, num_classes=10, **dit),
            "lightningdit": rp_models.build("lightningdit", image_size=4, in_channels=4, num_classes=3, **dit),
            "vae": rp_models.build(
                "autoencoder-kl", width=32, multipliers=[1, 2], blocks=1, attention=[False] * 2, z_channels=4
            ),
            "classifier": tiny_classifier(),
            "fashion": rp_models.build("edm-digits", img_resolution=28, **unet),
        }
    for name, model in models.items():
        notes = (
            {"data": "fashion-mnist"}
            if name == "fashion"
            else {"data": "digits"}
            if name in ("edm", "unconditional", "maskdit", "wide", "hundred")
            else {}
        )
        rp_models.save(model, folder / f"{name}.safetensors", notes=notes)
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """What became of all command lines that need torch."""
    edm, plain = ("edm.safetensors", *SMALL), ("unconditional.safetensors", *QUICK, "--images", "12")
    classifiers_features = ("--frechet-network", "classifier.safetensors")
    deaths = (4, 8, 11, 13)  # between images and scores, behind the last candidates, in the selection, behind it
    bad = {
        "bad network": ("mae-digits",),
        "bad size": ("wide.safetensors",),
        "bad classes": ("hundred.safetensors",),
        "bad class": ("edm.safetensors", "--classes", "10"),
        "bad unconditional": ("unconditional.safetensors", "--classes", "1"),
        "bad guidance": ("edm.safetensors", "--heun.guidance", "2"),
        "bad latents": ("lightningdit.safetensors",),
        "bad vae": ("lightningdit.safetensors", "--vae", "edm.safetensors"),
        "bad judge": ("edm.safetensors", "--frechet-network", "unconditional.safetensors"),
        "bad file": ("nowhere.safetensors",),
        "bad default": (),
    }
    latent = ("lightningdit.safetensors", *SMALL, "--images", "5", "--vae", "vae.safetensors", "--flow.guidance", "2")
    groups = [
        [
            command("ranks", *SELECT, "--processes", "2"),
            command("whole", *edm, "--images", "40"),
            command("one-file", *edm, "--images", "40", "--shard-images", "100", "--frechet-images", "0"),
            command("chosen", *SELECT),
            command("kept", *SELECT, "--keep-candidates"),
            *(command(f"died-{n}", *SELECT, die=n) for n in deaths),
            command("plain", *plain),
            command("pseudo", *plain, "--classifier", "classifier.safetensors"),
            command("two", *edm, "--images", "10", "--classes", "7", "3", *classifiers_features),
            command("elsewhere", "fashion.safetensors", *SMALL, "--data-root", "nowhere"),
            command("uneven", *edm, "--images", "9", "--labels", "4,4,1", "--frechet-images", "0"),
            command(
                "maskdit",
                "maskdit.safetensors",
                *QUICK,
                "--images",
                "9",
                "--heun.guidance",
                "1.5",
                "--compute.precision",
                "bf16",
            ),
            command("latent", *latent),
            *(command(name, *arguments) for name, arguments in bad.items()),
        ],
        [
            *(command(f"lived-{n}", *SELECT, "--out", f"died-{n}", "--resume") for n in deaths),
            command("again", *edm, "--images", "40", "--out", "whole"),
            command("other", *edm, "--images", "40", "--out", "whole", "--resume", "--seed", "1"),
            command("same", *edm, "--images", "40", "--out", "whole", "--resume"),
        ],
    ]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, str(APPS), json.dumps(groups)],
        capture_output=True,
        text=True,
        cwd=work,
        env={**os.environ, **ENVIRONMENT},
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return {
        name: Done(status, (work / f"{name}.out").read_text(), (work / f"{name}.err").read_text())
        for name, status in json.loads(process.stdout.splitlines()[-1]).items()
    }


def result(folder):
    return json.loads((folder / "result.json").read_text())


def files(folder):
    """Every file of images with its bytes, and of scores with its content: its header has no fixed order."""
    scores = {path: {k: v.tolist() for k, v in read_tensors(path).items()} for path in folder.rglob("*.safetensors")}
    images = {path: path.read_bytes() for path in folder.rglob("*.npz")}
    return {str(path.relative_to(folder)): content for path, content in (images | scores).items()}


def test_a_run_leaves_the_images_in_dm_ats_layout_and_says_what_they_are(work, runs):
    done, made = runs["whole"], work / "whole"
    assert done.returncode == 0, done.stderr
    assert "40 images, 4 to 4 of each class" in done.stdout
    paths = sorted((made / "images").iterdir())
    assert [path.name for path in paths] == [f"digits-0000{n}-of-00003.npz" for n in range(3)]
    parts = [dict(np.load(path)) for path in paths]
    assert parts[0]["image"].shape == (16, 8, 8, 1)
    assert parts[0]["image"].dtype == np.uint8
    assert parts[0]["label"].dtype == np.int64
    denoiser, labels = rp_models.load(work / "edm.safetensors"), balanced_labels(40, 10)
    sampler = sampler_of(denoiser, heun=HeunSettings(steps=2))
    expected = sample_images(sampler, range(40), labels, seed=0, batch_size=8).permute(0, 2, 3, 1).numpy()
    pixels = np.concatenate([part["image"] for part in parts])
    # threads of this process may split a sum another way than the one thread of the run
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert np.array_equal(np.concatenate([part["label"] for part in parts]), labels.numpy())
    report = result(made)
    assert report["digest"]["images"] == hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest()
    assert report["classes"] == {str(n): 4 for n in range(10)}
    assert report["config"]["heun"]["steps"] == 2
    assert report["config"]["data"] == "digits"
    assert "torch" in report["environment"]["versions"]
    assert report["seconds"]["generate"] > 0
    assert (made / "figures" / "samples.png").exists()
    assert len(read_synthetic(paths[0], describe("digits"))) == 16


def test_the_quality_figure_names_its_network_and_stands_beside_that_of_real_images(work, runs):
    quality = result(work / "whole")["quality"]
    assert quality["network"] == "mae-digits"
    assert (quality["images"], quality["reference_images"], quality["held_out_images"]) == (40, 1297, 300)
    assert quality["frechet"] > 5 * quality["held_out"] > 0  # the model is untrained
    assert quality["same_number"] is None  # there are fewer than 300 images
    assert result(work / "two")["quality"]["network"] == "classifier.safetensors"
    assert result(work / "one-file")["quality"] is None


def test_images_are_made_where_the_real_ones_are_not_at_hand(work, runs):
    """The distance to them was not asked for; it is left out, and one sentence says why."""
    assert runs["elsewhere"].returncode == 0, runs["elsewhere"].stderr
    assert "no Fréchet distance to real images" in runs["elsewhere"].message
    assert result(work / "elsewhere")["quality"] is None


def test_a_finished_run_is_not_made_again_and_not_mixed_with_another(work, runs):
    assert runs["again"].returncode == 2
    assert "already holds a run" in runs["again"].message
    assert runs["other"].returncode == 2
    assert "seed: 0 there, 1 asked for" in runs["other"].message
    assert runs["same"].returncode == 0
    assert runs["same"].stdout == runs["whole"].stdout


def test_images_do_not_depend_on_how_they_are_cut_into_files(work, runs):
    assert len(list((work / "one-file" / "images").iterdir())) == 1
    assert result(work / "one-file")["digest"] == result(work / "whole")["digest"]


def test_selection_keeps_the_most_confident_of_each_class(work, runs):
    assert runs["chosen"].returncode == 0, runs["chosen"].stderr
    candidates = [dict(np.load(path)) for path in sorted((work / "kept" / "candidates").iterdir())]
    image, label = (np.concatenate([part[name] for part in candidates]) for name in ("image", "label"))
    scores = [read_tensors(path)["score"] for path in sorted((work / "kept" / "scores").iterdir())]
    score = torch.cat(scores).numpy()
    classifier = rp_models.load(work / "classifier.safetensors")
    with torch.no_grad():
        p = classifier(torch.from_numpy(image).permute(0, 3, 1, 2) / 255).softmax(dim=1).numpy()
    np.testing.assert_allclose(score, p[np.arange(40), label], rtol=1e-3)  # batch sizes differ
    kept = sorted(i for c in range(10) for i in sorted(np.flatnonzero(label == c), key=lambda i: -score[i])[:2])
    for name in ("kept", "chosen"):
        parts = [dict(np.load(path)) for path in sorted((work / name / "images").iterdir())]
        assert np.array_equal(np.concatenate([part["image"] for part in parts]), image[kept])
        assert np.array_equal(np.concatenate([part["label"] for part in parts]), label[kept])
        assert result(work / name)["confidence"]["mean_kept"] > result(work / name)["confidence"]["mean"]
    assert not (work / "chosen" / "candidates").exists()
    assert result(work / "chosen")["confidence"]["made"] == 40


def test_killed_at_any_file_and_resumed_the_bytes_are_the_same(work, runs):
    expected = files(work / "chosen")
    assert len(expected) == 2 + 3 + 1  # images, scores, selection
    for name in (name for name in runs if name.startswith("died")):
        assert runs[name].returncode == -9
        assert runs[name.replace("died", "lived")].returncode == 0, runs[name.replace("died", "lived")].stderr
        assert files(work / name) == expected
        assert not list((work / name).rglob(".*.npz"))


def test_two_processes_make_the_same_files_as_one_and_one_of_them_reports(work, runs):
    assert runs["ranks"].returncode == 0, runs["ranks"].stderr
    assert files(work / "ranks") == files(work / "chosen")
    assert runs["ranks"].stdout.splitlines()[:2] == runs["chosen"].stdout.splitlines()[:2]
    assert runs["ranks"].stdout.count("images,") == 1  # the other process prints nothing


def test_images_without_classes_have_no_label_or_the_classifiers(work, runs):
    assert "12 images, without labels" in runs["plain"].stdout
    assert np.load(next((work / "plain" / "images").iterdir()))["label"].tolist() == [-1] * 12
    part = dict(np.load(next((work / "pseudo" / "images").iterdir())))
    classifier = rp_models.load(work / "classifier.safetensors")
    with torch.no_grad():
        predicted = classifier(torch.from_numpy(part["image"]).permute(0, 3, 1, 2) / 255).argmax(dim=1)
    assert part["label"].tolist() == predicted.tolist()


def test_classes_and_labels_say_which_images_are_made(work, runs):
    assert np.load(next((work / "two" / "images").iterdir()))["label"].tolist() == [7, 3] * 5
    assert np.load(next((work / "uneven" / "images").iterdir()))["label"].tolist() == [4, 4, 1] * 3
    assert result(work / "uneven")["classes"] == {"1": 3, "4": 6}


def test_other_models_are_sampled_by_the_same_command(work, runs):
    assert runs["maskdit"].returncode == 0, runs["maskdit"].stderr
    assert result(work / "maskdit")["config"]["heun"]["guidance"] == 1.5
    assert runs["latent"].returncode == 0, runs["latent"].stderr
    part = np.load(work / "latent" / "images" / "images-00000-of-00001.npz")
    assert part["image"].shape == (5, 8, 8, 3)
    assert part["label"].tolist() == [0, 1, 2, 0, 1]
    assert result(work / "latent")["quality"] is None  # nobody said which real images to compare with


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad network", "mae-digits: expected an EDM model, a MaskDiT or a LightningDiT, got a MaskedAutoencoder"),
        ("bad size", "makes images (1, 16, 16) (c, h, w), not those of digits"),
        ("bad classes", "knows 100 classes, digits has 10"),
        ("bad class", "knows the classes 0..9, got 10"),
        ("bad unconditional", "knows no classes; leave out --classes and --labels"),
        ("bad guidance", "know no guidance"),
        ("bad latents", "latents of 4 channels; it needs its VAE"),
        ("bad vae", "expected an autoencoder, the checkpoint is a EDMPrecond"),
        ("bad judge", "has no forward_features to compare"),
        ("bad file", "no such checkpoint file"),
        ("bad default", "make it with pretrain.py edm, or name another checkpoint"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_no_folder(work, runs, name, message):
    assert runs[name].returncode == 2, runs[name].stderr
    assert message in runs[name].message
    assert "Traceback" not in runs[name].stderr
    assert not (work / name).exists()


def test_settings_are_checked_and_shown_without_torch(work):
    lines = [
        ["edm.safetensors", "--heun.S-churn", "40", "--flow.channels", "None"],
        ["e.safetensors", "--recipe", "imagenet64"],
        ["l.safetensors", "--recipe", "lightningdit-800ep", "--flow.points", "50"],
        ["--keep", "0.2"],
        ["--labels", "0,a"],
        ["--labels", "0,1", "--classes", "0"],
        ["--images", "0"],
        ["--data", "digitz"],
        ["--heun.steps", "1"],
    ]
    done = without_torch({str(n): ("generate", *line, "--dry-run") for n, line in enumerate(lines)}, work)
    shown = [each.stdout + each.stderr for each in done.values()]
    settings = json.loads(shown[0])
    assert settings["checkpoint"] == "edm.safetensors"
    assert settings["heun"]["S_churn"] == 40.0
    assert settings["flow"]["channels"] is None
    heun, flow = json.loads(shown[1])["heun"], json.loads(shown[2])["flow"]
    assert (heun["steps"], heun["S_churn"], heun["S_max"], heun["S_noise"]) == (256, 40.0, 50.0, 1.003)
    assert flow == {"points": 50, "shift": 0.3, "guidance": 6.7, "start": 0.125, "channels": 3}
    messages = (
        "name a checkpoint with --classifier",
        "class numbers with commas between them, got '0,a'",
        "not with both",
        "images must be at least 1, got 0",
        "did you mean digits",
        "heun.steps must be at least 2",
    )
    for text, message in zip(shown[3:], messages, strict=True):
        assert message in " ".join(text.replace("│", " ").split())
