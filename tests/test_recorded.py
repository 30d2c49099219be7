"""What is committed names no place on the machine that made it."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# a folder at the root of a file system, or a Windows drive; `/2`, `</a>` and `https://x/home/` are none
ABSOLUTE = re.compile(
    r"(?<![\w.:/<>~$}*-])(?:/(?:root|home|tmp|work|data|mnt|opt|srv|var|private|scratch|Users)/[\w.+-]+|[A-Z]:\\+\w+)"
)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git what is committed")
def test_no_committed_record_or_page_holds_an_absolute_path() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    kinds = (".json", ".md", ".tsv", ".html", ".svg", ".toml", ".lock")
    files = [name for name in listed if name.endswith(kinds) and (ROOT / name).is_file()]
    assert any(name.startswith("tests/recorded/") for name in files)
    found = {name: ABSOLUTE.findall((ROOT / name).read_text(encoding="utf-8")) for name in files}
    assert {name: paths[:3] for name, paths in found.items() if paths} == {}


def test_an_absolute_path_would_be_noticed() -> None:
    for text in ('"/tmp/exp2/runs/x"', "(/home/someone/x", r'"C:\\Users\\x"', "in /data/models"):
        assert ABSOLUTE.search(text), text
    for text in ("https://example.org/home/x", "runs/tmp/x", "8/255", "$RP_DATA/data/x", "`./data/cifar`", "</data>"):
        assert not ABSOLUTE.search(text), text


def test_the_lock_pins_and_hashes_everything_and_names_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = [entry for entry in re.sub(r"^#.*\n", "", text).replace("\\\n", " ").splitlines() if entry.strip()]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"://|--index|--find-links|file:", text)
    assert {"torch", "numpy", "safetensors", "tyro"} <= {entry.split("==")[0] for entry in entries}
