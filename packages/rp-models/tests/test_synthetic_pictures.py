"""Synthetic images as pictures in folders and in tar files: the same bytes as in an `.npz`, and what is refused."""

import io
import json
import tarfile

import pytest
import torch
from rp_models.data import (
    DataError,
    ResizedCrop,
    describe,
    load_images,
    open_synthetic,
    read_synthetic,
    write_synthetic,
)

pytest.importorskip("PIL")
from PIL import Image

DIGITS = describe("digits")
COUNT = 12
SET = load_images("digits", "train")
IMAGES, LABELS = SET.images[:COUNT], SET.labels[:COUNT]


def png(number, size=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(IMAGES[number, 0].numpy())
    (picture if size is None else picture.resize((size, size))).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def sample(number, **files):
    return {f"shard/{number:06d}.{ending}": content for ending, content in files.items()}


def labelled(numbers):
    return {
        name: content
        for n in numbers
        for name, content in sample(n, cls=str(int(LABELS[n])).encode(), png=png(n), json=b"{}").items()
    }


def class_folders(root, name):
    for number in range(COUNT):
        folder = root / name(int(LABELS[number]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03d}.png").write_bytes(png(number))


@pytest.fixture(params=["names", "numbers", "dataset.json", "tars", "one tar"])
def stored(request, tmp_path):
    """A set of each kind, and the order in which it holds the images."""
    by_class = sorted(range(COUNT), key=lambda number: (int(LABELS[number]), number))
    if request.param in ("names", "numbers"):
        class_folders(tmp_path / "set", DIGITS.class_names.__getitem__ if request.param == "names" else "{:04d}".format)
        return tmp_path / "set", by_class
    if request.param == "dataset.json":
        (tmp_path / "set" / "00000").mkdir(parents=True)
        names = [f"00000/img{number:08d}.png" for number in range(COUNT)]
        for number, name in enumerate(names):
            (tmp_path / "set" / name).write_bytes(png(number))
        labels = {"labels": [[name, int(label)] for name, label in zip(names, LABELS, strict=True)]}
        (tmp_path / "set" / "dataset.json").write_text(json.dumps(labels))
        return tmp_path / "set", list(range(COUNT))
    if request.param == "one tar":
        write_tar(tmp_path / "set.tar", labelled(range(COUNT)))
        return tmp_path / "set.tar", list(range(COUNT))
    (tmp_path / "set").mkdir()
    for number, numbers in ((10, range(5, COUNT)), (9, range(5))):  # in the order of the numbers in their names
        write_tar(tmp_path / "set" / f"shard-{number}.tar", labelled(numbers))
    return tmp_path / "set" / "shard-*.tar", list(range(COUNT))


def test_pictures_are_the_bytes_of_an_npz(stored, tmp_path):
    path, order = stored
    write_synthetic(IMAGES[order], LABELS[order], tmp_path / "same.npz")
    expected, found = read_synthetic(tmp_path / "same.npz", DIGITS), open_synthetic(path, DIGITS)
    assert torch.equal(found.labels, expected.labels)
    index = torch.tensor([7, 0, 7, 11])
    for one, other in zip(found.batch(index), expected.batch(index), strict=True):
        assert torch.equal(one, other)
    twice = open_synthetic([path, path], DIGITS)
    assert torch.equal(twice.batch(torch.tensor([COUNT + 3]))[0], expected.batch(torch.tensor([3]))[0])
    x, y = found.crops(index, ResizedCrop(scale=(0.5, 1.0)), seed=0, purpose="test", draw=index)
    assert x.shape == (4, 1, 8, 8)
    assert torch.equal(y, expected.labels[index])


def test_npz_files_open_as_well(tmp_path):
    write_synthetic(IMAGES, LABELS, tmp_path / "set.npz")
    assert torch.equal(open_synthetic(tmp_path, DIGITS).batch(slice(3))[1], LABELS[:3])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (sample(3, png=png(3)), r"has no class; expected it in shard/000003\.cls"),
        (sample(3, png=png(3), cls=b"12"), r"labels must be in 0\.\.9"),
        (sample(3, png=png(3), cls=b"a zebra"), r"labels must be in 0\.\.9"),
        (sample(3, png=png(3), jpg=png(3), cls=b"1"), "two pictures of the key shard/000003"),
        (sample(3, cls=b"1"), "no pictures"),
        (sample(3, png=png(3, size=9), cls=b"1"), r"shard/000003\.png: has 9 x 9 pixels, expected 8 x 8"),
        (sample(3, png=b"no picture", cls=b"1"), r"bad\.tar/shard/000003\.png: no picture in any known format"),
    ],
)
def test_a_bad_tar_file_is_refused(tmp_path, files, message):
    write_tar(tmp_path / "bad.tar", files)
    with pytest.raises(DataError, match=message):
        open_synthetic(tmp_path / "bad.tar", DIGITS).batch(slice(None))


def test_other_bad_sets_are_refused(tmp_path):
    write_tar(tmp_path / "zipped.tar", labelled(range(2)), mode="w:gz")
    with pytest.raises(DataError, match="no uncompressed tar file"):
        open_synthetic(tmp_path / "zipped.tar", DIGITS)
    write_synthetic(IMAGES, LABELS, tmp_path / "set.npz")
    with pytest.raises(DataError, match=r"holds \.npz and \.tar files"):
        open_synthetic(tmp_path, DIGITS)
    write_tar(tmp_path / "good.tar", labelled(range(2)))
    with pytest.raises(DataError, match="not both"):
        open_synthetic([tmp_path / "good.tar", tmp_path / "set.npz"], DIGITS)
    class_folders(tmp_path / "birds", lambda label: f"bird {label}")
    with pytest.raises(DataError, match="is unknown"):
        open_synthetic(tmp_path / "birds", DIGITS)
    with pytest.raises(DataError, match="no files"):
        open_synthetic([], DIGITS)
