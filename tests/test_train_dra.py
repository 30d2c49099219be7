"""`train_dra.py` as a user runs it: whole, stopped, killed, on two processes, and with wrong settings."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
import torch
from rp_experiments.convert import to_robustbench
from rp_models.checkpoint import read_tensors
from rp_models.importers import read_robust

from .running import ENVIRONMENT, app, command, process, two_processes, without_torch

METHODS = ("standard", "dm-at", "dm-at+dra")
SMOKE = ("--recipe", "smoke", "--device", "cpu")
QUICK = ("--evaluation.attacks", "apgd-ce", "--evaluation.images", 4)  # where the evaluation is not the point


def train(*arguments, cwd, status=0):
    """Run it in this process, evaluations too."""
    return app("train_dra", *SMOKE, "--workers", 0, *arguments, cwd=cwd, status=status)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run of the smallest recipe."""
    folder = tmp_path_factory.mktemp("run")
    done = process("train_dra", *SMOKE, cwd=folder)
    return folder, folder / "runs" / "train_dra" / "smoke", done


def weights(folder, method):
    return read_tensors(folder / "checkpoints" / f"{method}.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_leaves_everything_that_was_promised(finished):
    _, folder, done = finished
    for name in ("config.json", "environment.json", "metrics.jsonl", "result.json", "synthetic.npz", "stages.json"):
        assert (folder / name).stat().st_size > 0
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "edm.safetensors",
        *(f"{method}.safetensors" for method in METHODS),
    }
    for figure in ("training", "comparison"):
        assert (folder / "figures" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures" / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    for method in METHODS:
        assert any(line.startswith(method + " ") for line in done.stdout.splitlines())
    for method in METHODS:
        images = read_tensors(folder / "results" / f"{method}.safetensors")
        assert images.keys() == {"index", "clean", "autoattack"}
        assert not bool((images["autoattack"] & ~images["clean"]).any())
    stages = {json.loads(line)["stage"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"edm", *METHODS}


def test_the_result_counts_and_is_possible(finished):
    result = json.loads((finished[1] / "result.json").read_text())
    assert result["setting"]["images"] == 12
    assert result["setting"]["eps"] == result["config"]["evaluation"]["eps"]
    for row in result["methods"].values():
        clean, robust = row["clean"], row["autoattack"]
        assert robust["right"] <= clean["right"] <= clean["of"] == robust["of"] == 12
        for value in (clean, robust):
            assert value["estimate"] == value["right"] / value["of"]
            assert value["low"] <= value["estimate"] <= value["high"]
    assert {"edm", "synthetic", *METHODS} <= result["seconds"].keys()
    assert result["environment"]["versions"]["torch"]


def test_the_classifiers_are_exported_for_robustbench_by_the_run_and_by_the_converter(finished, tmp_path, capsys):
    folder = finished[1]
    to_robustbench(folder / "checkpoints" / "dm-at.safetensors", tmp_path / "dm-at.pt")
    assert "depth: 10" in capsys.readouterr().out
    files = [
        read_robust(path, mean=[0.3], std=[0.3]).state
        for path in (tmp_path / "dm-at.pt", folder / "robustbench" / "dm-at.pt")
    ]
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    for method in METHODS:
        own = weights(folder, method)
        found = read_robust(folder / "robustbench" / f"{method}.pt", mean=[0.3056], std=[0.3764])
        assert found.architecture == "dm-wide-resnet"
        assert found.state.keys() == own.keys()
        assert all(torch.equal(found.state[key], own[key]) for key in own)


def test_a_finished_run_is_not_overwritten_and_resuming_it_only_prints(finished):
    cwd, folder, done = finished
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    refused = train(cwd=cwd, status=2)
    assert "already holds a run; go on with --resume" in refused.stderr
    again = train("--resume", cwd=cwd)
    assert again.stdout == done.stdout
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == before


@pytest.mark.slow
def test_two_processes_make_the_same_run_and_go_on_with_it(finished, tmp_path):
    cwd, folder, _ = finished
    arguments = (*SMOKE, "--method", "dm-at+dra", "--cache", cwd / "runs" / "cache", "--evaluation.batch-size", 2)
    outputs = [
        two_processes("train_dra", *arguments, *QUICK, *more, cwd=tmp_path).stdout for more in ((), ("--resume",))
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count("AutoAttack %") == 1  # the first process prints
    together = tmp_path / "runs" / "train_dra" / "smoke"
    one, two = (weights(path, "dm-at+dra") for path in (folder, together))
    for key, value in one.items():
        # sums over images are rounded in another order, and a sign step may flip where a gradient is near zero
        torch.testing.assert_close(two[key], value, atol=2e-3, rtol=2e-3)
    steps = [json.loads(line)["step"] for line in (together / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert len(list((together / "evaluation").glob("*/clean/*.npz"))) == 2  # a block of images for each process


def test_a_run_of_another_configuration_is_refused(finished):
    refused = train("--resume", "--seed", 5, cwd=finished[0], status=2)
    assert "seed: 0 there, 5 asked for" in refused.stderr


def test_the_cached_diffusion_model_gives_the_same_run(finished, tmp_path):
    cwd, folder, _ = finished
    arguments = ("--out", tmp_path / "b", "--method", "dm-at", *QUICK)
    done = train(*arguments, "--cache", cwd / "runs" / "cache", cwd=tmp_path)
    assert "edm:" not in done.stderr
    assert "synthetic:" not in done.stderr
    assert same(weights(folder, "dm-at"), weights(tmp_path / "b", "dm-at"))


@pytest.mark.parametrize("stage", [pytest.param("edm", marks=pytest.mark.slow), "dm-at+dra"])
def test_a_run_killed_in_any_stage_ends_with_the_same_weights(finished, tmp_path, stage):
    """Killed with SIGKILL soon after a stage's first line appears, then resumed."""
    folder, cache = tmp_path / "killed", tmp_path / "cache"
    if stage != "edm":
        cache = finished[0] / "runs" / "cache"
    arguments = ("--out", folder, "--cache", cache, "--method", "dm-at", "dm-at+dra", *QUICK)
    run = subprocess.Popen(
        command("train_dra", *SMOKE, *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, **ENVIRONMENT},
    )
    metrics = folder / "metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and run.poll() is None:
        if metrics.exists() and f'"stage": "{stage}"' in metrics.read_text():
            break
        time.sleep(0.01)
    workers = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not psutil.wait_procs(workers, timeout=120)[1], "workers outlive their parent"
    train(*arguments, "--resume", cwd=tmp_path)
    assert all(same(weights(finished[1], method), weights(folder, method)) for method in METHODS[1:])
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert len({(record["stage"], record["step"]) for record in steps}) == len(steps)


def test_asking_does_not_import_torch(tmp_path):
    done = without_torch({option: ("train_dra", option) for option in ("--help", "--dry-run")}, tmp_path)
    assert [each.returncode for each in done.values()] == [0, 0]
    assert not list(tmp_path.iterdir())


def test_the_dry_run_resolves_the_configuration(tmp_path):
    done = app("train_dra", "--dry-run", "--training.epochs", 7, "--method", "at", cwd=tmp_path)
    config = json.loads(done.stdout)
    assert config["training"]["epochs"] == 7
    assert config["method"] == ["at"]
    assert config["alignment"]["weight"] == 1.2
    assert config["alignment"]["sigma"] == [0.1]


def test_help_explains_every_setting(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "COLUMNS", "100")  # the options in one column
    lines = [line.strip("│ ") for line in app("train_dra", "--help", cwd=tmp_path).stdout.splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith("--")]
    assert len(starts) > 30
    for start, end in itertools.pairwise([*starts, len(lines)]):
        rest = " ".join(lines[start:end])
        explained = rest.split("(default")[0]
        words = [word for word in explained.split() if word.islower() and word.isalpha()]
        assert len(words) >= 2, f"no explanation: {rest}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "digts"], "invalid choice 'digts'"),
        (["--bogus", "3"], "Unrecognized options: --bogus"),
        (["--training.eps", "8"], "in units of [0, 1] pixels"),
        (["--training.epochs", "many"], "--training.epochs"),
        (["--method", "dm-att"], "invalid choice 'dm-att'"),
        (["--data", "digit"], "did you mean digits"),
        (["--edm.channel-mult", "1", "1", "1", "1", "1"], "cannot be halved 4 times"),
        (["--synthetic.images", "0"], "the dm-at methods need synthetic images"),
        (["--alignment.images", "both", "--training.objective", "pgd-at"], "pgd-at makes no pass of natural images"),
        (["--alignment.consistency", "1", "--training.objective", "adr"], "adr makes no pass of natural images"),
        (["--alignment.sigma", "0.1", "0.1"], "alignment.sigma names a value twice"),
        (["--alignment.target", "sit"], "alignment.target=sit needs alignment.checkpoint"),
    ],
)
def test_bad_settings_end_in_one_sentence(arguments, message, tmp_path):
    assert message in app("train_dra", *arguments, cwd=tmp_path, status=2).message
    assert not list(tmp_path.iterdir())


LATENT = ("--alignment.checkpoint", "dit", "--alignment.autoencoder", "vae", "--alignment.latent-statistics", "latents")
NETWORK = ("--alignment.network.network", "vit-b2-32", "--alignment.network.depth", 2)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--sigma", 0.05, 0.1, "--layer", "bottleneck", "before_up"), {"sigma": [0.05, 0.1]}),
        (("--loss", "tokens", "--positions", "layer.1", "--target-positions", "layer.0"), {"positions": "layer.1"}),
        *((("--loss", loss), {"loss": loss}) for loss in ("similarity", "distance", "cka")),
        (("--consistency", 0.5, "--weight", 0), {"consistency": 0.5, "weight": 0.0}),
        (("--images", "both"), {"images": "both"}),
        (("--final-weight", 0.2, "--weight-schedule", "linear", "--stop", 0.5), {"final_weight": 0.2, "stop": 0.5}),
        (("--shuffle", "class", "--random-level", "yes", "--shared-head"), {"shuffle": "class", "shared_head": True}),
        (("--target", "untrained-edm", "--label", "null"), {"target": "untrained-edm", "label": "null"}),
        (("--target", "untrained-network", *NETWORK), {"target": "untrained-network"}),
        (("--target", "encoder", "--noise", 0.1, "--precision", "bf16"), {"noise": 0.1, "precision": "bf16"}),
        (
            ("--target", "lightningdit", *LATENT, "--modulated-by", "same", "--zero-at", "after_norm", "--blocks", 2),
            {"modulated_by": "same", "zero_at": "after_norm", "blocks": [2]},
        ),
        (
            ("--target", "sit", *LATENT, "--noise-in", "pixels", "--latent", "sample", "--time", 0.5, 0.8),
            {"noise_in": "pixels", "latent": "sample", "time": [0.5, 0.8]},
        ),
    ],
)
def test_every_option_of_the_alignment_is_set_by_name(words, expected, tmp_path):
    named = [word if "." in str(word) else str(word).replace("--", "--alignment.") for word in words]
    found = json.loads(app("train_dra", "--recipe", "smoke", *named, "--dry-run", cwd=tmp_path).stdout)["alignment"]
    assert expected.items() <= found.items()


def test_a_term_of_the_alignment_is_no_part_of_methods_without_it(tmp_path):
    from rp_dra.settings import AlignmentSettings
    from rp_experiments.recipes.dra import RECIPES
    from rp_experiments.run import Run
    from rp_experiments.train_dra import TrainDraJob
    from rp_models.training import RunFolder

    config = replace(RECIPES["smoke"](), alignment=AlignmentSettings(weight=0, consistency=1.2))
    job = TrainDraJob(config, Run(folder=RunFolder(tmp_path / "run")))
    weights = [job.trainer(method, None, None).alignment.consistency for method in ("at", "at+dra")]
    assert weights == [0, 1.2]


def test_bad_surroundings_end_in_one_sentence(finished, tmp_path):
    missing = train("--out", tmp_path / "c", "--edm", "edm-of-mine", cwd=tmp_path, status=2)
    assert "edm-of-mine: no such checkpoint file" in missing.stderr
    assert not (tmp_path / "c").exists()
    device = app("train_dra", "--recipe", "smoke", "--device", "tpu9", "--out", tmp_path / "a", cwd=tmp_path, status=2)
    assert "no device 'tpu9'" in device.stderr
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work")
    assert "holds no run" in train("--out", tmp_path / "b", cwd=tmp_path, status=2).stderr
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]


