"""The MAE-Pure paper's settings at scale `paper`, and the purifiers that settings make."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import rp_models
import torch
from rp_dra.targets.build import fresh
from rp_models.data import describe
from rp_models.training import seeded
from rp_models.training.edm import build_edm
from rp_models.training.maskdit import build_maskdit
from rp_purify import preset

DATA = ("cifar10", "cifar100", "svhn", "imagenet")


@pytest.fixture
def apps(monkeypatch):
    """The modules of the apps."""
    import rp_experiments.recipes.paper_scale as paper
    import rp_experiments.recipes.purification as purification

    return SimpleNamespace(purification=purification, paper=paper)


@pytest.mark.parametrize("data", DATA)
def test_rows_are_the_tables_and_tuning_goes_through_the_steps(apps, data) -> None:
    comparison = apps.paper.paper_comparison(data)
    rows = comparison.rows
    for row, variant in (
        (rows.mae_pure, "mae"),
        (rows.rmae_pure, "rmae"),
        (rows.maskdit_pure, "maskdit"),
        (rows.rmaskdit_pure, "rmaskdit"),
    ):
        assert {name: getattr(row, name) for name in preset(data, variant)} == preset(data, variant)
    assert {"diffpure", "maskdit_pure", "rmaskdit_pure"} <= set(comparison.chosen)
    assert comparison.budget.step_size == pytest.approx(0.0035 if data == "imagenet" else 0.007)
    for tuning in (comparison.finetune_mae, comparison.finetune_maskdit):
        assert tuning.through == "steps"
        assert tuning.unrolled.steps * tuning.unrolled.step_size == pytest.approx(4 / 3 * comparison.budget.eps)
        assert tuning.unrolled.mask_rate == tuning.descent.mask_rate
    assert comparison.finetune_mae_once.through == comparison.finetune_maskdit_once.through == "one-shot"


@pytest.mark.parametrize("data", DATA)
def test_the_maskdit_takes_the_classifiers_images_and_no_labels(apps, data) -> None:
    recipe, info = apps.paper.paper_comparison(data).pretrain_maskdit, describe(data)
    assert recipe.data == data
    with torch.device("meta"):
        model = build_maskdit(recipe.maskdit)
    assert (model.image_size, model.in_channels, model.num_classes) == (info.image_size, info.channels, 0)
    assert model.tokens == (14 * 14 if data == "imagenet" else 8 * 8)  # patches of 16 and of 4, Table 13


def test_each_network_of_the_analysis_has_its_own_steps(apps) -> None:
    analysis = apps.paper.paper_purifier_analyses()["cifar10"]
    steps = {name: analysis.descent_of(name).steps for name in ("mae", "rmae", "maskdit", "rmaskdit")}
    assert steps == {"mae": 150, "rmae": 90, "maskdit": 25, "rmaskdit": 25}
    assert not analysis.descent_of("maskdit").halve
    with pytest.raises(ValueError, match="descents must name networks of mae, rmae, maskdit, rmaskdit, got MAE"):
        apps.paper.PurifierAnalysis(descents={"MAE": analysis.descent})


def test_the_noisy_encoder_has_the_architecture_of_the_given_network() -> None:
    from rp_experiments.recipes.dra import RECIPES
    from rp_models.data import load_images

    settings, images = RECIPES["digits"]().edm, load_images("digits", "validation")
    with seeded(0, "untrained target"):
        expected = build_edm(replace(settings, conditional=False), images)
    same = fresh(build_edm(settings, images), 0, label_dim=0)
    for (name, one), (other_name, other) in zip(expected.state_dict().items(), same.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    given = rp_models.build(
        "edm", img_resolution=8, img_channels=1, label_dim=10, model_type="SongUNet", model_channels=24, num_blocks=1
    )
    other = fresh(given, 0, label_dim=0)
    assert other.label_dim == 0
    assert other.recipe.arguments["model_channels"] == 24
