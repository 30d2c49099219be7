"""What `evaluate.py` attacks, how hard, and on which images."""

from dataclasses import replace

import numpy as np
import pytest
import rp_models
import torch
from rp_experiments.compare_purifiers import ComparisonJob
from rp_experiments.evaluate import EvaluationJob
from rp_experiments.recipes import compare_purifiers as recipes
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.run import Run
from rp_models.data import load_images
from rp_models.training import RunFolder, seeded
from rp_purify import Defended, MAEPure
from rp_purify.settings import MAEPureSettings


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A folder with a classifier of random weights, and one that says it was trained on the file beside it."""
    folder = tmp_path_factory.mktemp("networks")
    with seeded(0, "tiny classifier"):
        model = rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4])
    rp_models.save(model, folder / "classifier.safetensors")
    rp_models.save(model, folder / "trained.safetensors", notes={"data": "somewhere/mine.npz"})
    test = load_images("digits", "test")
    np.savez(folder / "mine.npz", image=test.images[:20, 0].numpy(), label=np.arange(20) % 10)
    return folder


def attacked(networks, folder, *, model="classifier.safetensors", **settings):
    run = Run(folder=RunFolder(folder))
    return EvaluationJob(Evaluation(**{"images": 2, **settings}), str(networks / model), run)


def test_the_worst_case_of_a_purifier_is_the_one_of_the_comparison(networks, tmp_path) -> None:
    """The same attacks with the same settings, whichever app asks."""
    config = recipes.RECIPES["smoke"]()
    config = replace(config, classifier=str(networks / "classifier.safetensors"))
    budget = replace(config.budget.of_suite(), steps=7, queries=9)
    job = ComparisonJob(
        replace(config, budget=replace(config.budget, steps=7, queries=9)), Run(folder=RunFolder(tmp_path))
    )
    defence = Defended(MAEPure(rp_models.load("mae-digits"), steps=2), torch.nn.Flatten())
    expected = job.attacks("purifier", defence, one_shot=defence)
    options = {"suite": "purifier", "defended": True, "eps": config.budget.eps, "budget": budget}
    found = attacked(networks, tmp_path, purifier=MAEPureSettings(steps=2), **options).attacks
    assert list(found) == list(expected)
    assert {"apgd-ce", "apgd-dlr", "square", "keep-reconstruction", "one-shot", "transfer", "pgd-ste-tanh"} < set(found)
    for name in set(found) - {"one-shot", "transfer"}:  # these hold networks
        assert found[name] == expected[name], name


@pytest.mark.parametrize(
    ("settings", "split", "images"),
    [
        ({"images": None}, "all", 20),
        ({"images": None, "split": "test"}, "test", 2),
        ({"images": None, "model": "trained.safetensors"}, "test", 2),
        ({"images": None, "model": "trained.safetensors", "split": "all"}, "all", 20),
    ],
)
def test_a_file_without_splits_is_taken_whole_unless_the_model_was_trained_on_it(
    networks, tmp_path, capsys, settings, split, images
) -> None:
    found = attacked(networks, tmp_path, data=str(networks / "mine.npz"), eps=0.1, **settings)
    assert (found.split, len(found.x)) == (split, images)
    said = capsys.readouterr().err
    assert bool(said) == ("split" not in settings)
    assert images == 20 or "split" in settings or "was trained on" in said


def test_radii_are_checked_in_the_norm_of_the_suite(networks) -> None:
    for settings in ({"eps": 8.0}, {"norm": "l2", "eps": 100.0}, {"suite": "cw-eot", "eps": 8.1}):
        with pytest.raises(ValueError, match=r"is larger than any (linf|l2) distance of .*images in \[0, 1\]"):
            Evaluation(**settings)
    for settings in (
        {"eps": 1.0},
        {"norm": "l2", "eps": 8.0},
        {"suite": "cw-eot", "eps": 8.0},
        {"norm": "l1", "eps": 64.0},
    ):
        Evaluation(**settings)


def test_a_classifier_goes_by_its_file_or_by_its_factory() -> None:
    names = {
        "": "standard",
        "runs/a.b/net.safetensors": "net",
        "mine.py:build": "mine-build",
        "pkg.mod:make": "pkg-make",
    }
    assert {model: Evaluation(model=model).model_name for model in names} == names