def test_a_truncated_checkpoint_is_named(finished, tmp_path):

    folder = tmp_path / "copy"
    shutil.copytree(finished[1], folder)
    broken = folder / "checkpoints" / "dm-at.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    (folder / "results" / "dm-at.json").unlink()
    # told by the process that evaluates beside the training
    done = app("train_dra", *SMOKE, "--workers", 1, "--out", folder, "--resume", cwd=tmp_path, status=2)
    assert "dm-at.safetensors: not a complete safetensors file" in done.stderr
    assert broken.stat().st_size == 1000


def test_radii_and_workers_that_make_no_sense_are_refused_before_any_work(tmp_path):
    """An L2 radius of 128 is larger than any distance of 8x8 images; a number of processes below 0 starts none."""
    for words, message in (
        (("--training.norm", "l2", "--training.eps", 128), "training.eps 128 is larger than any l2 distance of 1x8x8"),
        (("--evaluation.norm", "l2", "--evaluation.eps", 100), "evaluation.eps 100 is larger than any l2 distance"),
        (("--evaluation.eps", 8), "evaluation.eps 8 is larger than any linf distance"),
        (("--workers", -1), "--workers must be at least 0, got -1"),
        (("--processes", 0), "--processes must be at least 1, got 0"),
    ):
        done = app("train_dra", *SMOKE, *words, cwd=tmp_path, status=2)
        assert message in done.message, words
    assert not list(tmp_path.iterdir())
