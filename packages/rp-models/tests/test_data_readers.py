"""The official files of CIFAR, SVHN and Fashion-MNIST: read, found, and refused when they are damaged or evil."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from rp_models.data import DataError, load_images
from rp_models.data.pickled_arrays import read_pickled_arrays

GENERATOR = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_other_places(monkeypatch, tmp_path):
    """Nothing of this machine is found by accident."""
    monkeypatch.delenv("RP_DATA", raising=False)
    monkeypatch.delenv("RP_DOWNLOAD", raising=False)
    monkeypatch.chdir(tmp_path)


def pixels(count):
    return GENERATOR.integers(0, 256, (count, 3072), dtype=np.uint8)


def python2_pickle(rows, label_key, labels):
    """A batch file opcode by opcode as Python 2 and its numpy wrote them."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    kind = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + 2 * integer(-1) + b"K\x00tb"
    )
    raw = rows.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + integer(len(rows)) + integer(rows.shape[1]) + b"\x86" + kind + b"\x89"
        b"T" + struct.pack("<I", len(raw)) + raw + b"tb"
    )
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(label_key) + listed + b"u."


def renamed(raw):
    """A pickle of protocol 5 with numpy 1's name of the module, in the two opcodes that carry its length."""
    new, old = (b"\x8c" + bytes([len(name)]) + name for name in (b"numpy._core.numeric", b"numpy.core.numeric"))
    if new not in raw:
        return raw  # numpy is old here
    start = raw.index(b"\x95")  # the frame's length follows
    (length,) = struct.unpack("<Q", raw[start + 1 : start + 9])
    end = start + 9 + length
    assert start + 9 <= raw.index(new) < end
    return raw[: start + 1] + struct.pack("<Q", length - 1) + raw[start + 9 :].replace(new, old, 1)


@pytest.mark.parametrize(
    "form", ["python 2", "protocol 4", "protocol 2", "protocol 5", "protocol 5 of numpy 1", "binary"]
)
def test_cifar10_comes_out_of_each_form_of_its_files(tmp_path, monkeypatch, form):
    monkeypatch.setattr("rp_models.data.splits.VALIDATION_IMAGES", 4)
    folder = tmp_path / ("cifar-10-batches-bin" if form == "binary" else "cifar-10-batches-py")
    folder.mkdir()
    rows, labels = pixels(18), GENERATOR.integers(0, 10, 18)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for name, some, own in zip(names, rows.reshape(6, 3, 3072), labels.reshape(6, 3), strict=True):
        if form == "binary":
            (folder / f"{name}.bin").write_bytes(
                np.concatenate([own[:, None].astype(np.uint8), some], axis=1).tobytes()
            )
        elif form == "python 2":
            (folder / name).write_bytes(python2_pickle(some, b"labels", own.tolist()))
        else:
            content = {b"data": some, b"labels": own.tolist(), b"batch_label": b"a batch"}
            raw = pickle.dumps(content, protocol=int(form.split()[1]))
            if form.endswith("numpy 1"):
                raw = renamed(raw)
            (folder / name).write_bytes(raw)
    images = torch.from_numpy(rows).reshape(-1, 3, 32, 32)
    for split, part in {"train": slice(4, 15), "validation": slice(0, 4), "test": slice(15, 18)}.items():
        found = load_images("cifar10", split, root=tmp_path)
        assert torch.equal(found.images, images[part])
        assert found.labels.tolist() == labels[part].tolist()


def test_cifar100_has_fine_labels(tmp_path):
    rows, fine = pixels(2), [99, 0]
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-100-python" / "test").write_bytes(python2_pickle(rows, b"fine_labels", fine))
    (tmp_path / "binary" / "cifar-100-binary").mkdir(parents=True)
    records = np.concatenate([np.array([[3, 99], [4, 0]], np.uint8), rows], axis=1)
    (tmp_path / "binary" / "cifar-100-binary" / "test.bin").write_bytes(records.tobytes())
    for root in (tmp_path, tmp_path / "binary"):
        found = load_images("cifar100", "test", root=root)
        assert found.labels.tolist() == fine
        assert np.array_equal(found.images.numpy().reshape(2, -1), rows)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", [Evil(), {b"data": Evil()}, {b"data": np.array([Evil()])}])
def test_nothing_in_a_pickle_is_run(tmp_path, content):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"test_batch: (refused, since it asks for posix\.mkdir|expected arrays)"):
        load_images("cifar10", "test", root=tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "not a complete pickle of arrays"),
        (pickle.dumps([1]), "expected a dictionary, found a list"),
        (pickle.dumps({b"data": np.zeros((1, 4), np.uint8), b"labels": [0]}), "3072 bytes an image"),
        (pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [0]}), "expected arrays of unsigned bytes"),
        (
            pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [0]}, 5),
            "unsigned bytes in C order, found one of type",
        ),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8).T, b"labels": [0]}, 5), "in order F"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}), "1 images, but 2 labels"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), r"labels must be in 0\.\.9"),
    ],
)
def test_damaged_batches_are_refused(tmp_path, content, message):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_images("cifar10", "test", root=tmp_path)


