"""What crosses packages: the workspace's lists agree, packages stay light, and each stands on what it declares."""

import json
import subprocess
import sys
import tomllib

import pytest

from .running import APPS, ROOT

PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())


def project(path):
    return tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))


def bare(requirement):
    return requirement.split("[")[0].split(">")[0].split("=")[0].strip()


def test_the_root_lists_every_package():
    root = project(ROOT)
    assert {bare(name) for name in root["project"]["dependencies"]} >= set(PACKAGES)
    assert set(root["tool"]["uv"]["sources"]) == {*PACKAGES, "rp-testing"}
    assert {name.replace("-", "_") for name in PACKAGES} <= set(root["tool"]["mypy"]["packages"])
    modules = {path.stem for path in APPS.glob("*.py")}
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
        "rp-experiments": set(PACKAGES) - {"rp-experiments"},
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


@pytest.fixture(scope="module")
def public_names():
    """How many public names each package has, and which of them cannot be imported where it is the first package.

    Only torch has been imported before; one process does that, and each package is imported in a fork of it.
    """
    code = (
        "import importlib, json, os, sys, torch\n"
        "for package in sys.argv[1:]:\n"
        "    if os.fork() == 0:\n"
        "        p = importlib.import_module(package.replace('-', '_'))\n"
        "        missing = [n for n in p.__all__ if not hasattr(p, n)]\n"
        "        print(json.dumps([package, len(p.__all__), missing]), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *PACKAGES], capture_output=True, text=True, check=True)
    return {package: rest for package, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_can_be_imported(public_names, package):
    count, missing = public_names[package]
    assert count > 3
    assert missing == []


def test_golden_files_and_their_recipe_stand_once():
    support = ROOT / "tests" / "support" / "src" / "rp_testing"
    assert len(list((support / "golden").glob("*.npz"))) > 70
    assert [path for path in ROOT.glob("packages/*/tests/**/*") if path.suffix in (".npz", ".pkl")] == []
    assert list(ROOT.glob("packages/*/tests/**/recipe.py")) == []


def test_attacks_and_training_draw_from_one_generator() -> None:
    import torch
    from rp_attacks import noise as of_attacks
    from rp_models import noise as of_models

    index, like = torch.tensor([0, 7, 2**31 + 5, 2**40]), torch.zeros(())
    for seed in (0, -3, 2**70):
        assert of_attacks.derive_seed(seed, "a", 1) == of_models.derive_seed(seed, "a", 1)
        for shape in ((), (5,), (2, 3, 7)):
            for name in ("uniform", "normal"):
                ours = getattr(of_attacks, name)(shape, seed=seed, purpose="p", index=index, like=like)
                theirs = getattr(of_models, name)(shape, seed=seed, purpose="p", index=index)
                assert torch.equal(ours, theirs)
