"""Attack tables: which purifier meets which attacks, and what is asked for twice."""

from dataclasses import replace

import pytest
import rp_models
import torch
from rp_attacks import PGD, evaluate
from rp_attacks.settings import Budget
from rp_experiments.artifacts import Built
from rp_experiments.papers.attack_table import AttackTableJob
from rp_experiments.papers.items.mae_pure_tables import _published
from rp_experiments.papers.settings import AttackTable, Case
from rp_experiments.recipes.compare_purifiers import RECIPES
from rp_experiments.run import Run
from rp_models.training import RunFolder
from rp_purify import Defended, GaussianNoise, NoPurification

BUDGET = Budget(steps=2, eot=2, queries=2, query_passes=1, label_queries=3, label_passes=1, search=1, search_steps=1)


def table(folder, *cases, **options):
    """A table on a few digits with an untrained classifier."""
    path = folder / "classifier.safetensors"
    torch.manual_seed(0)
    rp_models.save(rp_models.build("dm-wide-resnet", depth=10, width=1, in_channels=1, mean=[0.3], std=[0.4]), path)
    comparison = replace(RECIPES["smoke"](), classifier=str(path), images=8)
    config = AttackTable(comparison=comparison, cases=cases, budget=BUDGET, passes=2, **options)
    return AttackTableJob(config, Run(folder=RunFolder(folder / "run")))


def test_the_attacks_of_a_norm_may_meet_another_purifier(tmp_path) -> None:
    case = Case(name="noise", row="noise", families=("linf", "l2"))
    job = table(tmp_path, case, in_norm={"l2": {"noise": {"std": 0.01}}})
    found = job.judge(case)
    usual = job.config.comparison.rows.noise.std
    assert found["purifier"]["std"] == usual != 0.01
    assert found["balls"]["l2"]["purifier"]["std"] == 0.01
    assert "purifier" not in found["balls"]["linf"]
    alone = table(tmp_path / "alone", replace(case, families=("l2",), changes={"std": 0.01}))
    assert alone.judge(alone.config.cases[0])["balls"]["l2"]["right"] == found["balls"]["l2"]["right"]


def test_a_system_that_two_cases_ask_for_is_attacked_once(tmp_path) -> None:
    cases = [
        Case(name=f"noise std={std}", row="noise", families=("short",), changes={"std": std}) for std in (0.1, 0.2)
    ]
    again = Case(name="again", row="noise", families=("short",), changes={"std": 0.2})
    job = table(tmp_path, *cases, again)
    assert job.judge(again) == job.judge(cases[1]) != job.judge(cases[0])
    assert len(list((tmp_path / "run" / "results").iterdir())) == 2


def test_table_1_is_transfer_and_pgd_with_the_papers_step(tmp_path) -> None:
    job = table(tmp_path, Case(name="noise", row="noise", families=("table-1",)), published_step=True)
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    attacks = job.attacks("table-1", Defended(GaussianNoise(0.1), classifier))
    assert list(attacks) == ["transfer", "pgd-exact"]
    pgd, eps = attacks["pgd-exact"], job.config.comparison.budget.eps
    assert (pgd.steps, pgd.eot, pgd.grad) == (2, 2, "exact")
    assert pgd.step_size / eps == pytest.approx(0.007 / (8 / 255))
    assert list(job.attacks("table-1", Defended(NoPurification(), classifier))) == ["pgd-exact"]
    square = job.attacks("black-box", Defended(NoPurification(), classifier))["square"]
    assert (square.queries, square.passes) == (3, 1)


def test_a_published_classifiers_row_is_its_evaluations(tmp_path) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = net(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 10
    report = evaluate(net, x, y, {"pgd": PGD(eps=0.05, step_size=0.02, steps=3)}, seed=0, probes=0)
    RunFolder(tmp_path).write_json("result.json", report.to_json())
    row = _published(Built(None, tmp_path))
    assert row["clean"]["estimate"] == 0.75
    assert row["AutoAttack"]["estimate"] == report.robust_accuracy < 0.75