def test_a_truncated_array_is_no_array(tmp_path):
    whole = python2_pickle(pixels(2), b"labels", [0, 1])
    (tmp_path / "batch").write_bytes(whole.replace(struct.pack("<i", 2), struct.pack("<i", 3), 1))
    with pytest.raises(DataError, match="not a complete pickle"):
        read_pickled_arrays(tmp_path / "batch")


def test_a_missing_or_short_batch_is_named(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match="data_batch_2 is missing"):
        load_images("cifar10", "train", root=tmp_path)
    (folder / "data_batch_1.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match="3072 bytes are no multiple of 3073"):
        load_images("cifar10", "train", root=tmp_path)


def test_svhn_comes_out_of_its_matlab_files(tmp_path):
    io = pytest.importorskip("scipy.io")
    images = GENERATOR.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    (tmp_path / "svhn").mkdir()
    io.savemat(tmp_path / "svhn" / "test_32x32.mat", {"X": images, "y": np.array([[10], [1], [9], [2]], np.uint8)})
    found = load_images("svhn", "test", root=tmp_path)
    assert found.labels.tolist() == [0, 1, 9, 2]
    assert np.array_equal(found.images[3].numpy(), images[..., 3].transpose(2, 0, 1))
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"no MATLAB here")
    with pytest.raises(DataError, match="no complete MATLAB file"):
        load_images("svhn", "train", root=tmp_path)


def idx(values):
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fashion_mnist_comes_out_of_its_idx_files(tmp_path, ending):
    folder = tmp_path / "FashionMNIST" / "raw"  # where torchvision puts them
    folder.mkdir(parents=True)
    images, labels = GENERATOR.integers(0, 256, (3, 28, 28), dtype=np.uint8), np.array([9, 0, 4], np.uint8)
    for name, values in {"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels}.items():
        content = idx(values)
        (folder / f"{name}{ending}").write_bytes(gzip.compress(content) if ending else content)
    found = load_images("fashion-mnist", "test", root=tmp_path)
    assert np.array_equal(found.images[:, 0].numpy(), images)
    assert found.labels.tolist() == [9, 0, 4]


def test_idx_files_of_different_lengths_do_not_belong_together(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 28, 28), np.uint8)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(2, np.uint8)))
    with pytest.raises(DataError, match="do not belong together"):
        load_images("fashion-mnist", "test", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x0b\x01\0\0\0\x01ab", "IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "promises"),
        (b"\0\0\x08\x01\0\0\0\x05abc", "the file holds 3"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_images("fashion-mnist", "test", root=tmp_path)


def test_a_damaged_compressed_file_is_refused(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(1000))[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        load_images("fashion-mnist", "test", root=tmp_path)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100", "svhn"])
def test_missing_files_tell_where_was_looked_and_all_the_ways_out(tmp_path, name):
    with pytest.raises(DataError) as caught:
        load_images(name, "train", root=tmp_path / "here")
    message = str(caught.value)
    assert str(tmp_path / "here") in message
    for way in ("root=", "RP_DATA", "download=True or RP_DOWNLOAD=1"):
        assert way in message


def test_the_environment_names_the_folder_and_an_argument_wins(tmp_path, monkeypatch):
    def put(folder, label):
        (tmp_path / folder / "cifar-10-batches-bin").mkdir(parents=True)
        (tmp_path / folder / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes([label]) + bytes(3072))

    put("data", 1)
    assert load_images("cifar10", "test").labels.tolist() == [1]
    put("elsewhere", 2)
    monkeypatch.setenv("RP_DATA", str(tmp_path / "elsewhere"))
    assert load_images("cifar10", "test").labels.tolist() == [2]
    put("argument", 3)
    assert load_images("cifar10", "test", root=tmp_path / "argument").labels.tolist() == [3]


def fake_torchvision(monkeypatch, download):
    """A torchvision whose CIFAR10 does something else; importing the real one takes seconds."""
    import sys
    from types import ModuleType

    package, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    datasets.CIFAR10 = download
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_torchvision_downloads_only_when_it_may(tmp_path, monkeypatch, way):
    def download(root, *, download):
        assert download
        (tmp_path / "new" / "cifar-10-batches-py").mkdir(parents=True)
        content = python2_pickle(pixels(1), b"labels", [5])
        (tmp_path / "new" / "cifar-10-batches-py" / "test_batch").write_bytes(content)

    fake_torchvision(monkeypatch, download)
    with pytest.raises(DataError, match="no test_batch"):
        load_images("cifar10", "test", root=tmp_path / "new")
    if way == "environment":
        monkeypatch.setenv("RP_DOWNLOAD", "1")
    found = load_images("cifar10", "test", root=tmp_path / "new", download=way == "argument")
    assert found.labels.tolist() == [5]


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def download(root, *, download):
        raise OSError("network is unreachable")

    fake_torchvision(monkeypatch, download)
    with pytest.raises(DataError, match=r"cifar10: the download into .* failed \(network is unreachable\)"):
        load_images("cifar10", "test", root=tmp_path, download=True)
