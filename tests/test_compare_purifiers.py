"""`compare_purifiers.py`: the command line as a user runs it, and what its parts do to numbers."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import rp_models
import torch
from rp_attacks import APGD, Transfer
from rp_attacks.record import Record
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.training import seeded
from rp_purify import Defended, GaussianNoise, LikelihoodMaximisation, MAEPure, NoPurification

from .running import app, process, two_processes, without_torch
from .tiny_networks import tiny_classifier

ROWS = ("none", "noise", "maskdit_denoise", "rmae_pure")
SHARED = ("compare_purifiers", "--recipe", "smoke", "--device", "cpu", "--cache", "cache")
SMOKE = (*SHARED, "--workers", 1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a small classifier that was never trained."""
    folder = tmp_path_factory.mktemp("work")
    with seeded(0, "tiny classifier"):
        classifier = tiny_classifier()
    rp_models.save(classifier, folder / "classifier.safetensors")
    return folder


@pytest.fixture(scope="module")
def runs(work):
    """What the command lines did that need torch."""
    given = ("--classifier", "classifier.safetensors")
    commands = {
        "table": (*SMOKE, *given, "--out", "table", "--only", *ROWS),
        "resumed": (*SMOKE, *given, "--out", "table", "--only", *ROWS, "--resume"),
        "another seed": (*SMOKE, *given, "--out", "table", "--only", *ROWS, "--resume", "--seed", "5"),
        "by workers": (*SHARED, "--workers", 2, *given, "--out", "again", "--only", "noise", "rmae_pure"),
        "trained": (*SHARED, "--workers", 2, "--out", "trained", "--only", "none", "noise"),
        "tuned": (*SMOKE, *given, "--out", "tuned", "--only", "noise", "--tune"),
        "missing": (*SMOKE, "--out", "missing", "--classifier", "nowhere.safetensors", "--only", "rmae_pure"),
    }
    return {
        name: (process if name in ("by workers", "trained") else app)(*words, cwd=work, status=None)
        for name, words in commands.items()
    }


@pytest.fixture
def apps(monkeypatch):
    """The modules of the apps."""
    import rp_experiments.compare_purifiers as compare
    import rp_experiments.purifier_attacks as attacks
    import rp_experiments.purifier_networks as networks
    import rp_experiments.recipes.compare_purifiers as recipes
    import rp_experiments.recipes.purification_paper as paper
    import rp_experiments.reports.compare_report as report

    return SimpleNamespace(
        compare=compare, report=report, attacks=attacks, networks=networks, recipes=recipes, paper=paper
    )


def result(work, run):
    return json.loads((work / run / "result.json").read_text())


def test_every_row_has_a_cell_for_each_attack_that_fits_it(runs, work) -> None:
    assert runs["table"].returncode == 0, runs["table"].stderr
    rows = result(work, "table")["rows"]
    assert tuple(rows) == ROWS
    everywhere = {"clean", "noise", "pgd-exact", "apgd-ce", "apgd-dlr", "autoattack-rand", "square", "worst"}
    assert set(rows["none"]["cells"]) == everywhere
    for name in ("noise", "maskdit_denoise"):
        assert set(rows[name]["cells"]) == everywhere | {"transfer", "bpda"}
    assert set(rows["rmae_pure"]["cells"]) == everywhere | {
        *("transfer", "one-shot", "bpda", "pgd-ste-tanh", "pgd-normalised")
    }


def test_counts_belong_to_the_shares_and_only_random_rows_are_asked_several_times(runs, work) -> None:
    for name, row in result(work, "table")["rows"].items():
        for cell in row["cells"].values():
            assert cell["of"] == 8 * (1 if name == "none" else 2)
            assert cell["per_query"]["estimate"] == pytest.approx(cell["right"] / cell["of"])
            assert cell["per_query"]["low"] <= cell["per_query"]["estimate"] <= cell["per_query"]["high"]


def test_the_worst_case_of_a_deterministic_row_is_below_each_attack(runs, work) -> None:
    cells = result(work, "table")["rows"]["none"]["cells"]
    assert all(cells["worst"]["right"] <= cell["right"] for cell in cells.values())


