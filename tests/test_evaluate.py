"""`evaluate.py` as a user runs it."""

import json
import re

import pytest

from .running import app, process, two_processes


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
    done = process("evaluate", *arguments, cwd=tmp_path)
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    rows = {row["name"]: row["per_query"]["estimate"] for row in result["table"] if "per_query" in row}
    assert rows["WORST CASE"] <= min(rows["clean"], rows["pgd20-ce"])
    assert rows["clean"] > 0.5
    assert "WORST CASE" in done.stdout
    assert (tmp_path / "e" / "figures" / "accuracy_over_eps.png").exists()
    assert list((tmp_path / "e" / "evaluation").rglob("block-*.npz"))
    assert app("evaluate", *arguments, "--resume", cwd=tmp_path).stdout == done.stdout
    assert "already holds a run" in app("evaluate", *arguments, cwd=tmp_path, status=2).stderr


def test_without_a_model_the_standard_classifier_is_trained_once(tmp_path, monkeypatch):
    from rp_experiments.recipes import standard_classifier
    from rp_experiments.recipes.pretrain_settings import CLASSIFIER_RECIPES

    monkeypatch.setitem(standard_classifier.STANDARD, "digits", CLASSIFIER_RECIPES["smoke"])
    few = ("--images", 4, "--suite", "quick", "--device", "cpu", "--cache", "cache")
    done = app("evaluate", *few, cwd=tmp_path)
    assert "no classifier is named: taking the standard one for digits" in done.stderr
    folder = tmp_path / "runs" / "evaluate" / "standard-quick"
    assert json.loads((folder / "result.json").read_text())["model"] == "standard"
    (product,) = (tmp_path / "cache").glob("classifier-digits-*/checkpoints/model.safetensors")
    written = product.stat().st_mtime_ns
    assert app("evaluate", *few, "--resume", cwd=tmp_path).stdout == done.stdout
    assert product.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("norm", "eps"),
    [("l2", 0.5), pytest.param("linf", 0.1, marks=pytest.mark.slow)],  # for Linf also Square and the figure
)
def test_a_purified_classifier_is_attacked_with_every_backward_rule(classifier, tmp_path, norm, eps):
    few = ("--purifier.steps", 1, "--images", 2, "--passes", 3, "--probes", 0)
    arguments = ("--model", classifier, "--defended", *few, "--norm", norm, "--eps", eps, "--out", tmp_path / "e")
    done = app("evaluate", *arguments, cwd=tmp_path)
    for rule in ("identity", "ste-tanh", "normalised"):
        assert f"pgd10-cw-{rule}" in done.stdout
    assert "all of 3" in done.stdout
    points = json.loads((tmp_path / "e" / "result.json").read_text())["convergence"]
    assert [point["passes"] for point in points] == [1, 2, 5, 10]
    assert points == json.loads((tmp_path / "e" / "results" / "convergence.json").read_text())
    assert (tmp_path / "e" / "figures" / "eot_convergence.png").exists()


def attacked_behind_a_purifier(classifier, folder):
    """Arguments of an evaluation in two blocks that takes seconds."""
    few = ("--images", 4, "--block-size", 2, "--passes", 2, "--probes", 2, "--purifier.steps", 1)
    return ("--model", classifier, "--defended", *few, "--norm", "l2", "--eps", 0.5, "--out", folder)


def without_times(folder):
    result = json.loads((folder / "result.json").read_text())
    result["cost"].pop("seconds")
    return {key: value for key, value in result.items() if key not in ("environment", "seconds")}


def untimed(text):
    return re.sub(r"[0-9]+ s of attacks", "some s of attacks", text)


def test_processes_share_an_evaluation_and_change_no_number(classifier, tmp_path):
    alone = app("evaluate", *attacked_behind_a_purifier(classifier, tmp_path / "one"), "--processes", 1, cwd=tmp_path)
    two = process("evaluate", *attacked_behind_a_purifier(classifier, tmp_path / "two"), "--processes", 2, cwd=tmp_path)
    assert without_times(tmp_path / "one") == without_times(tmp_path / "two")
    assert untimed(two.stdout) == untimed(alone.stdout.replace("one/", "two/"))
    assert "findings: 100%" in two.stderr


