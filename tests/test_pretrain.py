"""`pretrain.py` as a user runs it: every kind, own data, a full disk, two processes; its recipes and model cards."""

import json
import resource
import sys
import typing
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import rp_models
import torch
from rp_models.checkpoint import read_header, read_tensors
from rp_models.data import describe, load_images
from rp_models.training.edm import build_edm
from rp_models.training.mae import build_mae
from rp_models.training.maskdit import build_maskdit
from rp_models.training.standard import build_standard, standard_held_out

from .running import APPS, ROOT, app, process, two_processes

sys.path.insert(0, str(APPS))

from pretrain import KINDS
from rp_experiments.recipes.pretrain_settings import (
    CLASSIFIER_RECIPES,
    EDM_RECIPES,
    MAE_RECIPES,
    MASKDIT_RECIPES,
    NIM_RECIPES,
)
from rp_models.model_card import model_card


@contextmanager
def full_disk():
    """No file can grow beyond 50 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def outcome(*words, cwd):
    """What a command line did; "FULL" in front of it lets the disk be full."""
    if words[0] == "FULL":
        with full_disk():
            return outcome(*words[1:], cwd=cwd)
    return app(*words, cwd=cwd, status=None)


def smoke(kind, out, *more):
    return ("pretrain", kind, "--recipe", "smoke", "--device", "cpu", "--out", out, *more)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with an `.npz` data set of 60 images of 12 x 12 pixels in three classes."""
    folder, draw = tmp_path_factory.mktemp("work"), np.random.default_rng(0)
    image, label = draw.integers(0, 256, (60, 12, 12, 3), dtype=np.uint8), np.arange(60) % 3
    np.savez(folder / "own.npz", image=image, label=label)
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """What each command line did."""
    own = ("--data", "own.npz", "--standard.batch-size", "8")
    commands = {
        "maskdit": smoke("maskdit", "maskdit", "--half"),
        "classifier": smoke("classifier", "classifier", "--tensorboard"),
        "classifier again": smoke("classifier", "classifier", "--resume"),
        "own mae": smoke("mae", "own-mae", "--data", "own.npz", "--mae.batch-size", "8"),
        "own mae of its size": smoke(
            *("mae", "own-mae", "--data", "own.npz", "--mae.batch-size", "8"),
            *("--mae.sizes", "image_size", "12", "in_channels", "3"),
        ),
        "full": ("FULL", *smoke("classifier", "full")),
        "not full any more": smoke("classifier", "full", "--resume"),
        "not a number": smoke("classifier", "nan", "--standard.lr", "1e30"),
        "network": smoke("classifier", "bad", "--standard.network", "mae-digits"),
    }
    done = {name: outcome(*words, cwd=work) for name, words in commands.items()}
    done["own"] = process(*smoke("classifier", "own", *own), cwd=work, status=None)
    return done


