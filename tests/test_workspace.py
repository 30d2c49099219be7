"""What crosses packages: the workspace's lists agree, packages stay light, and each stands on what it declares."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())


def project(path):
    return tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))


def bare(requirement):
    return requirement.split("[")[0].split(">")[0].split("=")[0].strip()


def test_the_root_lists_every_package():
    root = project(ROOT)
    assert {bare(name) for name in root["project"]["dependencies"]} >= set(PACKAGES)
    assert set(root["tool"]["uv"]["sources"]) == set(PACKAGES)
    assert {name.replace("-", "_") for name in PACKAGES} <= set(root["tool"]["mypy"]["packages"])
    modules = {path.stem for path in (ROOT / "apps").glob("*.py")}
    assert modules == set(root["tool"]["mypy"]["modules"])


def test_packages_depend_on_each_other_as_designed():
    own = {
        name: {bare(d) for d in project(ROOT / "packages" / name)["project"]["dependencies"]} & set(PACKAGES)
        for name in PACKAGES
    }
    assert own == {
        "rp-models": set(),
        "rp-attacks": set(),
        "rp-analysis": set(),
        "rp-purify": {"rp-models"},
        "rp-dra": {"rp-models", "rp-attacks"},
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_complete(package):
    folder = ROOT / "packages" / package
    meta = project(folder)["project"]
    assert meta["requires-python"] == project(ROOT)["project"]["requires-python"]
    assert (folder / "src" / package.replace("-", "_") / "py.typed").exists()
    assert len((folder / "README.md").read_text(encoding="utf-8")) > 500
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_imports_nothing_heavy(package):
    code = (
        f"import sys, {package.replace('-', '_')}; "
        "print([m for m in ('torch', 'timm', 'torchvision', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(package):
    code = (
        f"import {package.replace('-', '_')} as p; "
        "missing = [n for n in p.__all__ if not hasattr(p, n)]; print(len(p.__all__), missing)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, missing = done.stdout.strip().split(" ", 1)
    assert int(count) > 3
    assert missing == "[]"
