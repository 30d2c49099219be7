"""A project outside the workspace depends on `rp-purify` by path, and purifies a batch of digits."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PYPROJECT = """
[project]
name = "scratch"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["rp-purify"]

[tool.uv]
package = false
exclude-newer = "{exclude_newer}"

[tool.uv.sources]
rp-purify = {{ path = "{path}" }}
"""

PROGRAM = """
import rp_models
from rp_models.data import load_images
from rp_purify import MAEPure

x, y = load_images("digits", "test").batch(slice(0, 16))
purifier = MAEPure(rp_models.load("mae-digits"), steps=10, step_size=0.01, eta=0.1)
clean = purifier(x)
print(tuple(clean.shape), float((clean - x).abs().max()) <= 0.1 + 1e-6)
"""


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on the path")
def test_another_project_purifies_a_batch_of_digits(tmp_path):
    import tomllib

    newest = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["exclude-newer"]
    path = (ROOT / "packages" / "rp-purify").as_posix()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.format(path=path, exclude_newer=newest))
    (tmp_path / "main.py").write_text(PROGRAM)
    assert len(PROGRAM.strip().splitlines()) <= 10
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "UV")}
    done = subprocess.run(
        ["uv", "run", "main.py"], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(16, 1, 8, 8) True"
    installed = subprocess.run(
        ["uv", "pip", "list"], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    ).stdout
    assert "rp-models" in installed
    assert "rp-attacks" not in installed
