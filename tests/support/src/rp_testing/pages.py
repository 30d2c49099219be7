"""Markdown pages: their code blocks, and running those in Python from top to bottom, as a reader would."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_FENCE = re.compile(
    r'^(?:<!-- test: (?P<test>[^\n]*) -->\n+)?```(?P<language>\w*)(?: title="(?P<title>[^"\n]*)")?\n(?P<body>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


def prose(text: str) -> str:
    """A page's text without its fenced blocks."""
    return _FENCE.sub("", text)


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str  # "" where the fence names none
    title: str  # the file that it shows, from `title="my_model.py"`; else ""
    test: str  # how a test runs it, from the line `<!-- test: ... -->` above; else ""
    body: str
    line: int  # of the fence


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; ValueError if a fence stays open."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            *(match[name] or "" for name in ("language", "title", "test", "body")),
            line=text.count("\n", 0, match.start("language")) + 1,
        )
        for match in _FENCE.finditer(text)
    ]
    if 2 * len(found) != len(re.findall(r"^```", text, re.MULTILINE)):
        raise ValueError(f"{page}: a fence of ``` is not closed, or its first line is not understood")
    return found


def run_python(page: Path) -> dict[str, Any]:
    """Run a page's Python blocks one after the other in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks(page):
        if block.language == "python":
            run_block(page, block, names)
    return names


def run_block(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Run one Python block in a namespace; a traceback shows the page's line."""
    exec(compile("\n" * block.line + block.body, str(page), "exec"), names)


def commands(block: Block) -> Iterator[str]:
    """The commands of a shell block, one a line; a line that ends in a backslash goes on."""
    for line in block.body.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


def check_toml(block: Block) -> None:
    """Raise if a TOML block cannot be read."""
    tomllib.loads(block.body)
