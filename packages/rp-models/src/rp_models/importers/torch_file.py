"""Files written by `torch.save`, read without executing anything that stands in them."""

import argparse
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rp_models.checkpoint import CheckpointError


def read_torch_file(path: str | Path, *, allow_namespace: bool = False) -> dict[str, Any]:
    """The dictionary in a file written by `torch.save`, on the CPU; tensors and plain values only.

    `allow_namespace` accepts `argparse.Namespace` too, which training scripts store beside the weights. Raises
    CheckpointError if the file is missing, damaged, holds anything but data, or is no dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace] if allow_namespace else []),
            warnings.catch_warnings(action="ignore", category=UserWarning),  # on an unusual pickle protocol
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way, from IndexError to struct.error
        raise CheckpointError(f"{path}: {_reason(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found a {type(content).__name__}")
    return content


def only_tensors(state: Mapping[str, Any], origin: str | Path) -> dict[str, Tensor]:
    """The entries of a state dict as plain tensors.

    Raises CheckpointError: naming the first entry that is no tensor.
    """
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{origin}: expected tensors only, but {key!r} is a {type(value).__name__}")
    return {key: value.detach() for key, value in state.items()}


def _reason(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch could not read."""
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "this is a web page, not a checkpoint; the download failed, fetch the file again"
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"refused, since it asks for {refused[1]}, which is neither a tensor nor a plain value; nothing was run"
    if "Unsupported operand" in str(error):
        return (
            "of a pickle protocol that torch reads only by running the file; save it anew with protocol 2, its default"
        )
    # torch's own text would advise to load the file without protection
    return f"not a complete file of torch.save that holds tensors and plain values only ({type(error).__name__})"
