"""What the parts of a comparison of purifiers do to its numbers."""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import rp_models
import torch
from rp_attacks.record import Record
from rp_experiments import purifier_networks
from rp_experiments.compare_purifiers import ComparisonJob, _worse, operations
from rp_experiments.recipes import compare_purifiers as recipes
from rp_experiments.recipes import published
from rp_experiments.reports import compare_figures, compare_report
from rp_experiments.run import Run
from rp_models.checkpoint import CheckpointError
from rp_models.training import RunFolder, seeded
from rp_purify import Defended, GaussianNoise, LikelihoodMaximisation, MAEPure, NoPurification


def tiny_classifier():
    return rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4])


def comparison(folder, **budget):
    """A comparison with this budget."""
    config = recipes.RECIPES["smoke"]()
    return ComparisonJob(replace(config, budget=replace(config.budget, **budget)), Run(folder=RunFolder(folder)))


def test_each_purifier_meets_every_rule_that_it_offers(tmp_path) -> None:
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    job = comparison(tmp_path, steps=20, eot=3, curved_steps=10, curved_eot=2)
    eps = job.config.budget.eps

    def against(purifier, job=job, **sources):
        return job.attacks("purifier", Defended(purifier, classifier), **sources)

    bare = against(NoPurification())
    assert list(bare) == ["pgd-exact", "apgd-ce", "apgd-dlr", "square"]
    assert bare["pgd-exact"].eot == bare["apgd-ce"].eot == bare["square"].passes == 1
    noisy = against(GaussianNoise(0.1))
    assert list(noisy) == ["transfer", "bpda", "pgd-exact", "apgd-ce", "apgd-dlr", "diffhammer", "square", "pgd-cw"]
    assert noisy["transfer"].source is classifier
    assert noisy["bpda"].grad == "identity"
    assert noisy["apgd-dlr"].eot == 3
    source = Defended(GaussianNoise(0.1), classifier)
    purifier = MAEPure(rp_models.load("mae-digits"), steps=2)
    descent = against(purifier, one_shot=source)
    assert set(descent) == {*noisy, "one-shot", "pgd-ste-tanh", "pgd-normalised", "keep-reconstruction"}
    assert descent["one-shot"].source is source
    assert descent["one-shot"].attack.grad == "exact"
    assert (descent["pgd-ste-tanh"].steps, descent["pgd-ste-tanh"].eot) == (10, 2)
    assert descent["pgd-ste-tanh"].step_size == 2.5 * eps / 10
    assert descent["keep-reconstruction"].reconstruction_weight > 0
    assert {"pgd-exact", "pgd-one-shot"} <= set(against(LikelihoodMaximisation(torch.nn.Identity())))
    sized = comparison(tmp_path, step_size=0.007)
    assert against(GaussianNoise(0.1), sized)["bpda"].step_size == 0.007
    assert against(purifier, sized)["pgd-normalised"].step_size == 0.007
    balls = {(attack.norm, attack.eps) for attack in descent.values()}
    assert balls == {("linf", eps)}  # one ball, else there would be no one worst case


def test_an_iterative_purifier_is_attacked_from_the_one_pass_form_of_its_own_network(tmp_path) -> None:
    job = comparison(tmp_path)
    config = job.config
    built = []
    job.defence = built.append
    for row in (config.rows.rmaskdit_pure, config.rows.likelihood, config.rows.rmae_pure):
        assert list(job.shorter(row)) == ["one_shot"]
    assert [(choice.kind, getattr(choice, "model", "") or choice.mae) for choice in built] == [
        ("denoise", "rmaskdit"),
        ("denoise", "edm"),
        ("mae-reconstruction", "rmae"),
    ]
    assert job.shorter(config.rows.noise) == {}
    built.clear()
    assert list(job.shorter(replace(config.rows.diffpure, reverse_steps=9))) == ["surrogate"]
    assert built[0].reverse_steps == config.budget.surrogate_steps


def record(right, wrong, margin):
    right = np.asarray(right, dtype=bool)
    count = len(right)
    return Record(
        right=right,
        wrong=np.asarray(wrong, dtype=np.float32),
        margin=np.asarray(margin, dtype=np.float32),
        distance=np.zeros(count, dtype=np.float32),
        tried=np.ones(count, dtype=bool),
        **dict.fromkeys(("forward", "backward", "source", "judged", "seconds"), np.zeros(count, dtype=np.float32)),
        **dict.fromkeys(("stuck", "fooled", "blind"), np.zeros(count, dtype=bool)),
    )


def test_autoattack_rand_takes_the_worse_of_its_two_parts_by_the_selecting_passes() -> None:
    ce = record([[1, 1], [0, 0], [1, 0]], [0.0, 1.0, 0.5], [-1, 1, 0])
    dlr = record([[0, 1], [1, 1], [1, 1]], [0.5, 0.0, 0.5], [-1, -1, 1])
    both = _worse(ce, dlr)
    assert both.right.tolist() == [[False, True], [False, False], [True, True]]  # the last by the margin alone


