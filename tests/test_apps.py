"""Every app starts from a shell, says in one sentence what is wrong, and imports torch only when it has work to do."""

import subprocess

import pytest

from .running import APPS, command

NAMES = sorted(path.stem for path in APPS.glob("*.py") if path.stem != "commandline")
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
