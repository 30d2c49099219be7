"""Every app starts from a shell, says in one sentence what is wrong, and imports torch only when it has work to do."""

import ast
import os
import pty
import subprocess

import pytest

from .running import APPS, ENVIRONMENT, ROOT, app, command, two_processes, without_torch

NAMES = sorted(path.stem for path in APPS.glob("*.py"))
NEEDED = {"convert": ("nvlabs", "official.pkl", "ours.safetensors")}  # without these it would speak of them


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_ends_in_one_sentence_before_torch_is_imported(name, tmp_path):
    python, *words = command(name, *NEEDED.get(name, ()), "--no-such-option", "1")
    done = subprocess.run([python, "-X", "importtime", *words], capture_output=True, text=True, cwd=tmp_path)
    imports = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2, done.stderr
    assert "no-such-option" in " ".join(said)
    assert "Traceback" not in done.stderr
    assert "tyro" in imports
    assert "torch" not in imports
    assert not list(tmp_path.iterdir())


ALONE = ("analyze", "analyze_purifier", "purify")  # their work is that of one process


def test_apps_are_thin_and_nobody_imports_them():
    lines = {name: len((APPS / f"{name}.py").read_text().splitlines()) for name in NAMES}
    assert {name: count for name, count in lines.items() if count > 60} == {}
    assert sum(lines.values()) <= 900
    for file in ROOT.glob("packages/*/src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {name.split(".")[0] for name in names} & {"apps", *NAMES}, file


def test_each_group_of_options_has_a_heading_of_its_own(tmp_path):
    """A comment above one setting is no heading for the groups that follow it."""
    commands = {name: (name, "--help") for name in NAMES if name != "pretrain"}
    commands |= {kind: ("pretrain", kind, "--help") for kind in ("mae", "edm", "maskdit", "classifier")}
    for name, done in without_torch(commands, tmp_path).items():
        lines = [line.strip("│ ") for line in done.stdout.splitlines()]
        titles = [number for number, line in enumerate(lines) if line.startswith("╭─") and "options" in line]
        headings = [" ".join(_until(lines[number + 1 :])) for number in titles]
        headings = [heading for heading in headings if heading and not heading.startswith("-")]
        assert len(headings) == len(set(headings)), name


def _until(lines):
    """The lines above the rule that ends a heading; none where there is no such rule."""
    heading = []
    for line in lines:
        if line.startswith("───"):
            return heading
        if line.startswith(("-", "╰")):
            return []
        heading.append(line)
    return []


@pytest.mark.parametrize("name", ["train_dra", "pretrain"])
def test_who_reads_only_the_beginning_of_the_help_sees_no_traceback(name, tmp_path):
    process = subprocess.Popen(
        command(name, "--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    process.stdout.close()  # before the first line is written
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.parametrize("colours", [True, False])
def test_the_help_has_colours_on_a_terminal_unless_the_environment_says_no(colours, tmp_path):
    environment = {**os.environ, **ENVIRONMENT, "TERM": "xterm", "NO_COLOR": "" if colours else "1"}
    ours, theirs = pty.openpty()
    done = subprocess.Popen(command("convert", "--help"), stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment)
    os.close(theirs)
    said = b""
    while part := _read(ours):
        said += part
    assert done.wait() == 0
    assert b"--half" in said
    assert (b"\x1b[" in said) == colours


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other side is closed
        os.close(terminal)
        return b""


@pytest.mark.parametrize("name", ALONE)
def test_an_app_for_one_process_says_so_under_torchrun(name, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    more = ("--run", "run") if name == "analyze" else ()
    assert "works in one process; start it without torchrun" in app(name, *more, cwd=tmp_path, status=2).message


EDM = ("pretrain", "edm", "--recipe", "smoke", "--device", "cpu", "--out", "edm")
TOGETHER = {
    "train_dra": ("--recipe", "smoke", "--method", "dm-at", "--evaluation.attacks", "apgd-ce"),
    "sweep": ("--recipe", "smoke", "--method", "dm-at+dra", "--evaluation.attacks", "apgd-ce"),
    "pretrain": ("mae", "--recipe", "smoke"),
    "generate": ("edm/checkpoints/model.safetensors", "--recipe", "smoke", "--frechet-images", 0),
    "evaluate": ("--defended", "--images", 8, "--suite", "quick", "--purifier.steps", 1, "--passes", 2),
    "finetune_purifier": ("--recipe", "smoke"),
    "probe": ("--recipe", "smoke"),
    "compare_purifiers": ("--recipe", "smoke"),
}


def test_every_app_whose_work_can_be_shared_is_tried():
    shared = {name for name in NAMES if "SharedOptions" in (APPS / f"{name}.py").read_text()}
    assert shared | {"pretrain", "sweep"} == set(TOGETHER)  # these two have their options beside the recipes


@pytest.mark.slow
@pytest.mark.parametrize("name", TOGETHER)
def test_two_processes_share_the_work_from_an_empty_cache_on(name, tmp_path):
    if name == "generate":
        app(*EDM, cwd=tmp_path)
    done = two_processes(name, *TOGETHER[name], "--device", "cpu", "--out", "together", cwd=tmp_path)
    assert (tmp_path / "together" / "result.json").is_file(), done.stderr
    assert "Traceback" not in done.stderr
