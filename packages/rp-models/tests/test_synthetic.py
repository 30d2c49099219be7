"""Synthetic sets on disk: DM-AT's layout, several parts, mapped and not read, and whole or not at all."""

import errno
import io
import mmap
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_models.data import (
    BatchPlan,
    DataError,
    JoinedImages,
    SyntheticImages,
    describe,
    load_images,
    read_synthetic,
    synthetic,
    write_synthetic,
)
from rp_models.data.npz import uncompress
from rp_models.data.npz_set import read_npz_images
from rp_models.data.synthetic import part_path
from rp_models.shards import read_shard

DIGITS = describe("digits")


def made(count, seed=0):
    """Some images and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 10


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A set of 25 images in three files of unequal length, and its images and labels."""
    folder = tmp_path_factory.mktemp("parts")
    images, labels = made(25)
    for number, (start, end) in enumerate([(0, 11), (11, 12), (12, 25)]):
        write_synthetic(images[start:end], labels[start:end], part_path(folder / "set.npz", number, 3))
    return folder, images, labels


def test_a_set_survives_the_disk_in_dm_ats_layout(tmp_path):
    images, labels = made(7)
    write_synthetic(images, labels, tmp_path / "deep" / "set.npz")
    with np.load(tmp_path / "deep" / "set.npz") as file:
        assert file["image"].shape == (7, 8, 8, 1)
        assert file["label"].dtype == np.int64
    back = read_synthetic(tmp_path / "deep" / "set.npz", DIGITS)
    assert isinstance(back, SyntheticImages)
    assert torch.equal(back.images, images)
    assert torch.equal(back.labels, labels)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set.npz"]


