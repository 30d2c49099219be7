"""Networks from other people's code, named on the command line: `package.module:factory` or `file.py:factory`.

Such code is executed because the user names it. Nothing in a checkpoint can: `rp_models.load` refuses such names.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


class ForeignNetworkError(ValueError):
    """A name of other people's code leads to no network."""


def is_foreign(name: str) -> bool:
    """Whether a name is of the form `package.module:factory` or `file.py:factory`."""
    source, colon, attribute = name.rpartition(":")
    code = source.endswith(".py") or all(part.isidentifier() for part in source.split("."))
    return bool(colon) and code and attribute.isidentifier()


def build_foreign(name: str, **arguments: Any) -> nn.Module:
    """The network that a factory makes, or that stands in the module under that name.

    Args:
        name: `package.module:factory`, imported as Python imports it, or `file.py:factory`. The factory is a function
            or a class that returns a torch module; a module-level `nn.Module` serves as well.
        **arguments: of the factory.

    Raises:
        ForeignNetworkError: if there is no such file, module or attribute, or it gives no torch module. Errors of the
            code itself come as they are.
    """
    factory = find_factory(name)
    if isinstance(factory, nn.Module):
        if arguments:
            raise ForeignNetworkError(f"{name} is a network already, it takes no {', '.join(arguments)}")
        return factory
    with _importable(name.rpartition(":")[0]):
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ForeignNetworkError(f"{name} returned a {type(model).__name__}, expected a torch module")
    return model


def find_factory(name: str) -> Any:
    """The function, class or module of that name; arguments and errors as of `build_foreign`."""
    source, _, attribute = name.rpartition(":")
    with _importable(source):
        module = _run_file(Path(source)) if source.endswith(".py") else _import(source, name)
    if not hasattr(module, attribute):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ForeignNetworkError(f"{source} has no {attribute!r}; it has {', '.join(sorted(public)) or 'nothing'}")
    factory = getattr(module, attribute)
    if not callable(factory):
        kind = type(factory).__name__
        raise ForeignNetworkError(f"{name} is a {kind}; expected a function or class that makes a torch module")
    return factory


def _import(source: str, name: str) -> ModuleType:
    """A module of an installed package."""
    try:
        return import_module(source)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise  # something that the module itself imports
        last = source.rpartition(".")[2]
        raise ForeignNetworkError(f"{name}: no module {error.name!r}; name a file as {last}.py:factory") from error


def _run_file(file: Path) -> ModuleType:
    """A file of Python code as a module; run again only when its text has changed."""
    if not file.is_file():
        raise ForeignNetworkError(f"there is no file {file}")
    digest = hashlib.blake2b(str(file.resolve()).encode() + file.read_bytes(), digest_size=8).hexdigest()
    name = f"_rp_models_foreign_{file.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(source: str) -> Iterator[None]:
    """A file's neighbours can be imported, as when Python runs the file."""
    folder = str(Path(source).resolve().parent)
    if not source.endswith(".py") or folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