@pytest.mark.slow  # some seconds for each process
def test_processes_of_torchrun_share_an_evaluation(classifier, tmp_path):
    app("evaluate", *attacked_behind_a_purifier(classifier, tmp_path / "one"), "--processes", 1, cwd=tmp_path)
    done = two_processes("evaluate", *attacked_behind_a_purifier(classifier, tmp_path / "two"), cwd=tmp_path)
    assert without_times(tmp_path / "one") == without_times(tmp_path / "two")
    assert done.stdout.count("WORST CASE") == 1


@pytest.mark.slow  # trains a classifier
def test_torchrun_with_an_empty_cache_makes_the_standard_classifier_first(tmp_path):
    few = ("--images", 4, "--block-size", 2, "--passes", 2, "--probes", 0, "--purifier.steps", 1)
    done = two_processes("evaluate", "--defended", *few, "--device", "cpu", cwd=tmp_path)
    assert done.stderr.count("no classifier is named: taking the standard one for digits") == 1
    assert done.stdout.count("WORST CASE") == 1
    assert len(list((tmp_path / "runs" / "cache").glob("classifier-digits-*"))) == 1


def test_another_s_network_is_attacked_by_the_name_of_its_factory(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def build():\n"
        "    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
        "    with torch.no_grad():\n"
        "        net[1].weight.copy_(torch.linspace(-1, 1, 640).reshape(10, 64).sin())\n"
        "    return net.eval()\n"
    )
    few = ("--images", 4, "--probes", 0, "--device", "cpu")
    done = app("evaluate", "--model", "mine.py:build", *few, cwd=tmp_path)
    assert "4 images of digits, split test, mine-build, purifier none, suite quick" in done.stdout
    assert (tmp_path / "runs" / "evaluate" / "mine-build-quick" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "budget"),
    [
        ((), (512, None, 32, 128, 100)),
        (("--defended",), (50, 10, 16, 25, 10)),
        (("--defended", "--images", "None", "--passes", "20"), (None, 20, 16, 25, 10)),
        (("--defended", "--suite", "purifier"), (512, None, 32, 128, 100)),
        (("--defended", "--purifier.kind", "none", "--block-size", "64", "--probes", "0"), (512, None, 0, 64, 100)),
    ],
)
def test_a_first_look_behind_a_purifier_does_with_less(arguments, budget, tmp_path):
    settings = json.loads(app("evaluate", *arguments, "--dry-run", cwd=tmp_path).stdout)
    assert tuple(settings[name] for name in ("images", "passes", "probes", "block_size", "convergence")) == budget


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cifar10"], "--model is missing: name the classifier's checkpoint; pretrain.py classifier"),
        (["--defended", "--purifier.kind", "noise", "--purifier.eta", "0.1"], "noise does not use purifier.eta"),
        (["--model", "nowhere.safetensors"], "no such checkpoint file"),
        (["--model", "mae-digits", "--suite", "purifier"], "put one in front with --defended"),
        (["--model", "mae-digits"], "does not take the images of digits"),
        (["--model", "x", "--suite", "autoatack"], "invalid choice 'autoatack'"),
        (["--model", "x", "--eps", "-1"], "eps must not be negative"),
        (["--model", "x", "--eps", "8"], "--eps 8 is larger than any linf distance of images in [0, 1], 1"),
        (["--model", "x", "--norm", "l2", "--eps", "100"], "--eps 100 is larger than any l2 distance of 1x8x8 images"),
        (["--model", "x", "--images", "0"], "images must be at least 1, got 0"),
        (["--model", "x", "--block-size", "0"], "block_size must be at least 1, got 0"),
        (["--model", "mae-digits", "--processes", "0"], "--processes must be at least 1, got 0"),
    ],
)
def test_bad_input_to_an_evaluation_ends_in_one_sentence(arguments, message, tmp_path):
    assert message in app("evaluate", *arguments, cwd=tmp_path, status=2).message


