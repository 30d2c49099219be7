"""The committed pages: their links resolve, and their Python blocks name what exists."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
PAGES = sorted(ROOT / line for line in LISTED.splitlines())
BLOCKS = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def name_of(page):
    return str(page.relative_to(ROOT))


def anchors(text):
    """The ids of an HTML page, or those that a Markdown page's headings get: lower case, hyphens, no punctuation."""
    if text.startswith("<!doctype html>"):
        return set(re.findall(r'\bid="([^"]+)"', text))
    headings = re.findall(r"^#+ (.*)$", BLOCKS.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCKS.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        target = target / "README.md" if target.is_dir() else target
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_import_what_exists(page):
    blocks = [body for kind, body in BLOCKS.findall(page.read_text(encoding="utf-8")) if kind == "python"]
    imported = [node for body in blocks for node in ast.walk(ast.parse(body))]
    names = {alias.name for node in imported if isinstance(node, ast.Import) for alias in node.names}
    used = {node.value.id for node in imported if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    assert {name for name in used if name.startswith("rp_")} <= names
    for node in imported:
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
