"""Recipes as tables: values, inheritance, and what cannot be in one."""

from dataclasses import dataclass, field, replace

import pytest
from rp_experiments.recipes.compare_purifiers import RECIPES as COMPARISONS
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.finetuning import RECIPES as FINETUNING
from rp_experiments.recipes.pretrain_settings import EDM_RECIPES, MASKDIT_RECIPES
from rp_experiments.recipes.probe import RECIPES as STUDIES
from rp_experiments.recipes.table import changed


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    images: int | None = 5
    arguments: dict[str, int] = field(default_factory=lambda: {"depth": 1, "width": 2})
    inner: Inner = field(default_factory=Inner)


def test_inner_settings_change_value_by_value_and_mappings_as_a_whole():
    new = changed(Outer(), {"images": None, "arguments": {"depth": 3}, "inner": {"sizes": (4,)}})
    assert new == Outer(None, {"depth": 3}, Inner(0.5, (4,)))
    assert Outer() == Outer(5, {"depth": 1, "width": 2}, Inner(0.5, (1, 2)))


@pytest.mark.parametrize("changes", [{"image": 3}, {"inner": {"rates": 1.0}}])
def test_a_setting_that_does_not_exist_is_refused(changes):
    with pytest.raises(TypeError, match=r"image|rates"):
        changed(Outer(), changes)


def test_a_recipe_takes_its_base_and_changes_it():
    small, large = RECIPES["fashion-mnist"](), RECIPES["fashion-mnist-gpu"]()
    assert (small.train_images, large.train_images, small.threads, large.threads) == (8_192, None, 1, None)
    assert large.edm == small.edm
    assert large.training.eps == small.training.eps == 0.1
    assert RECIPES["imagenet-convnext-b"]().training.eps == 4 / 255
    assert RECIPES["cifar100-vit-b2-1m"]().training.warmup == 5 / 500


def test_one_diffusion_model_of_the_digits():
    assert EDM_RECIPES["digits"]().edm == RECIPES["digits"]().edm


def test_inner_settings_start_from_a_recipe_of_their_own():
    comparison, tuned = COMPARISONS["fashion-mnist"](), FINETUNING["fashion-mnist"]()
    network = MASKDIT_RECIPES["fashion-mnist"]()
    assert comparison.pretrain_maskdit == replace(network, maskdit=replace(network.maskdit, num_classes=0))
    roles = {role: role for role in ("mae", "maskdit", "classifier")}
    assert comparison.finetune_mae_once == replace(tuned, **roles)
    assert STUDIES["smoke"]().models == RECIPES["smoke"]()