def test_a_file_of_torch_save_is_refused_with_the_way_to_read_it(tmp_path):
    import torch

    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "convert.py" in app("evaluate", "--model", "weights.pt", cwd=tmp_path, status=2).message
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_certified_behind_noise_resumed_and_in_two_processes(classifier, tmp_path):
    noise = ("--defended", "--purifier.kind", "noise", "--purifier.std", 0.1)
    words = ("--model", classifier, *noise, "--suite", "certified", "--images", 6, "--certificate.n", 200)
    done = app("evaluate", *words, "--processes", 1, "--out", tmp_path / "one", cwd=tmp_path)
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert "certificates in L2 of the vote of 200 passes" in done.stdout
    assert len(result["images"]) == 6
    accuracy = [point["certified"]["estimate"] for point in result["curve"]]
    assert accuracy == sorted(accuracy, reverse=True)
    assert max(image["radius"] for image in result["images"]) <= 0.1 * 1.83  # where all of 200 draws agree
    assert (tmp_path / "one" / "figures" / "certified_accuracy.png").exists()
    (tmp_path / "one" / "certificates" / "00003.json").unlink()
    app("evaluate", *words, "--processes", 1, "--out", tmp_path / "one", "--resume", cwd=tmp_path)
    process("evaluate", *words, "--processes", 2, "--out", tmp_path / "two", cwd=tmp_path)
    for run in ("one", "two"):
        assert json.loads((tmp_path / run / "result.json").read_text())["images"] == result["images"]
    refused = app("evaluate", "--model", classifier, "--suite", "certified", cwd=tmp_path, status=2)
    assert "needs Gaussian noise before the classifier" in refused.message


def test_beyond_lp_balls_patch_flow_and_shifted_sets_in_one_report(tmp_path):
    import numpy as np
    import rp_models

    rng = np.random.default_rng(0)
    folder = tmp_path / "data" / "CIFAR-10-C"
    folder.mkdir(parents=True)
    for part in ("fog", "snow"):
        np.save(folder / f"{part}.npy", rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", rng.integers(0, 10, 20))
    clean = tmp_path / "data" / "cifar-10-batches-bin"
    clean.mkdir()
    records = np.concatenate([rng.integers(0, 10, (4, 1)), rng.integers(0, 256, (4, 3072))], axis=1)
    records.astype(np.uint8).tofile(clean / "test_batch.bin")
    records.astype(np.uint8).tofile(clean / "data_batch_1.bin")
    network = rp_models.build("wrn-28-10-swish", depth=10, width=1)
    rp_models.save(network, tmp_path / "model.safetensors")
    few = ("--data", "cifar10", "--images", 4, "--data-root", tmp_path / "data", "--probes", 0, "--device", "cpu")
    words = ("--model", tmp_path / "model.safetensors", "--suite", "beyond-lp", *few, "--out", tmp_path / "run")
    done = app("evaluate", *words, cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(result["shifts"]) == {f"cifar10-c/{part}/{level}" for part in ("fog", "snow") for level in range(1, 6)}
    mean = sum(one["estimate"] for one in result["shifts"].values()) / 10
    assert abs(result["means"]["cifar10-c"]["estimate"] - mean) < 1e-12
    assert set(result["threats"]) == {"patch", "stadv"}
    assert {row["ball"].split()[0] for row in result["balls"]["table"] if row["ball"]} == {"linf", "l2", "l1", "all"}
    for said in ("cifar10-c", "mean of 10 sets", "patch", "all three, worst case"):
        assert said in done.stdout
    refused = app("evaluate", *words, "--shifts", "imagenet-c", cwd=tmp_path, status=2)
    assert "imagenet-c does not shift cifar10" in refused.message
