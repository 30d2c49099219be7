"""Pilots of fine-tuning values: what is tried, what is taken, and that the whole training takes it."""

import json
from dataclasses import replace

import pytest
from rp_experiments.compare_purifiers import ComparisonJob
from rp_experiments.papers.pilot import pilot, settled
from rp_experiments.papers.settings import Pilot
from rp_experiments.recipes.compare_purifiers import RECIPES
from rp_experiments.run import Run
from rp_models.training import RunFolder


def test_the_most_robust_values_are_taken(tmp_path, monkeypatch) -> None:
    worst = {"rmae_pure_0": 0.4, "rmae_pure_1": 0.6, "rmae_pure_2": 0.6}
    clean = {"rmae_pure_0": 0.9, "rmae_pure_1": 0.7, "rmae_pure_2": 0.8}
    seen = []

    def attempt(job, row, changes):
        seen.append((job.config.images, job.config.chosen, row))
        return {"settings": changes, "accuracy": {"clean": clean[row], "worst": worst[row]}}

    monkeypatch.setattr(ComparisonJob, "attempt", attempt)
    tried = ({"mu": 0.0}, {"mu": 1.0}, {"mu": 1.0, "noise_std": 0.01})
    config = Pilot(comparison=replace(RECIPES["smoke"](), images=8), network="rmae", tried=tried)
    pilot(config, Run(folder=RunFolder(tmp_path)))
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["chosen"] == {"mu": 1.0, "noise_std": 0.01}  # of two equal ones the better without attack
    assert found["setting"]["split"] == "validation"
    assert [row["mu"] for row in found["rows"]] == [0.0, 1.0, 1.0]
    assert seen[0] == (8, config.rows, "rmae_pure_0")


def test_each_value_has_a_short_training_of_its_own() -> None:
    comparison = RECIPES["smoke"]()
    config = Pilot(
        comparison=comparison, network="rmaskdit", tried=({"mu": 0.0}, {"mu": 2.0}), train_images=32, steps=7
    )
    for number, row in enumerate(config.rows):
        network = config.trial.purifier(row).model
        assert config.trial.networks[network] == {
            "of": "finetune_maskdit", "train_images": 32, "finetune": {"steps": 7, "mu": 2.0 * number},
        }  # fmt: skip
    assert replace(config.trial.purifier(row), model="rmaskdit") == comparison.rows.rmaskdit_pure
    with pytest.raises(ValueError, match="a pilot needs values to try"):
        Pilot(comparison=comparison, network="rmae", tried=())


def test_what_a_pilot_chose_is_what_every_job_of_the_comparison_takes(tmp_path) -> None:
    comparison, folder = RECIPES["smoke"](), RunFolder(tmp_path)
    folder.write_json("result.json", {"finetuning": {"finetune_mae": {"mu": 0.25}}})
    new = settled(comparison, tmp_path)
    assert new.finetune_mae == replace(
        comparison.finetune_mae, finetune=replace(comparison.finetune_mae.finetune, mu=0.25)
    )
    assert replace(new, finetune_mae=comparison.finetune_mae) == comparison
    folder.write_json("result.json", {"finetuning": {}})
    assert settled(comparison, tmp_path) == comparison
