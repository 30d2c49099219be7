"""`probe.py` as a user runs it."""

import json

import pytest
import rp_models

from .running import app, process

JUDGED = ("--autoattack", "--models.evaluation.attacks", "apgd-ce")
JUDGED += ("--noisy-probe.head", "attention", "--noisy-probe.heads", 4, "--noisy-probe.epochs", 1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole study of the smallest recipe."""
    cwd = tmp_path_factory.mktemp("study")
    done = process("probe", "--recipe", "smoke", "--device", "cpu", *JUDGED, cwd=cwd)
    return cwd, cwd / "runs" / "probe" / "smoke", done


def test_a_study_leaves_result_figure_and_encoders(finished):
    _, folder, done = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["setting"]["images"] == 12
    names = ["diffusion probe", "standard", "at", "noisy encoder", "fine-tuned encoder"]
    assert list(result["curves"]) == names
    for curve in result["curves"].values():
        assert curve["eps"] == [0.0, result["config"]["models"]["evaluation"]["eps"]]
        for low, accuracy, high in zip(curve["low"], curve["accuracy"], curve["high"], strict=True):
            assert low <= accuracy <= high
    assert [row["sigma"] for row in result["noise levels"]] == [0.1, 0.5]
    assert list(result["autoattack"]) == ["standard", "at", "fine-tuned encoder"]
    for found in result["autoattack"].values():
        assert found["autoattack"]["estimate"] <= found["clean"]["estimate"]
    (row,) = result["fresh noise"]
    assert row["sigma"] == 0.3
    for attack in ("clean", "noise", "without_eot", "with_eot", "fixed_noise"):
        assert 0 <= row[attack]["low"] <= row[attack]["estimate"] <= row[attack]["high"] <= 1
    assert (folder / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("noisy-encoder", "fine-tuned-encoder"):
        assert not rp_models.load(folder / "checkpoints" / f"{name}.safetensors").training
    assert not list((folder / "checkpoints").glob("*.state.safetensors"))
    for name in names:
        assert any(line.startswith(name) for line in done.stdout.splitlines())


def test_a_finished_study_repeats_its_tables_and_another_one_does_not_take_its_folder(finished):
    cwd, _, done = finished
    assert app("probe", "--recipe", "smoke", "--device", "cpu", *JUDGED, "--resume", cwd=cwd).stdout == done.stdout
    other = app("probe", "--recipe", "smoke", "--resume", "--passes", 3, cwd=cwd, status=2)
    assert "another configuration" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--radii", 0.5, 1.0), "radii must increase from 0"),
        (("--noisy-sigmas", -1.0), "noisy_sigmas must be positive"),
        (("--passes", 0), "passes must be at least 1"),
        (("--models.edm", "nowhere.safetensors"), "no such checkpoint file"),
        (("--models.alignment.layer", "before_up"), "lie behind the encoder; take bottleneck"),
    ],
)
def test_bad_options_end_in_one_sentence(arguments, message, tmp_path):
    assert message in app("probe", "--recipe", "smoke", *arguments, cwd=tmp_path, status=2).stderr


def test_a_dry_run_prints_the_settings_and_does_nothing(tmp_path):
    settings = json.loads(app("probe", "--dry-run", cwd=tmp_path).stdout)
    assert settings["models"]["data"] == "digits"
    assert settings["baselines"] == ["standard", "at"]
    assert not list(tmp_path.iterdir())
