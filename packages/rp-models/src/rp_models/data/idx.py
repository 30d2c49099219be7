"""MNIST's IDX files, plain or gzipped: the format of Fashion-MNIST.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits" (the format's description).
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from rp_models.data.errors import DataError

_BYTES = 0x08  # IDX's code of unsigned bytes


def read_idx(path: Path) -> np.ndarray:
    """The unsigned bytes of one IDX file, in the shape that its header tells; `.gz` is decompressed.

    Raises DataError if the file is damaged, cut off, or holds other values than bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); fetch the file again") from error
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _BYTES:
        raise DataError(f"{path}: expected an IDX file of unsigned bytes, its first bytes are {raw[:4].hex()}")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header]) if len(raw) >= header else (-1,)
    values = np.frombuffer(raw, dtype=np.uint8, offset=min(header, len(raw)))
    if values.size != np.prod(shape):
        raise DataError(f"{path}: the header promises {shape} bytes, the file holds {values.size}; fetch it again")
    return values.reshape(shape)
