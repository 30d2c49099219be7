"""Another project gets `rp-purify` by path, by git subdirectory, or as a wheel: each is installed and used for real.

uv resolves and installs offline into a folder of its own; what comes from outside (torch, numpy, ...) is taken from
this environment instead of the registry. `test_scratch_project.py` resolves everything, once.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.name for path in (ROOT / "packages").iterdir() if path.is_dir())
pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv on the path")

PROGRAM = """
import site, sys
site.addsitedir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import rp_models, rp_purify
from rp_models.data import load_images

x, y = load_images("digits", "test").batch(slice(0, 4))
clean = rp_purify.MAEPure(rp_models.load("mae-digits"), steps=3, step_size=0.01, eta=0.1)(x)
print(tuple(clean.shape), bool((clean - x).abs().max() <= 0.1 + 1e-6), "rp_attacks" in sys.modules)
print(rp_purify.__file__, rp_models.__file__, sep="\\n")
"""


def uv(*arguments, cwd):
    hidden = ("VIRTUAL_ENV", "UV", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        ["uv", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def project(package):
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def dependencies(package):
    return project(package)["dependencies"]


def name_of(requirement):
    return requirement.partition(">")[0].partition("[")[0].strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """The wheels of all packages."""
    folder = tmp_path_factory.mktemp("wheels")
    uv("build", "--offline", "--all-packages", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    return folder


def install(requirement, folder, *options):
    """A folder with the requirement and those of its dependencies that are not from outside."""
    outside = {name_of(d) for package in PACKAGES for d in dependencies(package)} - set(PACKAGES)
    (folder / "outside.txt").write_text("".join(f"{name} ; python_version < '3'\n" for name in sorted(outside)))
    where = ("--python", sys.executable, "--target", folder / "site", "--overrides", folder / "outside.txt")
    uv("pip", "install", "--offline", *where, *options, requirement, cwd=folder)
    return folder / "site"


def use(site, cwd):
    """What the program prints: its result, and where the two packages were imported from."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(site)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result, purify, models = done.stdout.splitlines()
    return result, Path(purify), Path(models)


@pytest.mark.parametrize("way", ["wheel", "path", "git"])
def test_another_project_installs_and_purifies(way, tmp_path, wheels):
    if way == "wheel":
        site = install("rp-purify", tmp_path, "--no-index", "--find-links", wheels)
    elif way == "path":
        site = install(ROOT / "packages" / "rp-purify", tmp_path)
    elif not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    else:  # of the last commit, as another project would get it
        site = install(f"rp-purify @ git+{ROOT.as_uri()}#subdirectory=packages/rp-purify", tmp_path)
    installed = {path.name.partition("-")[0] for path in site.glob("*.dist-info")}
    assert installed == {"rp_purify", "rp_models"}  # what it depends on, and nothing else of the workspace
    result, purify, models = use(site, tmp_path)
    assert result == "(4, 1, 8, 8) True False"
    assert purify.is_relative_to(site)
    # by path, uv follows the workspace's own source for rp-models and links it
    assert models.is_relative_to(ROOT / "packages" / "rp-models" if way == "path" else site)


@pytest.mark.slow
def test_the_readmes_run_in_an_environment_of_the_wheels_alone(tmp_path, wheels):
    """A new environment with the six wheels; its other packages are those of this one, without this one's links."""
    outside = {name_of(d) for package in PACKAGES for d in dependencies(package)} - set(PACKAGES)
    (tmp_path / "outside.txt").write_text("".join(f"{name} ; python_version < '3'\n" for name in sorted(outside)))
    uv("venv", "--offline", "--python", sys.executable, "scratch", cwd=tmp_path)
    python = tmp_path / "scratch" / "bin" / "python"
    files = sorted(wheels.glob("*.whl"))
    uv("pip", "install", "--offline", "--python", python, "--overrides", "outside.txt", *files, cwd=tmp_path)
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]), m.metadata(sys.argv[1])['Description'])"
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"], "OMP_NUM_THREADS": "1"}
    for package in PACKAGES:
        done = subprocess.run([python, "-c", code, package], cwd=tmp_path, capture_output=True, text=True, check=True)
        version, readme = done.stdout.split(" ", 1)
        assert version == project("rp-models")["version"]
        blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
        assert blocks
        where = f"import {package.replace('-', '_')} as p; assert 'scratch' in p.__file__, p.__file__"
        done = subprocess.run(
            [python, "-c", "\n".join([*blocks, where])],
            cwd=tmp_path, capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{package}: {done.stderr}"


def test_every_package_has_the_same_version_and_asks_for_it():
    versions = {project(package)["version"] for package in PACKAGES}
    assert len(versions) == 1
    major, minor, _ = versions.pop().split(".")
    ours = [line for package in PACKAGES for line in dependencies(package) if name_of(line) in PACKAGES]
    assert {line.partition(">")[2] for line in ours} == {f"={major}.{minor},<{major}.{int(minor) + 1}"}
    version = f"{major}.{minor}.0"
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_all_that_the_source_does(package, wheels):
    (path,) = wheels.glob(f"{package.replace('-', '_')}-*.whl")
    source = ROOT / "packages" / package / "src"
    expected = {
        file.relative_to(source).as_posix()
        for file in source.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        header = Parser().parsestr(wheel.read(metadata).decode())
    assert expected <= names
    required = {name_of(line) for line in header.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert required == {name_of(line) for line in dependencies(package)}
    assert header.get_payload().startswith(f"# {package}")  # the README


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_carries_its_licence(package, wheels):
    if "license-files" not in project(package):
        pytest.xfail("uv_build leaves the file out unless license-files names it")
    (path,) = wheels.glob(f"{package.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(path) as wheel:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())