def test_the_page_and_the_terminal_show_the_numbers_of_the_result(runs, work) -> None:
    page = (work / "table" / "purifiers-digits.md").read_text()
    for line in runs["table"].stdout.splitlines()[:6]:
        assert line in page
    cell = result(work, "table")["rows"]["rmae_pure"]["cells"]["worst"]["per_query"]
    shown = f"{100 * cell['estimate']:.1f} [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"
    (line,) = (line for line in page.splitlines() if line.startswith("| RMAE-Pure |") and "[" in line)
    assert line.split(" | ")[-2] == shown
    assert "Table 1" in page
    assert "62.13" in page
    assert (work / "table" / "figures" / "purifiers-digits.png").read_bytes().startswith(b"\x89PNG")
    assert "(figures/purifiers-digits.png)" in page


def test_a_finished_table_is_not_made_again_and_another_one_is_refused(runs, work) -> None:
    assert runs["resumed"].returncode == 0
    assert runs["resumed"].stdout == runs["table"].stdout
    assert "RMAE-Pure:" not in runs["resumed"].stderr  # no progress bar: nothing was evaluated
    spent = json.loads((work / "table" / "stages.json").read_text())
    assert {name: row["seconds"] for name, row in result(work, "table")["rows"].items()} == {
        name: spent[name] for name in ROWS
    }  # of the evaluation, and not of looking it up again
    assert runs["another seed"].returncode == 2
    assert "seed: 0 there, 5 asked for" in runs["another seed"].message


def test_workers_and_other_rows_change_no_number_and_networks_are_made_once(runs, work) -> None:
    assert runs["by workers"].returncode == 0, runs["by workers"].stderr
    assert "stage I" in runs["table"].stderr
    assert "stage I" not in runs["by workers"].stderr
    first, again = (result(work, run)["rows"] for run in ("table", "again"))
    assert tuple(again) == ("noise", "rmae_pure")
    assert {name: row["cells"] for name, row in again.items()} == {name: first[name]["cells"] for name in again}
    assert all(row["seconds"] > 0 for row in again.values())
    assert "rows:" in runs["by workers"].stderr
    assert "RMAE-Pure:" not in runs["by workers"].stderr  # a worker shows no bar of its own
    assert result(work, "again")["rows"]["rmae_pure"]["purifier"]["mae"] == "rmae"  # a role, no path
    (product,) = (work / "cache").glob("rmae-digits-*/checkpoints/rmae.safetensors")
    assert read_header(product).notes["finetuned"]["classifier"] == "classifier.safetensors"
    networks = result(work, "table")["networks"]
    assert set(networks) == {"classifier", "mae", "maskdit", "rmae"}
    assert networks["mae"] != networks["rmae"] == result(work, "again")["networks"]["rmae"]


@pytest.mark.slow  # joining under torchrun is tested with other apps, sharing above
def test_processes_of_torchrun_share_the_rows(runs, work) -> None:
    done = two_processes(*SHARED, "--classifier", "classifier.safetensors", "--out", "two", "--only", *ROWS, cwd=work)
    first, again = (result(work, run)["rows"] for run in ("table", "two"))
    assert {name: row["cells"] for name, row in again.items()} == {name: row["cells"] for name, row in first.items()}
    assert done.stdout.count("WORST CASE") == runs["table"].stdout.count("WORST CASE")


def test_without_a_given_classifier_a_standard_one_is_trained(runs, work) -> None:
    assert runs["trained"].returncode == 0, runs["trained"].stderr
    assert runs["trained"].stderr.count("accuracy on 200 validation images") == 1  # before there are workers
    (product,) = (work / "cache").glob("classifier-digits-*/checkpoints/model.safetensors")
    assert read_header(product).notes["steps"] == 4


def test_tuning_looks_at_the_validation_images_and_names_the_best(runs, work) -> None:
    assert runs["tuned"].returncode == 0, runs["tuned"].stderr
    found = json.loads((work / "tuned" / "tuning.json").read_text())
    tried = found["tried"]["noise"]
    assert [entry["settings"]["std"] for entry in tried] == [0.05, 0.1, 0.25, 0.4]
    best = max(entry["accuracy"]["worst"] for entry in tried)
    assert found["best"]["noise"]["accuracy"]["worst"] == best
    problem = json.loads(next((work / "tuned" / "evaluation").glob("*/problem.json")).read_text())
    table = json.loads((work / "table" / "evaluation" / "none" / "problem.json").read_text())
    assert problem["images"] != table["images"]
    assert not (work / "tuned" / "result.json").exists()


def test_a_missing_checkpoint_is_one_sentence(runs) -> None:
    assert runs["missing"].returncode == 2
    assert "nowhere.safetensors: no such checkpoint file" in runs["missing"].message
    assert "Traceback" not in runs["missing"].stderr


