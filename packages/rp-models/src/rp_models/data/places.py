"""Where the files of a data set are looked for, and how they can be brought there."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rp_models.data.errors import DataError


def data_roots(root: str | Path | None) -> tuple[Path, ...]:
    """The folders that hold data sets: the given one, or else `$RP_DATA` and `./data`."""
    if root is not None:
        return (Path(root),)
    named = os.environ.get("RP_DATA")
    return (*((Path(named),) if named else ()), Path("data"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the files of one data set may lie."""

    name: str  # of the data set
    folders: tuple[str, ...]  # sub-folders of a root that may hold the files; "" is the root itself
    # folders outside any root, e.g. of a Debian package; not looked at when a root is given.
    system: tuple[Path, ...] = ()
    torchvision: str = ""  # its class that downloads the files into a root, if it has one
    splits: tuple[str, ...] = ()  # that this class downloads one by one, into the first of `folders`
    advice: str = ""  # another way to get the files

    def find(self, files: Sequence[str], *, root: str | Path | None = None, download: bool = False) -> Path:
        """The first folder with one of these files, after a download if that is allowed and there is none.

        Raises DataError if the files are nowhere, with the folders looked at and the ways to get the files; or if the
        download fails.
        """
        places = [base / folder for base in data_roots(root) for folder in self.folders]
        places += self.system if root is None else ()
        wanted = download or os.environ.get("RP_DOWNLOAD", "") not in ("", "0")
        for attempt in (False, True):
            if attempt and wanted and self.torchvision:
                self._download(data_roots(root)[0])
            for folder in places:
                if any((folder / file).exists() for file in files):
                    return folder
        looked = ", ".join(str(place) for place in places)
        raise DataError(f"{self.name}: no {' or '.join(files)} in any of {looked}; {self._ways()}")

    def _ways(self) -> str:
        """What a user can do when the files are missing."""
        ways = ["name the folder that holds the data set with root= or the environment variable RP_DATA"]
        ways += [self.advice] if self.advice else []
        ways += ["let torchvision download it with download=True or RP_DOWNLOAD=1"] if self.torchvision else []
        return ", or ".join(ways)

    def _download(self, target: Path) -> None:
        """Run torchvision's download."""
        folder = target / self.folders[0] if self.splits else target
        try:
            dataset = getattr(import_module("torchvision.datasets"), self.torchvision)
            for option in [{"split": split} for split in self.splits] or [{}]:
                dataset(str(folder), download=True, **option)
        except ImportError as error:
            raise DataError(
                f"{self.name}: the download needs torchvision; pip install 'rp-models[torchvision]'"
            ) from error
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.name}: the download into {target} failed ({error})") from error
