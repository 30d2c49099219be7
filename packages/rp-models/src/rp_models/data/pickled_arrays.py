"""Byte arrays, lists and numbers out of a pickle, without running anything that stands in it: CIFAR's batch files."""

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from rp_models.data.errors import DataError


def read_pickled_arrays(path: Path) -> dict[bytes, Any]:
    """The dictionary of a pickle of Python 2 or 3 that holds plain values and uint8 arrays only; keys come as bytes.

    Raises DataError if the file is damaged, holds no dictionary, or asks for anything else; the message names it, and
    nothing of the file has run.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayReader(file, encoding="bytes").load()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way, from EOFError to AttributeError
        raise DataError(f"{path}: not a complete pickle of arrays ({type(error).__name__}); fetch it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a dictionary, found a {type(content).__name__}")
    return {
        key.encode() if isinstance(key, str) else key: value.values if isinstance(value, _Array) else value
        for key, value in content.items()
    }


class _Type:
    """Stands for a numpy type; its further state, byte order and alignment, does not matter to bytes."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """Stands for a numpy array, and builds it from its bytes alone."""

    def __init__(self, *_: Any) -> None:
        self.values = np.zeros(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, fortran, raw = state
        self.values = _bytes(raw, kind, shape, "F" if fortran else "C")


def _bytes(raw: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    """The array of some bytes."""
    if not isinstance(kind, _Type) or kind.code != "u1" or order != "C":
        code = getattr(kind, "code", kind)
        raise DataError(f"expected arrays of unsigned bytes in C order, found one of type {code!r} in order {order}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _encoded(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in an old protocol."""
    return codecs.encode(text, "latin1")


class _ArrayReader(pickle.Unpickler):
    """An unpickler that knows a few names, puts its own objects in their place, and refuses all other names."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy.core.multiarray._reconstruct": _Array,
            "numpy._core.multiarray._reconstruct": _Array,
            "numpy.core.numeric._frombuffer": _bytes,  # protocol 5
            "numpy._core.numeric._frombuffer": _bytes,
            "numpy.ndarray": _Array,
            "numpy.dtype": _Type,
            "_codecs.encode": _encoded,
        }
        if f"{module}.{name}" not in known:
            raise DataError(
                f"refused, since it asks for {module}.{name}, which is no array; nothing of the file was run"
            )
        return known[f"{module}.{name}"]