def row(worst):
    cell = {"estimate": float(np.mean(worst)), "low": 0.0, "high": 1.0}
    cells = {
        name: {"per_query": cell, "majority": cell} for name in ("clean", "transfer", "pgd-exact", "square", "worst")
    }
    per_image = {"clean": [1.0] * len(worst), "linf 38.2/255": {"worst": list(worst)}}
    return {"cells": cells, "per_image": per_image, "findings": [], "purifier": {"kind": "none"}}


def test_claims_say_whether_the_paper_s_order_is_reached() -> None:
    high, low, middle = [1.0] * 30, [0.0] * 30, [0.0, 1.0] * 15
    found = compare_report.claims(
        {"mae_pure": row(low), "rmae_pure": row(high), "maskdit_pure": row(middle), "rmaskdit_pure": row(low)}
    )
    assert "+100.0 [+100.0, +100.0] points, as in the paper (there +4.6" in found["rmae_pure>mae_pure"]["text"]
    assert "the other way round" in found["rmaskdit_pure>rmae_pure"]["text"]
    assert found["maskdit_pure>mae_pure"]["difference"]["estimate"] == 0.5
    assert not any("diffpure" in key for key in found)
    found = compare_report.claims({"maskdit_pure": row(high), "diffpure": row(middle)})
    assert "MaskDiT-Pure against DiffPure" in found["maskdit_pure>diffpure"]["text"]
    assert "as in the paper (there +8.4, Table 1)" in found["maskdit_pure>diffpure"]["text"]
    same = compare_report.claims({"mae_pure": row(middle), "rmae_pure": row(middle)})
    assert "not told apart" in same["rmae_pure>mae_pure"]["text"]


def test_every_row_s_network_is_known_and_the_page_names_it_with_what_a_row_is() -> None:
    config = recipes.RECIPES["digits"]()
    roles = {getattr(config.purifier(name), key, None) for name in config.known for key in ("mae", "model")} - {None}
    assert roles == set(recipes.NETWORKS) - {"classifier"}
    assert config.pretrain_dmae.noise_std == 0.25
    tuning = config.finetune_atop
    assert (tuning.attack.on, tuning.attack.start, tuning.attack.steps) == ("classifier", "clean", 1)
    assert (tuning.attack.step_size, tuning.finetune.class_weight, tuning.finetune.mu) == (config.budget.eps, 0.05, 1)
    of_purifier = (config.rows.atop.mask_rate, config.rows.atop.noise_std, config.rows.atop.keep_visible)
    assert of_purifier == (tuning.one_shot_mask_rate, tuning.one_shot_noise_std, tuning.one_shot_keep_visible)
    setting = {"data": "digits", "images": 8, "eps": 8 / 255, "seed": 0, "budget": asdict(recipes.Budget())}
    rows = {"atop": row([0.5] * 8) | {"purifier": asdict(config.rows.atop)}}
    page = compare_report.markdown({"setting": setting, "rows": rows}, figure="x.png")
    assert "- AToP with an MAE: network atop, mask_rate 0.25, noise_std 0.25, keep_visible True" in page
    assert f"- AToP with an MAE: {recipes.NOTES['atop']}.\n" in page
    assert f"- atop: {recipes.NETWORKS['atop']}.\n" in page
    assert "- edm:" not in page


def test_a_refused_number_is_not_shown() -> None:
    result = {"rows": {"none": row([0.5] * 8)}}
    assert "REFUSED" not in compare_report.table(result)
    result["rows"]["none"]["findings"] = [{"level": "refused", "check": "x", "text": "broken"}]
    assert compare_report.table(result).count("REFUSED") == 2


def test_the_page_is_markdown_in_which_nothing_is_escaped() -> None:
    budget = {key: value for key, value in asdict(recipes.Budget()).items() if key != "step_size"}  # as older runs
    setting = {"data": "digits", "images": 8, "eps": 8 / 255, "seed": 0, "budget": budget}
    finding = {"level": "alarm", "check": "x", "text": "loss < 1 & flat"}
    result = {"setting": setting, "rows": {"none": row([0.5] * 8) | {"findings": [finding]}}, "claims": {}}
    page = compare_report.markdown(result, figure="figures/x.png").splitlines()
    assert "- no purifier: loss < 1 & flat" in page
    assert "- no purifier: as it is" in page
    assert any(line.startswith("PGD: 200 steps, gradients averaged over 20 passes") for line in page)
    assert any("Linf eps 0.03137, seed 0" in line for line in page)


def test_the_paper_s_figures_are_its_tables() -> None:
    figures = {column.key: column.figures for column in published.PURIFIERS}
    assert figures["pgd"] == {
        **{"diffpure": 42.20, "mae_pure": 40.53, "maskdit_pure": 50.57},
        **{"rmae_pure": 45.15, "rmaskdit_pure": 62.13},
    }
    assert figures["bpda"]["mae_pure"] == 78.89
    assert figures["autoattack"]["rmaskdit_pure"] == 75.83
    assert figures["square"]["none"] == 19.15
    rows = {field.name for field in fields(recipes.Rows)}
    assert rows == set(recipes.TITLES)
    assert {name for column in published.PURIFIERS for name in column.figures} <= rows
    for better, worse in published.CLAIMS:
        assert figures["pgd"][better] > figures["pgd"][worse]


