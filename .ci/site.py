"""What mkdocs does not do by itself: the reference of a package, from its modules.

A page's line `<!-- reference: rp_purify -->` becomes the package's public names and its modules with their docstrings.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page's text with the references that it asks for; mkdocs calls this."""
    return MARK.sub(lambda found: reference(found[1]), markdown)


def reference(package: str) -> str:
    """The public names of a package, and all of its modules."""
    folder = ROOT / "packages" / package.replace("_", "-") / "src" / package
    modules = (f"::: {name}" for name in modules_of(folder))
    names = f"`from {package} import`: {', '.join(public_names(folder))}."
    return "\n\n".join(["## Public names", names, "## Modules", *modules])


def public_names(folder: Path) -> Iterator[str]:
    """What a package's root offers, linked to where the page describes it."""
    for node in ast.parse((folder / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                place = ".".join(filter(None, (folder.name, node.module, alias.name)))
                described = node.module is None or alias.name in defined(folder, node.module)
                yield f"[`{alias.name}`][{place}]" if described else f"`{alias.name}`"


def defined(folder: Path, module: str) -> set[str]:
    """The functions and classes of a module."""
    path = folder.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def modules_of(folder: Path) -> Iterator[str]:
    """Every module of a package that is not its root, by its full name, sorted."""
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name != folder.name and not any(part.startswith("_") for part in parts[1:-1]):
            yield name
