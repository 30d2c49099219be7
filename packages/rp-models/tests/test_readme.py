"""The README's example runs as it stands, and its table names what the zoo has."""

import itertools
import re
from pathlib import Path

from rp_models import names
from rp_testing.pages import run_python

PAGE = Path(__file__).parent.parent / "README.md"
README = PAGE.read_text(encoding="utf-8")


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_python(PAGE)
    assert "266796506" in capsys.readouterr().out


def expanded(pattern):
    """`a-{b,c}[-d]` as the names it stands for."""
    parts = re.split(r"(\{[^}]*\}|\[[^]]*\])", pattern)
    choices = [
        part[1:-1].split(",") if part.startswith("{") else ["", part[1:-1]] if part.startswith("[") else [part]
        for part in parts
    ]
    return ["".join(choice) for choice in itertools.product(*choices)]


def test_the_table_names_every_network_and_no_other():
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `") and line.count("|") == 6]
    said = {name for row in rows for text in re.findall(r"`([^`]+)`", row) for name in expanded(text)}
    suffixes = {text for text in said if text.startswith("-")}
    said = {name for name in said if not name.startswith("-")}
    for name in list(said):
        if name.startswith("wrn") and name.endswith("swish"):
            said |= {name + suffix for suffix in suffixes}
    assert said == set(names())
