"""`compare_purifiers.py` as a user runs it."""

import json
import shutil

import pytest
import rp_models
from rp_models.checkpoint import read_header
from rp_models.training import seeded

from .running import app, process, two_processes, without_torch
from .tiny_networks import tiny_classifier

ROWS = ("none", "noise", "maskdit_denoise", "rmae_pure")
SHARED = ("compare_purifiers", "--recipe", "smoke", "--device", "cpu", "--cache", "cache")
SMOKE = (*SHARED, "--processes", 1)


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
        "by processes": (*SHARED, "--processes", 2, *given, "--out", "again", "--only", "noise", "rmae_pure"),
        "trained": (*SHARED, "--processes", 2, "--out", "trained", "--only", "none", "noise"),
        "tuned": (*SMOKE, *given, "--out", "tuned", "--only", "noise", "--tune"),
        "missing": (*SMOKE, "--out", "missing", "--classifier", "nowhere.safetensors", "--only", "rmae_pure"),
    }
    done = {
        name: (process if name in ("by processes", "trained") else app)(*words, cwd=work, status=None)
        for name, words in commands.items()
    }
    ignored = shutil.ignore_patterns("result.json", "rmae_pure.json")
    shutil.copytree(work / "table", work / "stopped", ignore=ignored)  # as after a stop, and while a row is made
    done["so far, nothing"] = app("compare_purifiers", "--so-far", "--out", "nothing", cwd=work, status=None)
    done["so far"] = app("compare_purifiers", "--so-far", "--out", "stopped", cwd=work, status=None)
    return done


def result(work, run):
    return json.loads((work / run / "result.json").read_text())


def test_every_row_has_a_cell_for_each_attack_that_fits_it(runs, work) -> None:
    assert runs["table"].returncode == 0, runs["table"].stderr
    rows = result(work, "table")["rows"]
    assert tuple(rows) == ROWS
    everywhere = {"clean", "noise", "pgd-exact", "apgd-ce", "apgd-dlr", "autoattack-rand", "square", "worst"}
    assert set(rows["none"]["cells"]) == everywhere
    for name in ("noise", "maskdit_denoise"):
        assert set(rows[name]["cells"]) == everywhere | {"transfer", "bpda", "pgd-cw", "diffhammer"}
    assert set(rows["rmae_pure"]["cells"]) == everywhere | {
        *(
            "published",
            "transfer",
            "one-shot",
            "bpda",
            "diffhammer",
            "pgd-ste-tanh",
            "pgd-normalised",
            "pgd-cw",
            "keep-reconstruction",
        )
    }


def test_counts_belong_to_the_shares_and_only_random_rows_are_asked_several_times(runs, work) -> None:
    for name, row in result(work, "table")["rows"].items():
        for attack, cell in row["cells"].items():
            assert cell["of"] == 8 * (1 if name == "none" or attack == "published" else 2)
            assert cell["estimate"] == pytest.approx(cell["right"] / cell["of"])
            assert cell["low"] <= cell["estimate"] <= cell["high"]


def test_the_worst_case_of_a_deterministic_row_is_below_each_attack(runs, work) -> None:
    cells = result(work, "table")["rows"]["none"]["cells"]
    assert all(cells["worst"]["right"] <= cell["right"] for cell in cells.values())


def test_the_page_and_the_terminal_show_the_numbers_of_the_result(runs, work) -> None:
    page = (work / "table" / "purifiers-digits.md").read_text()
    for line in runs["table"].stdout.splitlines()[:6]:
        assert line in page
    cell = result(work, "table")["rows"]["rmae_pure"]["cells"]["worst"]
    shown = f"{100 * cell['estimate']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
    (line,) = (line for line in page.splitlines() if line.startswith("| RMAE-Pure ") and "[" in line)
    assert line.split(" | ")[-2].strip() == shown
    assert "Table 1" in page
    assert "62.13" in page
    assert (work / "table" / "figures" / "purifiers-digits.png").read_bytes().startswith(b"\x89PNG")
    assert "(figures/purifiers-digits.png)" in page
    rows = result(work, "table")["rows"]
    assert [point["passes"] for point in rows["rmae_pure"]["convergence"]] == [1, 2]
    assert (work / "table" / "figures" / "purifiers-digits-convergence.png").exists()
    assert "(figures/purifiers-digits-convergence.png)" in page


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


def test_the_rows_that_are_done_make_a_table_that_names_the_others(runs, work) -> None:
    assert runs["so far"].returncode == 0, runs["so far"].stderr
    assert "Not done yet, and so not in the table: RMAE-Pure." in runs["so far"].stdout
    found, whole = json.loads((work / "stopped" / "result-so-far.json").read_text()), result(work, "table")
    assert (tuple(found["rows"]), found["unfinished"]) == (ROWS[:-1], ["rmae_pure"])
    assert all(found["rows"][name]["cells"] == whole["rows"][name]["cells"] for name in ROWS[:-1])
    assert {key: found[key] for key in ("setting", "config")} == {key: whole[key] for key in ("setting", "config")}
    page = (work / "stopped" / "purifiers-digits-so-far.md").read_text()
    assert "Not done yet, and so not in the table: RMAE-Pure.\n" in page
    assert not (work / "stopped" / "result.json").exists()
    assert runs["so far, nothing"].returncode == 2
    assert "nothing holds no run of compare_purifiers.py; name its folder with --out" in runs["so far, nothing"].message


def test_processes_and_other_rows_change_no_number_and_networks_are_made_once(runs, work) -> None:
    assert runs["by processes"].returncode == 0, runs["by processes"].stderr
    assert "stage I" in runs["table"].stderr
    assert "stage I" not in runs["by processes"].stderr
    first, again = (result(work, run)["rows"] for run in ("table", "again"))
    assert tuple(again) == ("noise", "rmae_pure")
    assert {name: row["cells"] for name, row in again.items()} == {name: first[name]["cells"] for name in again}
    assert all(row["seconds"] > 0 for row in again.values())
    assert result(work, "again")["rows"]["rmae_pure"]["purifier"]["mae"] == "rmae"  # a role, no path
    (product,) = (work / "cache").glob("rmae-digits-*/checkpoints/rmae.safetensors")
    assert read_header(product).notes["finetuned"]["classifier"] == "classifier.safetensors"
    networks = result(work, "table")["networks"]
    assert set(networks) == {"classifier", "mae", "maskdit", "rmae"}
    assert networks["mae"] != networks["rmae"] == result(work, "again")["networks"]["rmae"]


@pytest.mark.slow  # some seconds for each process, and networks are made
def test_processes_of_torchrun_share_the_rows_with_an_empty_cache(runs, work) -> None:
    words = ("compare_purifiers", "--recipe", "smoke", "--device", "cpu", "--cache", "empty", "--out", "two")
    done = two_processes(*words, "--classifier", "classifier.safetensors", "--only", *ROWS, cwd=work)
    first, again = (result(work, run)["rows"] for run in ("table", "two"))
    assert {name: row["cells"] for name, row in again.items()} == {name: row["cells"] for name, row in first.items()}
    assert done.stdout.count("WORST CASE") == runs["table"].stdout.count("WORST CASE")
    assert len(list((work / "empty").glob("rmae-digits-*"))) == 1


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
        "only and compared must name rows of none, noise": (*SMOKE, "--only", "mae-pur"),
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
