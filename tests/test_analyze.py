"""`analyze.py` as a user runs it, on a small run of `train_dra.py`."""

import json
import shutil
from functools import partial

import torch
from rp_experiments.analyze import AnalysisJob
from rp_experiments.recipes.analysis import Analysis
from rp_experiments.run import Run
from rp_models.data import load_images, subset
from rp_models.training import RunFolder, seeded

from .running import app, process
from .tiny_networks import tiny_classifier


def test_the_analysis_of_a_run_is_one_page(tmp_path):
    weak = ("--workers", 0, "--evaluation.attacks", "apgd-ce")  # the training's own evaluation is not the point
    weak += ("--alignment.sigma", 0.1, 0.3)  # features of two noise levels side by side
    app("train_dra", "--recipe", "smoke", "--device", "cpu", "--method", "dm-at", "dm-at+dra", *weak, cwd=tmp_path)
    run = tmp_path / "runs" / "train_dra" / "smoke"
    small = ("--images", 40, "--sae-epochs", 2, "--sae-seeds", 0, "--sae-k", 4, "--permutations", 9, "--neighbours", 3)
    process("analyze", "--run", run, *small, "--attack-steps", 2, "--radii", 0, 1, cwd=tmp_path)
    folder = tmp_path / "runs" / "analyze" / "smoke"
    page = (folder / "index.html").read_text()
    for heading in ("Similarity", "Alignment and uniformity", "Frequency", "Classification dimension", "Sparse"):
        assert heading in page
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing from outside
    rows = json.loads((folder / "tables" / "similarity.json").read_text())
    assert [row["method"] for row in rows] == ["dm-at", "dm-at+dra"]
    sparse = ("--sections", "sparse", "--out", "sparse", "--sae-batch", 256)
    app("analyze", "--run", run, *small, *sparse, cwd=tmp_path)
    alone = json.loads((tmp_path / "sparse" / "tables" / "sae.json").read_text())
    assert alone == json.loads((folder / "tables" / "sae.json").read_text())
    assert not (tmp_path / "sparse" / "tables" / "similarity.json").exists()
    job = AnalysisJob(Analysis(run=str(run), images=20), Run(folder=RunFolder(tmp_path / "other")))
    assert [part.sigma for part in job.target.targets] == [0.1, 0.3]
    shutil.rmtree(run)
    refused = app("analyze", "--run", run, cwd=tmp_path, status=2)
    assert "no finished run" in refused.stderr


def test_images_come_in_batches_that_change_no_number(monkeypatch):
    import rp_experiments.analyze as analyze

    with seeded(0, "tiny classifier"):
        model = tiny_classifier().eval()
    job = object.__new__(analyze.AnalysisJob)
    job.norm = "linf"
    job.config, job.eps, job.device = Analysis(attack_steps=2), 0.1, torch.device("cpu")
    job.test = subset(load_images("digits", "test"), 100)
    assert [len(rows) for rows, _, _ in job._batches(job.test)] == [100]
    whole = job.each(partial(job._adversarial_features, model))
    monkeypatch.setattr(analyze, "VALUES", 1)  # the fewest at a time are 64
    assert [len(rows) for rows, _, _ in job._batches(job.test)] == [64, 36]
    parts = job.each(partial(job._adversarial_features, model))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)  # batches of other sizes round differently
