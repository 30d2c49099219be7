"""Arrays inside `.npz` files: their headers without their values, and the values mapped in place without a copy.

An `.npz` is a zip of `.npy` files. A member that is stored uncompressed lies in the file as it is, so that the system
can map it into memory and read what is used.
"""

import os
import shutil
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rp_models.data.errors import DataError
from rp_models.files import complete_file

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of its name and of its extra field
_COPY_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class Member:
    """One array of an `.npz`: what it is, and the place of its first value in the file, None if it is compressed."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None

    def map(self) -> np.ndarray:
        """The values, mapped read-only. Raises DataError if the member is compressed."""
        if self.offset is None:
            raise DataError(
                f"{self.path}: `{self.name}` is compressed, so it cannot be mapped; rewrite the file once with "
                f"rp_models.data.npz.uncompress({str(self.path)!r})"
            )
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    def read(self) -> np.ndarray:
        """The values in memory, of a compressed member as well."""
        if self.offset is not None:
            return np.array(self.map())
        with reading(self.path), np.load(self.path, allow_pickle=False) as file:
            return file[self.name]


def members(path: Path) -> dict[str, Member]:
    """The arrays of an `.npz` by name; nothing but headers is read.

    Raises DataError if the file is missing, no `.npz`, cut off, or holds Python objects.
    """
    with reading(path), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        found = [_member(path, archive, entry, file) for entry in archive.infolist() if entry.filename.endswith(".npy")]
    for member in found:
        length = int(np.prod(member.shape, dtype=np.int64)) * member.dtype.itemsize
        if member.offset is not None and member.offset + length > size:
            raise DataError(f"{path}: `{member.name}` should have {length} bytes, the file is cut off; fetch it again")
    return {member.name: member for member in found}


def uncompress(path: str | Path) -> None:
    """Rewrite an `.npz` without compression under the same name, so that it can be mapped.

    Needs the uncompressed size as free space and no memory; when it fails, the file stays as it was. Raises DataError
    if the file cannot be read or the new one not be written.
    """
    path = Path(path)
    with (
        reading(path),
        zipfile.ZipFile(path) as source,
        replacing(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target,
    ):
        for entry in source.infolist():
            bare = zipfile.ZipInfo(entry.filename)
            with source.open(entry) as values, target.open(bare, "w", force_zip64=True) as out:
                shutil.copyfileobj(values, out, _COPY_BYTES)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete and on the disk, or leaves no trace.

    Raises DataError if writing fails, e.g. on a full disk; what was there before is untouched.
    """
    try:
        with complete_file(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        kept = "; the file that was there is unchanged" if path.exists() else ""
        raise DataError(f"{path}: cannot be written ({error.strerror or error}){kept}") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what can go wrong with an `.npz` into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, EOFError, KeyError, ValueError, struct.error, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected an .npz with arrays `image` and `label` ({error})") from error


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: BinaryIO) -> Member:
    """One array's header, and the place of its values if they are not compressed."""
    with archive.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
        header = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: `{entry.filename}` holds Python objects; only plain arrays are read")
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: `{entry.filename}` is in Fortran order; save it with numpy.ascontiguousarray")
    offset = None
    if entry.compress_type == zipfile.ZIP_STORED:
        file.seek(entry.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise DataError(f"{path}: the archive's directory is wrong about `{entry.filename}`; fetch the file again")
        offset = entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length + header
    return Member(path, entry.filename.removesuffix(".npy"), shape, dtype, offset)
