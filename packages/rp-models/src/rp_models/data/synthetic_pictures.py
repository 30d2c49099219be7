"""Synthetic images as picture files: in a folder for each class, beside a `dataset.json`, or in tar files.

Sources: the folders of EDM's data tool (Karras et al. 2022, arXiv:2206.00364), whose `dataset.json` holds the labels;
WebDataset (Aizman et al. 2020, arXiv:2001.01858), whose tar files hold a picture and its class under one key.
"""

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rp_models.data.class_folder import ENDINGS, Listing, classes_of, list_images
from rp_models.data.decode import View, picture_header, view_picture
from rp_models.data.errors import DataError
from rp_models.data.folder_images import FolderImages
from rp_models.data.images import Images
from rp_models.data.info import DatasetInfo
from rp_models.data.joined import JoinedImages
from rp_models.data.synthetic import files_of, read_synthetic


def open_synthetic(paths: str | Path | Sequence[str | Path], info: DatasetInfo) -> Images:
    """Open a synthetic set of any kind; its images stay where they are and are read when a batch needs them.

    `paths`: `.npz` files, as `read_synthetic` takes them; folders of pictures, sorted into one folder for each class
    (called by the class's name or number) or with labels in `dataset.json`; or `.tar` files of WebDataset, with a
    picture `KEY.png` (or `.jpg`, ...) and its class `KEY.cls`. Folders and patterns with `*` of files as well; several
    are numbered through in the given order. Raises DataError if something is missing or damaged, or does not fit the
    data set: pictures must have its size.
    """
    given = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not given:
        raise DataError("no files of synthetic images were given")
    sets = [_opened(path, info) for path in given]
    kinds = {type(one) for one in sets}
    if kinds == {type(None)}:
        return read_synthetic(given, info)
    if None in sets:
        raise DataError(f"synthetic images are .npz files or pictures, not both: {', '.join(map(str, given))}")
    joined: Images = sets[0]  # type: ignore[assignment]
    for more in sets[1:]:
        joined = JoinedImages(joined, more)  # type: ignore[arg-type]
    return joined


class SyntheticPictures(FolderImages):
    """Picture files of exactly the data set's size."""

    def _square(self, raw: bytes) -> np.ndarray:
        """The pixels of a file."""
        _, height, width = picture_header(raw)
        if (height, width) != (self.info.image_size,) * 2:
            raise DataError(
                f"has {height} x {width} pixels, expected {self.info.image_size} x {self.info.image_size}; say another "
                "size of synthetic images by synthetic.image_size"
            )
        return view_picture(raw, self.view)


class TarPictures(SyntheticPictures):
    """Pictures inside of uncompressed tar files, read in place; `names` are `FILE.tar/KEY.png`."""

    def __init__(self, members: Sequence["_Picture"], info: DatasetInfo) -> None:
        self._members = members
        labels = torch.tensor([member.label for member in members], dtype=torch.int64)
        names = [f"{member.tar.name}/{member.name}" for member in members]
        super().__init__(members[0].tar.parent, names, labels, info, view=_view(info))

    def _read(self, position: int) -> bytes:
        """The bytes of a picture."""
        member = self._members[position]
        with member.tar.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), member.size, member.offset)


class _Picture:
    """Where a picture lies in a tar file, and its class."""

    __slots__ = ("label", "name", "offset", "size", "tar")

    def __init__(self, tar: Path, member: tarfile.TarInfo) -> None:
        self.tar, self.name, self.offset, self.size, self.label = tar, member.name, member.offset_data, member.size, -1


def _opened(path: Path, info: DatasetInfo) -> SyntheticPictures | None:
    """Pictures in a folder or in tar files; None if these are none."""
    if path.is_dir():
        kinds = [ending for ending in (".tar", ".npz") if any(path.glob(f"*{ending}"))]
        if not kinds:
            return SyntheticPictures.of(_listing(path, info), info, _view(info))
        if len(kinds) == 2:
            raise DataError(f"{path} holds .npz and .tar files; name those that are meant, e.g. {path / '*.tar'}")
        ending = kinds[0]
    else:
        ending = path.suffix
    if ending != ".tar":
        return None
    tars = files_of(path, ending)
    return TarPictures([picture for tar in tars for picture in _pictures(tar, info)], info)


def _view(info: DatasetInfo) -> View:
    return View(size=info.image_size, channels=info.channels, upright=False)


def _listing(folder: Path, info: DatasetInfo) -> Listing:
    """The files of a folder with their labels."""
    if (folder / "dataset.json").is_file():
        try:
            pairs = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
            names, labels = zip(*((str(name), int(label)) for name, label in pairs), strict=True)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f'{folder / "dataset.json"}: expected {{"labels": [[NAME, CLASS], ...]}} ({error})'
            ) from None
        return Listing(folder, info.class_names, names, labels)
    found = classes_of(folder)
    if not set(found) <= set(info.class_names) and all(name.isdecimal() for name in found):
        listing = list_images(folder, found)
        return Listing(folder, info.class_names, listing.names, tuple(int(found[label]) for label in listing.labels))
    return list_images(folder, info.class_names)


def _pictures(path: Path, info: DatasetInfo) -> list[_Picture]:
    """The pictures of a tar file, each with its class; only headers and classes are read."""
    pictures: dict[str, _Picture] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                head, _, name = member.name.rpartition("/")
                key, _, ending = name.partition(".")
                key = f"{head}/{key}"
                if f".{ending.lower()}" in ENDINGS and member.isreg():
                    if key in pictures:
                        raise DataError(f"{path}: two pictures of the key {key.lstrip('/')}")
                    pictures[key] = _Picture(path, member)
                elif ending == "cls" and (file := tar.extractfile(member)):
                    labels[key] = _label(file.read().decode().strip(), info)
    except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no uncompressed tar file that can be read ({error})") from error
    for key, picture in pictures.items():
        if key not in labels:
            raise DataError(f"{path}: {picture.name} has no class; expected it in {key.lstrip('/')}.cls")
        picture.label = labels[key]
    if not pictures:
        raise DataError(f"{path}: no pictures ({', '.join(ENDINGS)})")
    return list(pictures.values())


def _label(text: str, info: DatasetInfo) -> int:
    """A class, given by its number or its name; -1, which no data set has, for anything else."""
    if text.isdecimal():
        return int(text)
    return info.class_names.index(text) if text in info.class_names else -1