def test_a_maskdit_leaves_samples_and_reconstructions(runs, work):
    assert runs["maskdit"].returncode == 0, runs["maskdit"].stderr
    result = json.loads((work / "maskdit" / "result.json").read_text())
    assert 0 < result["validation_denoising_loss"] < result["validation_loss"]
    figures = {path.stem for path in (work / "maskdit" / "figures").glob("*.png")}
    assert figures == {"samples", "reconstructions", "loss"}
    tiles = json.loads((work / "maskdit" / "figures" / "reconstructions.json").read_text())
    assert list(dict.fromkeys(tile["row"] for tile in tiles)) == ["original", "noisy", "masked", "reconstruction"]
    weights = read_tensors(work / "maskdit" / "checkpoints" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_a_classifier_keeps_its_last_and_its_best_weights_with_their_figures(runs, work):
    assert runs["classifier"].returncode == 0, runs["classifier"].stderr
    folder = work / "classifier"
    result, validation = json.loads((folder / "result.json").read_text()), load_images("digits", "validation")
    for name, said in (("model", result), ("best", result["best"])):
        loss, accuracy = standard_held_out(rp_models.load(folder / "checkpoints" / f"{name}.safetensors"), validation)
        assert said["validation_loss"] == pytest.approx(loss, abs=1e-5)  # stored with five decimals
        assert said["validation_accuracy"] == pytest.approx(accuracy, abs=1e-5)
    judged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation_loss"] for line in judged if "validation_loss" in line}
    assert losses.keys() == {2, 4}
    assert result["best"]["steps"] == min(losses, key=losses.__getitem__)
    assert list((folder / "tensorboard").glob("events*"))
    assert runs["classifier again"].stdout == runs["classifier"].stdout


def test_a_card_says_where_weights_come_from_and_how_good_they_are(runs, work):
    card, result = (
        (work / "maskdit" / "card.md").read_text(),
        json.loads((work / "maskdit" / "result.json").read_text()),
    )
    assert card.startswith('# maskdit\n\n`rp_models.load("maskdit")`')
    for part in (
        *("`maskdit-digits`, 417,540 parameters, stored in float16", "digits, training split (1,297 images)"),
        *("licence: CC BY 4.0", "4 steps of 16 images, mask rate 0.5", "seed 0", result["device"]),
        *(f"loss {result['validation_loss']:.5g}", "on 200 images of the validation split", "torch 2."),
    ):
        assert part in card
    old = {key: result[key] for key in ("validation_loss", "validation_images", "parameters", "seconds", "config")}
    assert "licence: CC BY 4.0" in model_card({**old, "environment": result["environment"]}, name="x")
    with pytest.raises(ValueError, match=r"expected the result\.json of pretrain\.py"):
        model_card({"config": {}}, name="x")


def test_data_of_one_s_own_are_named_by_their_path(runs, work):
    assert runs["own"].returncode == 0, runs["own"].stderr
    model = rp_models.load(work / "own" / "checkpoints" / "model.safetensors")
    assert model(torch.rand(2, 3, 12, 12)).shape == (2, 3)
    assert runs["own mae"].returncode == 2
    assert "mae.network 'mae-digits' does not suit own.npz" in runs["own mae"].stderr
    assert runs["own mae of its size"].returncode == 0, runs["own mae of its size"].stderr


def test_a_full_disk_is_one_sentence_and_the_run_goes_on(runs, work):
    full = runs["full"]
    assert full.returncode == 2
    message = full.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "could not be written" in message
    assert "File too large" in message
    assert message.endswith("free some space, and go on with --resume")
    assert "Traceback" not in full.stderr
    assert runs["not full any more"].returncode == 0
    first, second = (read_tensors(work / run / "checkpoints" / "model.safetensors") for run in ("classifier", "full"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_that_is_no_number_keeps_its_batch(runs, work):
    assert runs["not a number"].returncode == 2
    assert "lower the learning rate" in runs["not a number"].stderr
    (kept,) = (work / "nan" / "failed").iterdir()
    assert str(kept.relative_to(work)) in runs["not a number"].stderr
    assert read_tensors(kept)["x"].shape == (16, 1, 8, 8)


def test_a_network_that_is_no_classifier_is_refused_before_anything_is_written(runs, work):
    assert runs["network"].returncode == 2
    assert "standard.network 'mae-digits' does not suit digits" in runs["network"].stderr
    assert not (work / "bad").exists()


@pytest.mark.slow
def test_two_processes_leave_the_weights_of_one(runs, work):
    done = two_processes(*smoke("classifier", "two"), cwd=work)
    assert done.stderr.count("run folder: two") == 1
    assert done.stdout.count("checkpoint: ") == 1
    one, two = (read_tensors(work / run / "checkpoints" / "model.safetensors") for run in ("classifier", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4)  # sums over images in another order
    assert json.loads((work / "two" / "result.json").read_text())["processes"] == 2
    one, two = (read_header(work / run / "checkpoints" / "best.safetensors").notes for run in ("classifier", "two"))
    assert one["steps"] == two["steps"]


def test_the_command_line_offers_exactly_the_recipes_there_are():
    for kind, (options, recipes) in KINDS.items():
        (offered,) = typing.get_type_hints(options, include_extras=True)["recipe"].__metadata__
        assert offered.choices == tuple(recipes), kind


RECIPES = [
    pytest.param(kind, recipe, id=f"{kind}-{name}")
    for kind, recipes in (
        *(("mae", MAE_RECIPES), ("edm", EDM_RECIPES), ("maskdit", MASKDIT_RECIPES)),
        *(("classifier", CLASSIFIER_RECIPES), ("nim", NIM_RECIPES)),
    )
    for name, recipe in recipes.items()
]


@pytest.mark.parametrize(("kind", "recipe"), RECIPES)
def test_every_recipe_s_network_can_be_built_and_suits_its_data(kind, recipe):
    config = recipe()
    images = SimpleNamespace(info=describe(config.data))
    size, channels = images.info.image_size, images.info.channels
    with torch.device("meta"):
        if kind in ("mae", "nim"):
            model = build_mae(config.mae)
            assert model.tokens * model.patch_size**2 == size**2
            assert model.patch_embed.proj.in_channels == channels
        elif kind == "edm":
            model = build_edm(config.edm, images)
            assert (model.img_resolution, model.img_channels) == (size, channels)
            assert model.label_dim == (images.info.num_classes if config.edm.conditional else 0)
        elif kind == "maskdit":
            model = build_maskdit(config.maskdit)
            assert (model.image_size, model.in_channels) == (size, channels)
            assert model.num_classes in (0, images.info.num_classes)
        else:
            model = build_standard(config.standard, images)
            assert model.normalize.mean.numel() == channels
    # position tables come from numpy
    assert all(parameter.is_meta for name, parameter in model.named_parameters() if "pos_embed" not in name)


def test_the_published_trainings_are_as_long_as_the_papers_say():
    mae = MAE_RECIPES["cifar10"]().mae
    epoch = -(-48_976 // 64)
    assert (mae.steps, mae.second_steps, mae.lr, mae.second_lr) == (3000 * epoch, 1000 * epoch, 1e-3, 1.5e-4)
    edm = EDM_RECIPES["cifar10"]().edm
    assert edm.steps * edm.batch_size == pytest.approx(200e6, rel=1e-5)
    large = MAE_RECIPES["imagenet"]().mae
    assert large.lr == pytest.approx(2.4e-3)
    assert large.steps / large.warmup_steps == 20


def test_every_shipped_model_has_its_card_and_together_they_are_small():
    files = sorted((ROOT / "weights").glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 30e6
    for file in files:
        card = file.with_suffix(".md").read_text()
        notes = read_header(file).notes
        assert card.startswith(f"# {file.stem}\n")
        assert f"{notes['validation_loss']:.5g}" in card
        assert rp_models.load(file.stem)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mae-fashion-mnist", MAE_RECIPES["fashion-mnist"]().mae),
        ("edm-fashion-mnist", EDM_RECIPES["fashion-mnist"]().edm),
        ("maskdit-fashion-mnist", MASKDIT_RECIPES["fashion-mnist"]().maskdit),
        ("maskdit-digits", MASKDIT_RECIPES["digits"]().maskdit),
        ("edm-digits-unconditional", EDM_RECIPES["digits-unconditional"]().edm),
    ],
)
def test_a_shipped_model_is_what_its_recipe_makes(name, settings):
    notes = read_header(ROOT / "weights" / f"{name}.safetensors").notes
    assert {key: notes[key] for key in ("steps", "batch_size", "lr", "seed")} == {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "seed": 0,
    }