def test_bad_settings_end_in_one_sentence_and_asking_does_not_import_torch(tmp_path) -> None:
    commands = {
        "only must name rows of none, noise": (*SMOKE, "--only", "mae-pur"),
        "images must be at least 8, got 3": (*SMOKE, "--images", "3"),
        "budget.eot must be at least 1, got 0": (*SMOKE, "--budget.eot", "0"),
        "budget.eps must be in (0, 1] pixel units, got 8.0": (*SMOKE, "--budget.eps", "8"),
        "dry": ("compare_purifiers", "--dry-run", "--rows.mae-pure.steps", "7"),
        "fashion": ("compare_purifiers", "--recipe", "fashion-mnist", "--dry-run"),
    }
    done = without_torch(commands, tmp_path)
    for message in list(commands)[:-2]:
        assert done[message].returncode == 2
        assert message in done[message].message
    assert json.loads(done["dry"].stdout)["rows"]["mae_pure"]["steps"] == 7
    assert json.loads(done["fashion"].stdout)["pretrain_maskdit"]["maskdit"]["num_classes"] == 0
    assert not list(tmp_path.iterdir())


def test_each_purifier_meets_every_rule_that_it_offers(apps) -> None:
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    budget = replace(apps.recipes.digits().budget, eot=3, curved_steps=10, curved_eot=2)

    def against(purifier, **changes):
        return apps.attacks.attacks_on(Defended(purifier, classifier), replace(budget, **changes))

    bare = against(NoPurification())
    assert list(bare) == ["pgd-exact", "apgd-ce", "apgd-dlr", "square"]
    assert bare["pgd-exact"].eot == bare["apgd-ce"].eot == bare["square"].passes == 1
    noisy = against(GaussianNoise(0.1))
    assert isinstance(noisy["transfer"], Transfer)
    assert noisy["transfer"].source is classifier
    assert noisy["bpda"].grad == "identity"
    assert isinstance(noisy["apgd-dlr"], APGD)
    assert noisy["apgd-dlr"].eot == 3
    assert "one-shot" not in noisy
    source = Defended(GaussianNoise(0.1), classifier)
    purifier = MAEPure(rp_models.load("mae-digits"), steps=2)
    descent = apps.attacks.attacks_on(Defended(purifier, classifier), budget, source)
    assert descent["one-shot"].source is source
    assert descent["one-shot"].attack.grad == "exact"
    assert {name: attack.grad for name, attack in descent.items() if name.startswith("pgd")} == {
        "pgd-exact": "exact",
        "pgd-ste-tanh": "ste-tanh",
        "pgd-normalised": "normalised",
    }
    assert (descent["pgd-ste-tanh"].steps, descent["pgd-ste-tanh"].eot) == (10, 2)
    assert "pgd-exact" not in against(LikelihoodMaximisation(torch.nn.Identity()))
    assert descent["pgd-ste-tanh"].step_size == 2.5 * budget.eps / 10
    assert against(GaussianNoise(0.1), step_size=0.007)["bpda"].step_size == 0.007
    assert against(purifier, step_size=0.007)["pgd-normalised"].step_size == 0.007
    balls = {(attack.norm, attack.eps) for attack in descent.values()}
    assert balls == {("linf", budget.eps)}  # one ball, else there would be no one worst case


def test_an_iterative_purifier_is_attacked_from_the_one_pass_form_of_its_own_network(apps, tmp_path) -> None:
    from rp_models.training import RunFolder

    config = apps.recipes.smoke()
    job = apps.compare.ComparisonJob(config, RunFolder(tmp_path), torch.device("cpu"), tmp_path)
    built = []
    job.defence = built.append
    job.one_shot(config.rows.rmaskdit_pure)
    job.one_shot(config.rows.likelihood)
    job.one_shot(config.rows.rmae_pure)
    assert [(choice.kind, getattr(choice, "model", "") or choice.mae) for choice in built] == [
        ("denoise", "rmaskdit"),
        ("denoise", "edm"),
        ("mae-reconstruction", "rmae"),
    ]
    assert job.one_shot(config.rows.noise) is None


def record(right, wrong, margin):
    right = np.asarray(right, dtype=bool)
    count = len(right)
    return Record(
        right=right,
        wrong=np.asarray(wrong, dtype=np.float32),
        margin=np.asarray(margin, dtype=np.float32),
        distance=np.zeros(count, dtype=np.float32),
        tried=np.ones(count, dtype=bool),
    )


