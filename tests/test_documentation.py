"""The code of the committed pages runs, from top to bottom of each page, in an empty folder.

A Python block with a title is written to that file, any other one is run. A command `uv run apps/NAME.py ...` of a
shell block is run in this process as it stands, or as the line `<!-- test: ... -->` above the block says:

    --images 8      with these options too
    dry             with --dry-run: its settings are resolved and nothing is computed
    slow --epochs 1 with these options in the slow tests, else with --dry-run
    shell           only its syntax is checked: it installs something, or starts all tests
"""

import contextlib
import shlex
import subprocess
import sys
from unittest import mock

import pytest
from rp_testing.pages import blocks, check_toml, commands, run_block

from .running import ROOT, app

LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
OWN = tuple(f"packages/rp-{name}/" for name in ("models", "attacks", "purify", "dra", "analysis"))  # tests of their own
PAGES = [ROOT / line for line in LISTED.splitlines() if not line.startswith(OWN)]
CODE = [page for page in PAGES if any(block.language in ("python", "bash", "toml") for block in blocks(page))]

NO_DRY_RUN = ("convert", "report")  # these understand the command and miss the file


def name_of(page):
    return str(page.relative_to(ROOT))


def run_page(page, folder, slow):
    names = {"__name__": "__page__"}
    with contextlib.chdir(folder), mock.patch.object(sys, "path", [str(folder), *sys.path]):
        for block in blocks(page):
            if block.language == "toml":
                check_toml(block)
            elif block.language == "bash":
                run_shell(block, folder, slow)
            elif block.language == "python" and block.title:
                (folder / block.title).write_text(block.body)
                sys.modules.pop(block.title.removesuffix(".py"), None)  # that of another run
            elif block.language == "python":
                run_block(page, block, names)


def run_shell(block, folder, slow):
    mode, _, options = block.test.partition(" ") if not block.test.startswith("--") else ("", "", block.test)
    assert mode in ("", "dry", "slow", "shell"), block
    subprocess.run(["bash", "-n", "-c", block.body], check=True)
    for command in commands(block) if mode != "shell" else ():
        words = shlex.split(command, comments=True)
        where = next((number for number, word in enumerate(words) if word.startswith("apps/")), None)
        assert words[:2] == ["uv", "run"], f"{command!r} is no app: put `<!-- test: shell -->` above the block"
        assert where is not None, command
        name, dry = words[where][5:-3], mode == "dry" or (mode == "slow" and not slow)
        if dry and name in NO_DRY_RUN:
            assert "error:" in app(name, *words[where + 1 :], cwd=folder, status=2).message
        else:
            app(name, *words[where + 1 :], *(["--dry-run"] if dry else shlex.split(options)), cwd=folder)


@pytest.mark.parametrize("page", CODE, ids=name_of)
def test_the_code_of_a_page_runs(page, tmp_path):
    run_page(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in CODE if "<!-- test: slow" in page.read_text()], ids=name_of)
def test_what_takes_minutes_runs_too(page, tmp_path):
    run_page(page, tmp_path, slow=True)
