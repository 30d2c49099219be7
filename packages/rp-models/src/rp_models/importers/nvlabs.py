"""The official EDM files of NVlabs (`edm-*.pkl`, VP and VE baselines, training snapshots), read without running them.

Such a file is a pickle in which every layer carries the source text of its module, for the official reader to execute.
That text is not needed: this reader knows eight harmless globals, puts functions of its own in their place which only
keep data, and refuses any other. The layers' attributes then tell the constructor's arguments and the weights.
"""

import inspect
import pickle
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.diffusion.precondition import EDMPrecond, VEPrecond, VPPrecond
from rp_models.importers.imported import Imported

_NETWORKS = {
    "EDMPrecond": ("edm", EDMPrecond),
    "VPPrecond": ("vp-precond", VPPrecond),
    "VEPrecond": ("ve-precond", VEPrecond),
}
_NUMBERS = ("f8", "f4", "i8", "i4", "b1")  # numpy's codes of the types that attributes may have
_STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
}


def read_nvlabs(path: str | Path) -> Imported:
    """Read an official EDM `.pkl`, or a snapshot of the official training code (its averaged network, `ema`).

    Its state has the official keys in their order. Raises CheckpointError if the file is missing or damaged, asks for
    anything but tensors and plain values (the message names it, and nothing of the file has run), or holds no network
    of these kinds.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = _unpickle(_NetworkReader, BytesIO(path.read_bytes()))
        network = content.get("ema") if isinstance(content, dict) else content
        if not isinstance(network, _Layer) or network.kind not in _NETWORKS:
            found = network.kind if isinstance(network, _Layer) else f"a {type(network).__name__}"
            raise CheckpointError(f"expected a network of class {' or '.join(_NETWORKS)}, found {found}")
        return Imported(_NETWORKS[network.kind][0], _arguments(network), dict(_entries(network, "", set())))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way, from EOFError to AttributeError
        raise CheckpointError(f"{path}: not a complete EDM pickle ({type(error).__name__}: {error})") from error


@dataclass
class _Layer:
    """A layer of the file: its class's name and its attributes."""

    kind: str = "ModuleDict"  # the one layer that is pickled as an ordinary object and not through its source text
    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


@dataclass
class _NumberType:
    """A numpy type; its further state, byte order and alignment, is the same in all files."""

    code: str = ""
    align: bool = False
    copy: bool = True

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    """An unpickler that knows some names, puts its own objects in their place, and refuses all other names."""

    known: ClassVar[Mapping[str, Any]]

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self.known:
            raise CheckpointError(
                f"refused, since it asks for {full_name}, which no EDM network needs; nothing of the file was run"
            )
        return self.known[full_name]


class _StorageReader(_Reader):
    """Reads the description of a tensor's memory, as old versions of torch wrote it."""

    known = _STORAGES

    def persistent_load(self, identity: Any) -> Any:
        return identity


def _layer(description: dict[str, Any]) -> _Layer:
    """A layer, without the source text of its class."""
    return _Layer(description["class_name"], description["state"])


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _tensor(memory: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A tensor on its memory; it may not claim more elements than there are."""
    if prod(size) > memory.numel():
        raise CheckpointError(f"a tensor of shape {size} on a memory of only {memory.numel()} elements")
    return memory.as_strided(size, stride, offset)


def _memory(data: bytes) -> Tensor:
    """The elements of a tensor's memory from the bytes in which torch wrote it: five pickles, a count, the values."""
    file = BytesIO(data)
    _magic, _version, _system, description, _keys = (_unpickle(_StorageReader, file) for _ in range(5))
    _, dtype, _name, _device, count, _view = description
    start = file.tell() + 8
    if count == 0 or len(data) - start != count * dtype.itemsize:
        raise CheckpointError(f"a tensor's memory of {count} elements has {max(0, len(data) - start)} bytes")
    return torch.frombuffer(bytearray(data[start:]), dtype=dtype)


def _number(kind: _NumberType, data: bytes) -> Any:
    """A numpy scalar as a Python number."""
    if kind.code not in _NUMBERS:
        raise CheckpointError(f"an attribute of the numpy type {kind.code!r}; expected {', '.join(_NUMBERS)}")
    return np.frombuffer(data, dtype=np.dtype(kind.code).newbyteorder("<"), count=1).item()


class _NetworkReader(_Reader):
    """Reads the pickle of a network: its layers, their tensors and plain attributes."""

    known: ClassVar[Mapping[str, Any]] = {
        "torch_utils.persistence._reconstruct_persistent_obj": _layer,
        "torch.nn.modules.container.ModuleDict": _Layer,
        "collections.OrderedDict": dict,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch.storage._load_from_bytes": _memory,
        "numpy.core.multiarray.scalar": _number,
        "numpy._core.multiarray.scalar": _number,
        "numpy.dtype": _NumberType,
    }


def _unpickle(reader: type[_Reader], file: BytesIO) -> Any:
    """The next object of a file, once its instructions have been seen to claim no more than it holds."""
    start = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # fails on a length beyond the end
        if opcode.name == "LONG_BINPUT" and int(argument or 0) > count:  # the table would grow to so many places
            raise CheckpointError(f"refused, since it claims to have stored {argument} objects after {count} steps")
    file.seek(start)
    return reader(file).load()


def _arguments(network: _Layer) -> dict[str, Any]:
    """The arguments of the network's constructor by name, as JSON values."""
    names = inspect.signature(_NETWORKS[network.kind][1]).parameters
    given = dict(zip(names, network.state["_init_args"], strict=False)) | network.state["_init_kwargs"]
    return {name: _plain(name, value) for name, value in given.items()}


def _plain(name: str, value: Any) -> Any:
    """An argument as a JSON value."""
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"the argument {name} of the network is a {type(value).__name__}; expected a plain value")


def _entries(layer: _Layer, prefix: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a layer: its parameters, its persistent buffers, and its children's."""
    if id(layer) in seen:
        raise CheckpointError(f"the layer {prefix} stands in two places")
    seen.add(id(layer))
    state = layer.state
    buffers = {k: v for k, v in state["_buffers"].items() if k not in state["_non_persistent_buffers_set"]}
    for name, tensor in {**state["_parameters"], **buffers}.items():
        if tensor is not None:
            if not isinstance(tensor, Tensor):
                raise CheckpointError(f"expected a tensor under {prefix}{name}, found a {type(tensor).__name__}")
            yield f"{prefix}{name}", tensor
    for name, child in state["_modules"].items():
        if child is not None:
            yield from _entries(child, f"{prefix}{name}.", seen)