def test_autoattack_rand_takes_the_worse_of_its_two_parts_by_the_selecting_passes(apps) -> None:
    ce = record([[1, 1], [0, 0], [1, 0]], [0.0, 1.0, 0.5], [-1, 1, 0])
    dlr = record([[0, 1], [1, 1], [1, 1]], [0.5, 0.0, 0.5], [-1, -1, 1])
    both = apps.attacks._worse(ce, dlr)
    assert both.right.tolist() == [[False, True], [False, False], [True, True]]  # the last by the margin alone


def row(worst):
    cell = {"estimate": float(np.mean(worst)), "low": 0.0, "high": 1.0}
    cells = {
        name: {"per_query": cell, "majority": cell} for name in ("clean", "transfer", "pgd-exact", "square", "worst")
    }
    per_image = {"clean": [1.0] * len(worst), "linf 38.2/255": {"worst": list(worst)}}
    return {"cells": cells, "per_image": per_image, "findings": [], "purifier": {"kind": "none", "std": 0.25}}


def test_claims_say_whether_the_paper_s_order_is_reached(apps) -> None:
    high, low, middle = [1.0] * 30, [0.0] * 30, [0.0, 1.0] * 15
    found = apps.report.claims(
        {"mae_pure": row(low), "rmae_pure": row(high), "maskdit_pure": row(middle), "rmaskdit_pure": row(low)}
    )
    assert "+100.0 [+100.0, +100.0] points, as in the paper (there +4.6" in found["rmae_pure>mae_pure"]["text"]
    assert "the other way round" in found["rmaskdit_pure>rmae_pure"]["text"]
    assert found["maskdit_pure>mae_pure"]["difference"]["estimate"] == 0.5
    assert not any("diffpure" in key for key in found)
    found = apps.report.claims({"maskdit_pure": row(high), "diffpure": row(middle)})
    assert "MaskDiT-Pure against DiffPure" in found["maskdit_pure>diffpure"]["text"]
    assert "as in the paper (there +8.4, Table 1)" in found["maskdit_pure>diffpure"]["text"]
    same = apps.report.claims({"mae_pure": row(middle), "rmae_pure": row(middle)})
    assert "not told apart" in same["rmae_pure>mae_pure"]["text"]


def test_a_refused_number_is_not_shown(apps) -> None:
    result = {"rows": {"none": row([0.5] * 8)}}
    assert "REFUSED" not in apps.report.table(result)
    result["rows"]["none"]["findings"] = [{"level": "refused", "check": "x", "text": "broken"}]
    assert apps.report.table(result).count("REFUSED") == 2


def test_the_paper_s_figures_are_its_tables(apps) -> None:
    figures = {column.key: column.figures for column in apps.paper.PAPER}
    assert figures["pgd"] == {
        **{"diffpure": 42.20, "mae_pure": 40.53, "maskdit_pure": 50.57},
        **{"rmae_pure": 45.15, "rmaskdit_pure": 62.13},
    }
    assert figures["bpda"]["mae_pure"] == 78.89
    assert figures["autoattack"]["rmaskdit_pure"] == 75.83
    assert figures["square"]["none"] == 19.15
    rows = {field.name for field in fields(apps.recipes.Rows)}
    assert rows == set(apps.recipes.TITLES)
    assert {name for column in apps.paper.PAPER for name in column.figures} <= rows
    for better, worse in apps.paper.CLAIMS:
        assert figures["pgd"][better] > figures["pgd"][worse]


def test_a_network_lies_under_a_hash_of_what_it_was_made_from(apps, tmp_path, monkeypatch) -> None:
    config = replace(apps.recipes.smoke(), classifier=str(tmp_path / "c.safetensors"))
    made = []

    class Job:
        def __init__(self, config, folder, device, *, root):
            made.append(folder.path.name)

        def finetuned(self):
            pass

    networks = apps.networks.PurifierNetworks
    monkeypatch.setattr(apps.networks, "FinetuneJob", Job)
    for seed in (0, 0, 1):
        with seeded(seed, "another classifier"):
            other = tiny_classifier()
        rp_models.save(other, tmp_path / "c.safetensors")
        networks(config, tmp_path / "cache", torch.device("cpu")).path("rmae")
    assert made[0] == made[1] != made[2]  # the same name, another file
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        networks(replace(config, classifier="gone.safetensors"), tmp_path, torch.device("cpu")).path("rmae")
