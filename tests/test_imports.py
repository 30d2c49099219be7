"""Who imports whom inside the packages: no circles, not even through imports inside functions."""

import ast
import contextlib
import graphlib
import importlib
import re

import pytest

from .running import ROOT

PACKAGES = ("rp_models", "rp_attacks", "rp_purify", "rp_dra", "rp_analysis", "rp_experiments")


def sources(package):
    """The files of a package's modules, by dotted name."""
    (root,) = ROOT.glob(f"packages/*/src/{package}")
    names = {file: ".".join(file.relative_to(root.parent).with_suffix("").parts) for file in root.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for file, name in names.items()}


def public_names(file):
    """Which module each name of a lazy package root comes from."""
    stub = file.with_suffix(".pyi")
    nodes = ast.parse(stub.read_text()).body if stub.exists() else []
    return {alias.asname: f"{node.module}.{alias.name}" for node in nodes for alias in node.names if node.module}


def imported(name, own, faces):
    """The modules of the same package that a module imports, at its top or anywhere else."""
    file = own[name]
    parts = name.split(".") + ["__init__"] * (file.name == "__init__.py")
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            face = faces.get(source, {})
            targets = [f"{source}.{face.get(alias.name, alias.name)}" for alias in node.names]
        else:
            continue
        for target in targets:
            while target and target not in own:
                target = target.rpartition(".")[0]
            if target:
                yield target


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package):
    own = sources(package)
    faces = {name: public_names(file) for name, file in own.items() if file.name == "__init__.py"}
    graph = {name: set(imported(name, own, faces)) - {name, package} for name in own}
    assert sum(map(len, graph.values())) >= len(graph) - 1
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "face", ["rp_models", "rp_models/data", "rp_models/training", "rp_attacks", "rp_purify", "rp_dra", "rp_analysis"]
)
def test_a_public_face_has_at_most_25_names(face):
    (stub,) = ROOT.glob(f"packages/*/src/{face}/__init__.pyi")
    names = public_names(stub)
    assert 10 < len(names) <= 25
    # a function of its module's name would be hidden as soon as somebody imports the module
    assert not names.keys() & {file.stem for file in stub.parent.glob("*.py")} - {"noise"}


def resolves(name):
    """Whether a dotted name is a module or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:length]))
            break
    for part in parts[length:]:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def test_every_dotted_name_that_code_and_pages_speak_of_exists():
    """Messages send readers to functions: those have to be there, also after a move."""
    spoken = {}
    for file in [
        *ROOT.glob("packages/*/src/**/*.py"),
        *ROOT.glob("apps/*.py"),
        *ROOT.glob("tests/*.py"),
        *ROOT.glob("packages/*/README.md"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
    ]:
        for name in re.findall(rf"(?<![\w/.-])((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+)", file.read_text()):
            spoken.setdefault(name, file.name)
    assert len(spoken) > 100
    assert {name: file for name, file in spoken.items() if not resolves(name)} == {}
