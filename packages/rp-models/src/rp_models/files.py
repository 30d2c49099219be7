"""Files that are complete under their name, or not there; importing this does not import torch."""

import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = re.sub(r"\W", "_", platform.node())


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; the file takes its name when the block is through and it is on disk.

    When the block fails, what was there before is untouched, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # the rename must not become visible before the bytes
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible; complete or not at all."""
    with complete_file(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)


def abandoned(temporary: Path) -> bool:
    """Whether a temporary file was left behind by a process of this machine; those of others may be at work."""
    host, _, process = temporary.name.split(".")[-2].rpartition("-")
    return host == _HOST and process.isdecimal() and not _alive(int(process))


def _alive(process: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
