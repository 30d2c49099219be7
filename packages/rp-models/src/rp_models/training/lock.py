"""A lock on a folder: one process at a time holds it, and the system releases it when that process ends, however."""

import os
import platform
import weakref
from pathlib import Path


class FolderLocked(RuntimeError):
    """Another process holds the folder; the message names it."""


class FolderLock:
    """Holds a folder for as long as this object lives; the same process may take the lock again and shares it."""

    def __init__(self, descriptor: int) -> None:
        self._release = weakref.finalize(self, os.close, descriptor)


_HELD: "weakref.WeakValueDictionary[Path, FolderLock]" = weakref.WeakValueDictionary()


def lock_folder(folder: Path, *, wait: bool = False) -> FolderLock:
    """Take the lock of an existing folder, its file `.lock`; a file system without locks lets everybody pass.

    Raises FolderLocked if another process holds it. `folder`: to be held. `wait`: until whoever holds it is done,
    instead of an error.
    """
    import fcntl

    file = (folder / ".lock").resolve()
    held = _HELD.get(file)
    if held is not None:
        return held
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        holder = os.read(descriptor, 1000).decode(errors="replace").strip()
        os.close(descriptor)
        raise FolderLocked(f"{folder} is in use by {holder or 'another process'}") from None
    except OSError:  # this file system has no locks
        pass
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    lock = _HELD[file] = FolderLock(descriptor)
    return lock