def test_a_file_of_the_same_images_has_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_synthetic(*made(3), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("way", ["folder", "pattern", "list"])
def test_parts_make_one_set_in_the_order_of_their_numbers(parts, way):
    folder, images, labels = parts
    files = [part_path(folder / "set.npz", number, 3) for number in range(3)]
    given = {"folder": folder, "pattern": str(folder / "set-*.npz"), "list": files}[way]
    whole = read_synthetic(given, DIGITS)
    assert len(whole) == 25
    assert torch.equal(whole.images, images)
    assert torch.equal(whole.labels, labels)


def test_the_published_names_are_ordered_by_number(tmp_path):
    images, labels = made(11)
    for number in range(11):
        write_synthetic(images[number : number + 1], labels[:1], tmp_path / f"20m_part{number + 1}.npz")
    assert torch.equal(read_synthetic(tmp_path, DIGITS).images, images)


@settings(deadline=None, max_examples=15)
@given(index=st.lists(st.integers(0, 24), max_size=40))
def test_a_batch_is_what_the_set_in_memory_gives(parts, index):
    whole = read_synthetic(parts[0], DIGITS)
    index = torch.tensor(index, dtype=torch.int64)
    for one, other in zip(whole.batch(index), whole.load().batch(index), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype


def test_slices_and_masks_choose_as_in_memory(parts):
    whole = read_synthetic(parts[0], DIGITS)
    for index in (slice(None), slice(3, 20, 4), whole.labels == 3):
        assert torch.equal(whole.batch(index)[0], whole.load().batch(index)[0])
    with pytest.raises(IndexError, match=r"positions must be in 0\.\.24"):
        whole.batch(torch.tensor([25]))


def test_pages_are_given_back_and_come_again(parts, monkeypatch):
    monkeypatch.setattr("rp_models.data.synthetic._RESIDENT", 0)
    whole = read_synthetic(parts[0], DIGITS)
    for _ in range(3):
        assert torch.equal(whole.images, parts[1])


@pytest.mark.parametrize("reads", [1, 3])
def test_pages_are_given_back_each_time_that_so_many_bytes_were_touched(parts, monkeypatch, reads):
    """An image touches a page at least; past the limit all maps are given back, and the count begins anew."""
    given_back = []
    monkeypatch.setattr("rp_models.data.synthetic._advise", lambda values, advice: given_back.append(advice))
    whole = read_synthetic(parts[0], DIGITS)
    assert given_back == ["MADV_RANDOM"] * 3  # one for each file
    given_back.clear()
    monkeypatch.setattr("rp_models.data.synthetic._RESIDENT", reads * 5 * mmap.PAGESIZE - 1)
    for read in range(1, 3 * reads + 1):
        whole.batch(torch.arange(5))
        assert given_back == ["MADV_DONTNEED"] * (3 * (read // reads))


def test_an_npz_with_a_long_header_is_read(tmp_path):
    """Version 2 of the header, which numpy writes where 64 KiB are not enough."""
    images, labels = made(4)
    with zipfile.ZipFile(tmp_path / "long.npz", "w") as archive:
        for name, array in {"image": images.permute(0, 2, 3, 1).contiguous().numpy(), "label": labels.numpy()}.items():
            file = io.BytesIO()
            np.lib.format.write_array(file, array, version=(2, 0))
            archive.writestr(f"{name}.npy", file.getvalue())
    assert torch.equal(read_synthetic(tmp_path / "long.npz", DIGITS).images, images)


def test_real_and_synthetic_images_share_a_numbering(parts):
    real, synthetic = load_images("digits", "validation"), read_synthetic(parts[0], DIGITS)
    joined = JoinedImages(real, synthetic)
    assert len(joined) == len(joined.labels) == 225
    plan = BatchPlan(real=200, synthetic=25, batch_size=20, synthetic_fraction=0.5, epoch_images=200)
    for index in (plan.indices(0, 0), torch.tensor([3, 1]), torch.tensor([224, 200]), torch.arange(0)):
        x, y = joined.batch(index)
        both = torch.cat([real.images, parts[1]])
        assert torch.equal(x, both[index].float() / 255)
        assert torch.equal(y, joined.labels[index])


def test_sets_of_different_kind_cannot_be_joined(parts, tmp_path):
    np.savez(tmp_path / "own.npz", image=np.zeros((20, 5, 5), np.uint8), label=np.arange(20) % 2)
    with pytest.raises(DataError, match=r"differ in \(channels, size, classes\)"):
        JoinedImages(load_images(str(tmp_path / "own.npz"), "train"), read_synthetic(parts[0], DIGITS))


def test_a_compressed_set_is_refused_with_the_way_out(tmp_path):
    images, labels = made(5)
    path = tmp_path / "small.npz"
    np.savez_compressed(path, image=images.permute(0, 2, 3, 1).numpy(), label=labels.numpy())
    with pytest.raises(DataError, match=r"compressed, so it cannot be mapped.*uncompress\("):
        read_synthetic(path, DIGITS)
    uncompress(path)
    assert torch.equal(read_synthetic(path, DIGITS).images, images)


BAD = {
    "floats": ({"image": np.zeros((2, 8, 8, 1), np.float32), "label": np.zeros(2, np.int64)}, "expected uint8 images"),
    "large": ({"image": np.zeros((2, 9, 9, 1), np.uint8), "label": np.zeros(2, np.int64)}, r"uint8 images \(n, 8, 8"),
    "labels": ({"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.array([0, 10])}, r"labels must be in 0\.\.9, f"),
    "negative": ({"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.array([0, -1])}, r"found -1\.\.0"),
    "fractions": ({"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2)}, "one integer label for each of 2"),
    "few labels": ({"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(1, np.int64)}, "got int64 \\(1,\\)"),
    "names": ({"pictures": np.zeros((2, 8, 8, 1), np.uint8)}, "`image` and `label`, found pictures"),
    "objects": ({"image": np.array([None]), "label": np.zeros(1, np.int64)}, "holds Python objects"),
    "fortran": (
        {"image": np.asfortranarray(np.zeros((2, 8, 8, 1), np.uint8)), "label": np.zeros(2, np.int64)},
        "Fortran order",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_do_not_fit_are_refused_before_the_first_step(tmp_path, name):
    arrays, message = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_synthetic(tmp_path / "bad.npz", DIGITS)


def test_missing_and_damaged_files_are_named(tmp_path, parts):
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        read_synthetic(tmp_path / "none.npz", DIGITS)
    with pytest.raises(DataError, match=r"no \.npz files"):
        read_synthetic(tmp_path, DIGITS)
    with pytest.raises(DataError, match="no files of synthetic images"):
        read_synthetic([], DIGITS)
    whole = part_path(parts[0] / "set.npz", 0, 3).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:300])
    with pytest.raises(DataError, match=r"cut\.npz: expected an \.npz with arrays `image` and `label`"):
        read_synthetic(tmp_path / "cut.npz", DIGITS)


@pytest.mark.parametrize("labels", [90, 110])
def test_no_reader_drops_images_without_a_label(tmp_path, labels):
    path = tmp_path / "set.npz"
    np.savez(path, image=np.zeros((100, 8, 8, 1), np.uint8), label=np.zeros(labels, np.int64))
    for read in (
        lambda: read_shard(path),
        lambda: read_npz_images(path),
        lambda: read_synthetic(path, DIGITS),
        lambda: load_images(str(path), "all"),
        lambda: load_images(str(path), "train"),
    ):
        with pytest.raises(DataError, match="100"):
            read()


def test_a_missing_part_of_a_set_is_noticed(tmp_path):
    for number in (0, 2):
        write_synthetic(*made(2), part_path(tmp_path / "set.npz", number, 3))
    with pytest.raises(DataError, match=r"set-00001-of-00003\.npz of the synthetic set is missing"):
        read_synthetic(tmp_path, DIGITS)
    with pytest.raises(ValueError, match="no part 3 of 3"):
        part_path("set.npz", 3, 3)


def test_a_full_disk_leaves_the_old_file_and_a_message(tmp_path, monkeypatch):
    path = tmp_path / "set.npz"
    write_synthetic(*made(3), path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(DataError, match=r"No space left on device.*the file that was there is unchanged"):
                write_synthetic(*made(4), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


# numpy 1.26 leaves its zip file open when a write fails, and Python complains of it later
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_write_that_fails_half_way_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=r"set\.npz: cannot be written \(File too large\)$"):
            write_synthetic(*made(5000), tmp_path / "set.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_only_bytes_with_labels_are_written(tmp_path):
    with pytest.raises(ValueError, match="expected uint8 images"):
        write_synthetic(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), tmp_path / "a.npz")
    with pytest.raises(ValueError, match="expected uint8 images"):
        write_synthetic(*made(2)[:1], torch.zeros(3, dtype=torch.int64), tmp_path / "a.npz")


def write_sparse(path, count):
    """An `.npz` of `count` black 32x32 images with label 0, of which only the headers take room on the disk.

    A zip by hand, with the 64-bit fields of PKWARE's APPNOTE 4.3.9 and 4.5.3: no library writes one with holes.
    """
    arrays = {"image.npy": ((count, 32, 32, 3), "|u1"), "label.npy": ((count,), "<i8")}
    directory = b""
    with path.open("wb") as file:
        for name, (shape, kind) in arrays.items():
            header = io.BytesIO()
            description = {"descr": kind, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(header, description)
            size = header.tell() + int(np.prod(shape)) * np.dtype(kind).itemsize
            start, sizes = file.tell(), struct.pack("<HHQQ", 1, 16, size, size)
            common = struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1, len(name), len(sizes))
            file.write(b"PK\x03\x04" + common + name.encode() + sizes + header.getvalue())
            file.seek(start + 30 + len(name) + len(sizes) + size)
            extra = struct.pack("<HHQQQ", 1, 24, size, size, start)
            common = struct.pack("<HHHHHHIII", 45, 45, 0, 0, 0, 33, 0, 2**32 - 1, 2**32 - 1)
            tail = struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, 2**32 - 1)
            directory += b"PK\x01\x02" + common + tail + name.encode() + extra
        where = file.tell()
        file.write(directory)
        end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, len(directory), where)
        locator = struct.pack("<IQI", 0, where + len(directory), 1)
        file.write(b"PK\x06\x06" + end + b"PK\x06\x07" + locator)
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 2, 2, 2**32 - 1, 2**32 - 1, 0))


MEASURE = """
import resource
import sys

import torch
from rp_models.data import BatchPlan, describe, read_synthetic

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
images = read_synthetic(sys.argv[1], describe("cifar10"))
plan = BatchPlan(real=1, synthetic=len(images), batch_size=512, synthetic_fraction=0.999, epoch_images=512)
for epoch in range(60):
    x, y = images.batch(plan.indices(epoch, 0)[:-1].clamp(max=len(images) - 1))
print(len(images), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux tells it")
def test_twenty_million_images_take_less_than_a_gigabyte_of_memory(tmp_path):
    path, count = tmp_path / "20m.npz", 20_000_000
    try:
        write_sparse(path, count)
    except OSError as error:
        pytest.skip(f"no room for a sparse file: {error}")
    if path.stat().st_size < 61e9 or path.stat().st_blocks * 512 > 1e6:
        pytest.skip("the file system has no sparse files")
    process = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=False)
    path.unlink()
    assert process.returncode == 0, process.stderr
    found, growth = map(int, process.stdout.split())
    assert found == count
    # 160 MB of labels, mapped once more while they are copied, and what was touched of the images
    assert growth < 600e6


def test_large_images_are_read_by_threads_and_are_the_same(parts, monkeypatch):
    folder, images, labels = parts
    monkeypatch.setattr(synthetic, "_READ", 64)
    monkeypatch.setattr(SyntheticImages, "_forget", None)  # of maps, which must not be touched
    found = read_synthetic(folder, DIGITS)
    chosen = torch.tensor([24, 3, 11, 3, 0, 12, 10])
    x, y = found.batch(chosen)
    assert torch.equal((x * 255).round().to(torch.uint8), images[chosen])
    assert torch.equal(y, labels[chosen])
    assert torch.equal(found.images, images)


def test_a_file_that_was_cut_off_after_it_was_opened_is_named(tmp_path, monkeypatch):
    images, labels = made(6)
    write_synthetic(images, labels, tmp_path / "set.npz")
    monkeypatch.setattr(synthetic, "_READ", 64)
    found = read_synthetic(tmp_path / "set.npz", DIGITS)
    os.truncate(tmp_path / "set.npz", found._parts[0].offset + 5 * 64 + 10)
    found.batch(torch.tensor([4]))
    with pytest.raises(DataError, match=r"set.npz: the image at position 5 is cut off"):
        found.batch(torch.tensor([5]))
