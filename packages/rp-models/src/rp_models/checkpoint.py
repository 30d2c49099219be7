"""Checkpoints: one safetensors file with the architecture's name and arguments in its header.

A file rebuilds its model: `load(path)` needs nothing else, and executes nothing from the file.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rp_models import zoo
from rp_models.files import complete_file

FORMAT = "rp/1"
WEIGHTS = Path(__file__).with_name("weights")  # the small checkpoints that come with the package
_HERE = Path(__file__).resolve()
CHECKOUT = _HERE.parents[4] if _HERE.parents[1].name == "src" else None  # the workspace; None where it is installed


class Header(NamedTuple):
    """What a checkpoint says about itself: the zoo's name, its arguments, and free notes."""

    architecture: str
    arguments: dict[str, Any]
    notes: dict[str, Any]


class CheckpointError(ValueError):
    """A checkpoint file is missing, damaged, of another format, or does not fit its model."""


def save(
    model: nn.Module,
    path: str | Path,
    *,
    state: Mapping[str, Tensor] | None = None,
    notes: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model built by `rp_models.build` to one safetensors file, atomically.

    Raises CheckpointError if the model was not built by the zoo.

    Args:
        model: carries its zoo name and arguments (`model.recipe`, set by `build`).
        path: the file; an existing one is replaced only after the new one is complete.
        state: to store instead of `model.state_dict()`, e.g. an average's; same keys.
        notes: JSON values to keep in the header, e.g. the data set and the number of steps.
        dtype: store floating-point tensors in this type, e.g. `torch.float16`.
    """
    recipe = getattr(model, "recipe", None)
    if not isinstance(recipe, zoo.Recipe):
        raise CheckpointError(
            f"{type(model).__name__} does not know its zoo name; build it with rp_models.build(name, ...)"
        )
    header = {"architecture": recipe.name, "arguments": recipe.arguments, "notes": dict(notes or {})}
    tensors = {key: _portable(value, dtype) for key, value in (model.state_dict() if state is None else state).items()}
    save_tensors(tensors, path, header)


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def load(path: str | Path, *, device: torch.device | str = "cpu", code: str | None = None) -> nn.Module:
    """Rebuild the model of a checkpoint and fill it, strictly; returned in eval mode, on `device`.

    `path` is a file written by `save`, or a name that `named_checkpoints` knows, e.g. "mae-digits". A network of code
    outside rp-models is built only if the caller names it too: `code="file.py:factory"`. Raises CheckpointError if the
    file is missing, damaged or of another format, its tensors do not fit, or its network is of code outside rp-models
    that the caller has not named.
    """
    header = read_header(path)
    try:
        build = zoo.build if header.architecture == code else zoo.build_entry
        model = build(header.architecture, **header.arguments)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    load_state(model, read_tensors(path), origin=str(path))
    return model.to(device).eval()


@torch.inference_mode(False)
def load_state(model: nn.Module, state: Mapping[str, Tensor], *, origin: str = "the state dict") -> None:
    """Fill a model with a state dict, strictly, cast to the model's types; it is untouched if anything does not fit.

    Raises CheckpointError: naming `origin`, missing and unexpected keys and differing shapes (up to five each).
    """
    own = model.state_dict()
    problems = []
    for title, keys in (
        ("missing", sorted(own.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - own.keys())),
        (
            "of another shape",
            [
                f"{key} ({_shape(state[key])} in the file, {_shape(own[key])} in the model)"
                for key in own.keys() & state.keys()
                if own[key].shape != state[key].shape
            ],
        ),
    ):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            problems.append(f"{len(keys)} {title}: {', '.join(keys[:5])}{more}")
    if problems:
        raise CheckpointError(f"{origin} does not fit {type(model).__name__}: " + "; ".join(problems))
    model.load_state_dict(dict(state))


def read_header(path: str | Path) -> Header:
    """What a checkpoint says about itself, without reading its tensors.

    Raises CheckpointError if the file is missing, damaged or of another format.
    """
    header = read_metadata(path)
    try:
        return Header(header["architecture"], header["arguments"], header["notes"])
    except KeyError as missing:
        raise CheckpointError(f"{path}: the header has no {missing}; it is no model checkpoint") from None


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path, header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file: complete under its name, or not at all.

    Raises OSError if the file cannot be written, e.g. because the disk is full.
    """
    metadata = {"format": FORMAT, "header": json.dumps(header)}
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    try:
        with complete_file(Path(path)) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # as the user's umask has it: safetensors keeps files from everybody else
            save_file(contiguous, temporary, metadata=metadata)
            temporary.chmod(mode)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}); a file that had this name before is kept") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises CheckpointError if the file is missing or damaged."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON header of a file written by `save_tensors`.

    Raises CheckpointError if the file is missing, damaged or of another format.
    """
    with _opened(path) as file:
        metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected a checkpoint of format {FORMAT}, found {metadata.get('format')!r}; "
            "official files are converted by rp_models.importers"
        )
    header: dict[str, Any] = json.loads(metadata["header"])
    return header


def named_checkpoints() -> dict[str, Path]:
    """The checkpoint files that `load` finds by name.

    They lie in the folders of the environment variable `RP_WEIGHTS`, in `./weights`, in the package, and in `weights/`
    of the source checkout; of two with one name, the first in this order counts.
    """
    asked = [Path(folder) for folder in os.environ.get("RP_WEIGHTS", "").split(os.pathsep) if folder]
    folders = [*asked, Path("weights"), WEIGHTS, *([CHECKOUT / "weights"] if CHECKOUT else [])]
    return {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.safetensors"))}


def _opened(path: str | Path) -> Any:
    """The safetensors reader of a file, or an error that says what is wrong with it."""
    named = named_checkpoints()
    file = Path(path) if Path(path).is_file() else named.get(str(path))
    if file is None:
        raise CheckpointError(
            f"{path}: no such checkpoint file; by name there are {', '.join(sorted(named)) or 'none'}. "
            "RP_WEIGHTS names a further folder of checkpoints"
        )
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        if _is_pickle(file):
            raise CheckpointError(
                f"{path}: a pickle or file of torch.save, which does not say of what network; convert it once with "
                f"`apps/convert.py robust {path} mine.safetensors` (or mae, maskdit, nvlabs, ...), or read it with "
                f"rp_models.importers.read_robust({str(path)!r}).build()"
            ) from error
        raise CheckpointError(f"{path}: not a complete safetensors file ({error})") from error


def _is_pickle(file: Path) -> bool:
    """Whether a file begins like the zip or the pickle that `torch.save` writes, and not like safetensors."""
    if not file.is_file():
        return False
    with file.open("rb") as content:
        start = content.read(9)
    return start[:2] == b"PK" or (start[:1] == b"\x80" and start[8:] != b"{")


def _portable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A copy that shares no memory with other entries, floating-point values in `dtype`."""
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).clone()


def _shape(tensor: Tensor) -> str:
    """The shape as `3x4`, or `scalar`."""
    return "x".join(map(str, tensor.shape)) or "scalar"
