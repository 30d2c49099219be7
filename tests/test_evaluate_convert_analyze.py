"""`evaluate.py`, `convert.py` and `analyze.py` as a user runs them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "packages" / "rp-models" / "tests" / "golden"


def app(name, *arguments, cwd, status=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, str(ROOT / "apps" / f"{name}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    assert status == 0 or "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A checkpoint of a linear classifier's quality: the wide ResNet after a few standard steps."""
    import rp_models
    from rp_dra import ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of
    from rp_models.data import load_images

    recipe = TrainingSettings(epochs=6, batch_size=128, crop_padding=1, flip=False)
    trainer = ClassifierTrainer(
        ClassifierSettings(depth=10, width=1, bn_momentum=0.1),
        recipe,
        load_images("digits", "train"),
        objective=objective_of(recipe, robust=False),
        seed=0,
    )
    for step in range(60):
        trainer.step(step)
    path = tmp_path_factory.mktemp("model") / "standard.safetensors"
    rp_models.save(trainer.model, path)
    return path


def test_an_evaluation_leaves_report_images_and_figure_and_resumes(classifier, tmp_path):
    arguments = ("--model", classifier, "--images", 24, "--suite", "quick", "--eps", 0.1, "--out", tmp_path / "e")
    done = app("evaluate", *arguments, cwd=tmp_path)
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    rows = {row["name"]: row["per_query"]["estimate"] for row in result["table"] if "per_query" in row}
    assert rows["WORST CASE"] <= min(rows["clean"], rows["pgd20-ce"])
    assert rows["clean"] > 0.5
    assert "WORST CASE" in done.stdout
    assert (tmp_path / "e" / "figures" / "accuracy_over_eps.png").exists()
    assert list((tmp_path / "e" / "evaluation").rglob("block-*.npz"))
    assert app("evaluate", *arguments, "--resume", cwd=tmp_path).stdout == done.stdout
    assert "already holds a run" in app("evaluate", *arguments, cwd=tmp_path, status=2).stderr


def test_a_purified_classifier_is_attacked_with_every_backward_rule(classifier, tmp_path):
    settings = ("--defended", "--purifier.steps", 2, "--images", 4, "--passes", 10, "--probes", 0, "--eps", 0.1)
    done = app("evaluate", "--model", classifier, *settings, "--out", tmp_path / "e", cwd=tmp_path)
    for rule in ("identity", "ste-tanh", "normalised"):
        assert f"pgd20-cw-{rule}" in done.stdout
    assert "all of 10" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is missing"),
        (["--model", "nowhere.safetensors"], "no such checkpoint file"),
        (["--model", "mae-digits", "--suite", "purifier"], "put one in front with --defended"),
        (["--model", "mae-digits"], "does not take the images of digits"),
        (["--model", "x", "--suite", "autoatack"], "invalid choice 'autoatack'"),
        (["--model", "x", "--eps", "-1"], "eps must not be negative"),
    ],
)
def test_bad_input_to_an_evaluation_ends_in_one_sentence(arguments, message, tmp_path):
    text = app("evaluate", *arguments, cwd=tmp_path, status=2).stderr
    assert message in " ".join(text.replace("│", " ").split())


def test_an_official_file_becomes_a_checkpoint_with_the_same_outputs(tmp_path):
    import rp_models
    from rp_models.importers import read_nvlabs

    source = GOLDEN / "edm_network_fixture.pkl"
    done = app("convert", "nvlabs", source, tmp_path / "edm.safetensors", cwd=tmp_path)
    assert "261,075 parameters" in done.stdout
    ours, theirs = rp_models.load(tmp_path / "edm.safetensors"), read_nvlabs(source).build()
    x, sigma = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0])
    assert torch.equal(ours(x, sigma), theirs(x, sigma))
    again = app("convert", "nvlabs", source, tmp_path / "edm.safetensors", cwd=tmp_path, status=2)
    assert "exists" in again.stderr


def test_layout_true_files_of_other_kinds_convert_too(tmp_path):
    import rp_models

    mae = rp_models.build("mae", image_size=32, patch_size=8, width=64, depth=2, heads=4, decoder_width=32)
    torch.save({"model": mae.state_dict()}, tmp_path / "mae.pth")
    options = ("--option", "heads=4", "--option", "decoder_heads=16", "--option", "mean=null", "--option", "std=null")
    app("convert", "mae", tmp_path / "mae.pth", tmp_path / "mae.safetensors", *options, cwd=tmp_path)
    back = rp_models.load(tmp_path / "mae.safetensors")
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in mae.state_dict().items())
    wrn = rp_models.build("wrn-28-10-swish", depth=10, width=1)
    state = {f"module.0.{key}": value for key, value in wrn.state_dict().items()}
    torch.save({"model_state_dict": state, "unaveraged_model_state_dict": state}, tmp_path / "weights-best.pt")
    app("convert", "robust", tmp_path / "weights-best.pt", tmp_path / "wrn.safetensors", cwd=tmp_path)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(rp_models.load(tmp_path / "wrn.safetensors")(x), wrn.eval()(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nvlabs", "none.pkl", "t.safetensors"], "no such file"),
        (["edm", "none.pkl", "t.safetensors"], "invalid choice 'edm'"),
        (["mae", GOLDEN / "edm_network_fixture.pkl", "t.safetensors"], "fixture.pkl"),
        (["nvlabs", GOLDEN / "edm_network_fixture.pkl", "t.safetensors", "--option", "a=1"], "has no option 'a'"),
        (["nvlabs", GOLDEN / "edm_network_fixture.pkl", "t.safetensors", "--option", "a"], "NAME=VALUE"),
    ],
)
def test_bad_input_to_the_converter_ends_in_one_sentence(arguments, message, tmp_path):
    text = app("convert", *arguments, cwd=tmp_path, status=2).stderr
    assert message in " ".join(text.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_the_analysis_of_a_run_is_one_page(tmp_path):
    app("train_dra", "--recipe", "smoke", "--device", "cpu", "--method", "dm-at", "dm-at+dra", cwd=tmp_path)
    run = tmp_path / "runs" / "train_dra" / "smoke"
    small = ("--images", 40, "--sae-epochs", 2, "--sae-seeds", 0, "--sae-k", 4, "--permutations", 9, "--neighbours", 3)
    app("analyze", "--run", run, *small, "--attack-steps", 2, "--radii", 0, 1, cwd=tmp_path)
    folder = tmp_path / "runs" / "analyze" / "smoke"
    page = (folder / "index.html").read_text()
    for heading in ("Similarity", "Alignment and uniformity", "Frequency", "Classification dimension", "Sparse"):
        assert heading in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing from outside
    rows = json.loads((folder / "tables" / "similarity.json").read_text())
    assert [row["method"] for row in rows] == ["dm-at", "dm-at+dra"]
    shutil.rmtree(run)
    refused = app("analyze", "--run", run, cwd=tmp_path, status=2)
    assert "no finished run" in refused.stderr
