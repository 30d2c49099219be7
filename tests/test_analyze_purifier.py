"""`analyze_purifier.py` as a user runs it, on tiny networks: numbers fit together, and the page holds everything."""

import json
import shutil

import pytest
import rp_models
import torch
from rp_models.training import seeded

from .running import ROOT, app, process
from .tiny_networks import tiny_classifier, tiny_maskdit

FIGURES = (
    *("amv-over-radius", "amv-of-layers", "amv-over-steps", "amv-of-robust", "theorem-3-1", "theorem-3-2"),
    *(f"{kind}-{model}" for kind in ("attention", "reconstructions") for model in ("mae", "rmae")),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a smoke run with a second autoencoder and a MaskDiT, and what it printed."""
    work = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny maskdit"):
        maskdit = tiny_maskdit()
        for parameter in maskdit.parameters():
            torch.nn.init.normal_(parameter, std=0.2)  # a new one does not look at the image: its gates are 0
        rp_models.save(tiny_classifier(), work / "classifier.safetensors")
    rp_models.save(maskdit, work / "maskdit.safetensors")
    rp_models.save(rp_models.load("mae-digits"), work / "rmae.safetensors")
    networks = (
        "--classifier",
        "classifier.safetensors",
        "--rmae",
        "rmae.safetensors",
        "--maskdit",
        "maskdit.safetensors",
    )
    done = process("analyze_purifier", "--recipe", "smoke", "--device", "cpu", *networks, cwd=work)
    return work / "runs" / "analyze_purifier" / "smoke", done.stdout


@pytest.fixture(scope="module")
def result(done):
    return json.loads((done[0] / "result.json").read_text())


def test_curves_begin_at_the_clean_images_and_go_on_from_the_attacked_ones(result):
    for model in ("MAE", "RMAE", "MaskDiT"):
        for kind in ("adversarial", "random signs"):
            first, _, last = result["over_radii"][model][kind]
            assert first["position"] == first["amv"] == 0
            assert first["loss"] == first["clean_loss"]
            assert last["position"] == 0.15
            assert last["amv"] == last["layers"][-1] > 0
            start = result["over_steps"][model][kind][0]
            # the same images under the same masks, whatever the axis; batches differ
            assert start["amv"] == pytest.approx(last["amv"], rel=1e-4)
            assert start["loss"] == pytest.approx(last["loss"], rel=1e-4)
        clean = result["over_steps"][model]["clean"]
        assert clean[0]["amv"] == 0
        assert [point["position"] for point in clean] == [0, 2, 3]  # every second step, and the last one
    assert result["over_radii"]["MAE"] == result["over_radii"]["RMAE"]  # the same weights


def test_correlations_and_theorems_are_reported_with_numbers(result):
    rows = {(row["model"], row["over"], row["images"]): row for row in result["rank_correlation"]}
    assert len(rows) == 3 * 4
    assert rows["MAE", "radius", "adversarial"]["AMV"] == pytest.approx(1)  # three radii, and AMV grows
    bounds = result["theorem_3_2"]
    assert {row["images"] for row in bounds} == {"random signs", "PGD-1", "PGD-2"}
    for row in bounds:
        assert (row["holds with constant 0 %"] == 100) or row["largest constant, 95% of images"] < 0
    for row in result["theorem_3_1"]:
        assert row["matrices"] == 2 * 2 * 4  # images, layers, heads
        assert 0.3 < row["first order / true"] < 3
    (mae, rmae) = result["attention_of_hidden_patch"]
    assert mae | {"model": "RMAE"} == rmae
    assert 0 < mae["moved, adversarial %"] < 100


def test_every_figure_lies_beside_its_numbers_and_on_the_page(done):
    folder, printed = done
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 1000
        assert json.loads((folder / "figures" / f"{name}.json").read_text())
    page = (folder / "index.html").read_text()
    assert page.count("data:image/svg+xml") == len(FIGURES)
    assert "http" not in page.replace("http://www.w3.org", "")
    for text in ("Theorem 3.1", "Theorem 3.2", "Nothing here is a robust accuracy"):
        assert text in page
    assert "MAE, adversarial, purified" in printed
    assert "AMV with loss" in printed


def test_bad_input_ends_in_one_sentence(tmp_path):
    shutil.copy(ROOT / "packages/rp-models/src/rp_models/weights/mae-digits.safetensors", tmp_path / "mae.safetensors")
    cases = {
        ("--radii", "0", "0.5", "2"): "name 1, the radius itself",
        ("--mae", ""): "needs a masked autoencoder",
        ("--eps", "8"): "divide by 255",
        ("--maskdit", "mae.safetensors", "--classifier", "mae.safetensors"): "expected a MaskDiT",
        ("--data", "cifar10"): "--classifier is missing: name the classifier's checkpoint",
    }
    for arguments, message in cases.items():
        assert message in app("analyze_purifier", *arguments, cwd=tmp_path, status=2).message
    assert [path.name for path in tmp_path.iterdir()] == ["mae.safetensors"]


def test_a_dry_run_prints_the_settings_and_leaves_nothing(tmp_path):
    done = app("analyze_purifier", "--dry-run", "--descent.steps", "7", cwd=tmp_path)
    assert json.loads(done.stdout)["descent"]["steps"] == 7
    assert not list(tmp_path.iterdir())
