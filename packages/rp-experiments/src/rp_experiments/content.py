"""What determines an artifact, in one hash: settings, the contents of files that they name, networks by their weights.

Importing this does not import torch.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp_models.robustbench.entries import is_spec, resolve
from rp_models.robustbench.places import files_at_hand

if TYPE_CHECKING:
    from torch import nn


def address(identity: Any, *, size: int = 8) -> str:
    """The name of what an identity determines: a hash of its JSON text, of so many bytes.

    Files that the identity names by path enter by their contents: see `contents`.
    """
    text = json.dumps(contents(identity), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


def contents(value: Any) -> Any:
    """The value with hashes in the place of files' paths, and of a folder's under the key "data"."""
    if isinstance(value, Mapping):
        return {key: _folder(item) if key == "data" else contents(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [contents(item) for item in value]
    if isinstance(value, str) and is_spec(value):
        return " ".join([value, *inputs(value).values()])
    if isinstance(value, str | Path) and (path := _file_in(str(value))):
        return f"{path.name} {_file_digest(path)}{str(value)[len(str(path)) :]}"
    return value


def inputs(value: Any) -> dict[str, str]:
    """The hashes of all files that settings name, by their paths."""
    if isinstance(value, Mapping):
        return {path: found for item in value.values() for path, found in inputs(item).items()}
    if isinstance(value, list | tuple):
        return {path: found for item in value for path, found in inputs(item).items()}
    if isinstance(value, str) and is_spec(value):
        return {
            str(path): _file_digest(path) for path in files_at_hand(resolve(value))
        }  # whoever loads it says what lacks
    path = _file_in(value) if isinstance(value, str) else None
    return {str(path): _file_digest(path)} if path else {}


def digest(weights: "str | Path | nn.Module") -> str:
    """A hash of a network: weights and how it is built, whatever the file is called; CheckpointError without one."""
    import torch
    from rp_models.loading import load_network

    model = load_network(str(weights)) if isinstance(weights, str | Path) else weights
    built = getattr(model, "recipe", None) or (type(model).__qualname__, str(model))  # another's has no recipe
    found = hashlib.blake2b(json.dumps(built, sort_keys=True, default=str).encode(), digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        found.update(name.encode())
        found.update(value.view(torch.uint8).numpy().tobytes() if value.dim() else str(value).encode())
    return found.hexdigest()


def _file_in(text: str) -> Path | None:
    """The file that a text names, by its path or as `file.py:factory`; a bare word is a name, whatever lies here."""
    name = text.rpartition(":")[0] if ".py:" in text else text
    possible = ("/" in name or "." in name) and len(name) < 4096 and "\n" not in name
    return Path(name) if possible and Path(name).is_file() else None


def _folder(value: Any) -> Any:
    """A folder of images by the names and sizes of its files; anything else as `contents`."""
    if not isinstance(value, str | Path) or "/" not in str(value) or not Path(value).is_dir():
        return contents(value)
    files = sorted(path for path in Path(value).rglob("*") if path.is_file())
    names = [(str(path.relative_to(value)), path.stat().st_size) for path in files]
    return f"{Path(value).name} {address(names)}"


def _file_digest(path: Path) -> str:
    """A hash of a file; of a very large one, of its size, its beginning and its end."""
    size, part = path.stat().st_size, 2**26
    found = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        if size <= 8 * part:
            return hashlib.file_digest(file, lambda: found).hexdigest()
        found.update(f"{size} ".encode() + file.read(part))
        file.seek(-part, 2)
        found.update(file.read(part))
    return found.hexdigest()