def test_a_network_lies_under_a_hash_of_what_it_was_made_from(tmp_path, monkeypatch) -> None:
    config = replace(recipes.RECIPES["smoke"](), classifier=str(tmp_path / "c.safetensors"))
    made = []

    class Job:
        def __init__(self, config, run):
            self.folder = run.path.name

        def finetuned(self):
            made.append(self.folder)

    def networks(config):
        return purifier_networks.PurifierNetworks(config, Run(folder=RunFolder(tmp_path), cache=tmp_path / "cache"))

    monkeypatch.setattr(purifier_networks, "job_of", Job)
    for seed in (0, 0, 1):
        with seeded(seed, "another classifier"):
            rp_models.save(tiny_classifier(), tmp_path / "c.safetensors")
        networks(config).path("rmae")
    assert made[0] == made[1] != made[2]  # the same name, another file
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        networks(replace(config, classifier="gone.safetensors")).path("rmae")


def test_variants_change_a_row_and_networks_the_training_of_another(tmp_path, monkeypatch) -> None:
    config = recipes.RECIPES["digits-gain"]()
    assert config.purifier("eta_none") == replace(config.rows.mae_pure, eta=None)
    assert config.purifier("paper_settings").mask_rate == 0.25
    assert config.purifier("random_steps").kind == "random-steps"
    assert set(config.chosen) == {"none", "mae_pure", "rmae_pure", *config.variants}
    roles = {config.purifier(row).mae for row in config.chosen if hasattr(config.purifier(row), "mae")}
    assert roles == {"mae", "rmae", *config.networks}
    seen = []
    monkeypatch.setattr(
        purifier_networks, "pretrained", lambda kind, settings, run: seen.append((kind, settings)) or "made"
    )
    networks = purifier_networks.PurifierNetworks(config, Run(folder=RunFolder(tmp_path)))
    assert networks.path("mae_seed_1") == "made"
    assert seen == [("mae", replace(config.pretrain_mae, seed=1))]
    with pytest.raises(ValueError, match="got nothing"):
        replace(config, compared=("nothing",))


def test_every_row_is_compared_with_the_chosen_ones_and_the_fast_and_robust_are_joined() -> None:
    high, low = [1.0] * 30, [0.0] * 30
    found = compare_report.differences(
        {"mae_pure": row(low), "adbm": row(high), "rmae_pure": row(high)}, ("mae-pure", "rmae_pure", "noise")
    )
    assert set(found) == {"mae_pure>adbm", "mae_pure>rmae_pure", "rmae_pure>adbm"}
    assert found["mae_pure>adbm"]["text"].endswith("-100.0 [-100.0, -100.0] points, ADBM is more robust.")
    assert "not told apart" in found["rmae_pure>adbm"]["text"]
    rows = {
        name: row(worst) | {"latency": seconds}
        for name, worst, seconds in (("adbm", high, 0.2), ("mae_pure", low, 0.1), ("noise", low, 0.3))
    }
    drawn = compare_figures.plot_pareto({"rows": rows}).rows
    assert [one["cost"] for one in drawn] == [200, 100, 300]  # milliseconds
    assert [(one["purifier"], one["worst"]) for one in drawn][:2] == [("ADBM", 100.0), ("MAE-Pure", 0.0)]
    assert compare_figures._dominates(drawn[0], drawn[2])
    assert not compare_figures._dominates(drawn[0], drawn[1])
    assert compare_report.equal_compute(rows, ("adbm",)) == {}
    for name, count in (("adbm", 2_000_000), ("mae_pure", 3_000_000), ("noise", 1_000_000)):
        rows[name]["operations"] = count
    assert [one["cost"] for one in compare_figures.plot_pareto({"rows": rows}).rows] == [2, 3, 1]
    said = compare_report.equal_compute(rows, ("mae-pure", "noise"))
    assert {name: found["best"] for name, found in said.items()} == {"mae_pure": "adbm", "noise": "noise"}
    assert (
        "of the 3 rows that take no more than MAE-Pure's 3 million operations a pass, ADBM" in said["mae_pure"]["text"]
    )


def test_the_operations_of_a_pass_grow_with_the_steps_and_not_with_the_images() -> None:
    classifier, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.rand(3, 1, 8, 8)
    mae = rp_models.load("mae-digits")
    none, four, eight = (
        operations(Defended(purifier, classifier).eval(), x)
        for purifier in (NoPurification(), MAEPure(mae, steps=4), MAEPure(mae, steps=8))
    )
    assert none == 2 * 64 * 10
    assert eight - none == 2 * (four - none) > 0


def test_the_figure_of_rows_has_three_bars_of_each_and_variants_by_their_names() -> None:
    setting = {"data": "digits", "images": 8, "eps": 0.1}
    rows = {"none": row([0.5] * 8), "eta_none": row([0.25] * 8)}
    drawn = compare_figures.plot_rows({"setting": setting, "rows": rows}).rows
    assert [one["purifier"] for one in drawn] == ["no purifier", "eta none"] * 3
    assert drawn[-1]["estimate"] == 0.25
