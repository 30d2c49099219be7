"""Shifted test sets: names, files in the published layouts, labels, and what is refused."""

import numpy as np
import pytest
import torch
from rp_models.data import describe, load_images, open_images
from rp_models.data.errors import DataError
from rp_models.data.shifts import ALEXNET, corruptions, find_shift, mean_corruption_error

RNG = np.random.default_rng(0)


def picture(path, colour: int) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), colour, dtype=np.uint8)).save(path)


def test_names_and_what_they_mean() -> None:
    fog = find_shift("cifar10-c/fog/3")
    assert (fog.kind, fog.base, fog.part, fog.severity, fog.name) == (
        "cifar10-c",
        "cifar10",
        "fog",
        3,
        "cifar10-c/fog/3",
    )
    assert find_shift("cifar10.1").name == "cifar10.1/v6"
    assert find_shift("imagenet-v2").part == "matched-frequency"
    assert len(corruptions("imagenet-c")) == 15
    assert len(corruptions("imagenet-3dcc")) == 12
    assert corruptions("imagenet-r") == ()
    assert find_shift("cifar100-c/spatter/1").part == "spatter"  # not of the mean, but in the files
    for kind, total in (("imagenet-a", 102_178), ("imagenet-r", 86_135)):
        classes = find_shift(kind).classes
        assert (len(classes), sum(classes), list(classes)) == (200, total, sorted(classes))
    assert len(set(find_shift("imagenet-a").classes) & set(find_shift("imagenet-r").classes)) == 86


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar10-c/fogg/3", "fog"),
        ("cifar10-c/fog/6", "severity from 1 to 5"),
        ("cifar10-c/fog", "severity from 1 to 5"),
        ("cifar10-c", "CORRUPTION/SEVERITY"),
        ("cifar10.1/v5", "v6 or v4"),
        ("imagenet-r/a", "too many parts"),
    ],
)
def test_wrong_names_are_told_in_a_sentence(name, said) -> None:
    with pytest.raises(ValueError, match=said):
        describe(name)


def test_corrupted_cifar_by_severity(tmp_path) -> None:
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    images, labels = RNG.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8), RNG.integers(0, 10, 20)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", labels)
    third = load_images("cifar10-c/fog/3", "test", root=tmp_path)
    assert torch.equal(third.images, torch.from_numpy(images[8:12].transpose(0, 3, 1, 2).copy()))
    assert third.labels.tolist() == labels[:4].tolist()  # each severity has the same images in the same order
    assert third.info.name == "cifar10-c/fog/3"
    assert third.info.class_names == describe("cifar10").class_names
    with pytest.raises(DataError, match=r"no frost\.npy"):
        open_images("cifar10-c/frost/1", "test", root=tmp_path)
    np.save(folder / "snow.npy", images.transpose(0, 3, 1, 2))
    with pytest.raises(DataError, match="expected bytes"):
        open_images("cifar10-c/snow/1", "test", root=tmp_path)
    with pytest.raises(ValueError, match="is a test set"):
        open_images("cifar10-c/fog/3", "train", root=tmp_path)


def test_cifar_10_1(tmp_path) -> None:
    folder = tmp_path / "cifar10.1"
    folder.mkdir()
    images, labels = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    np.save(folder / "cifar10.1_v6_data.npy", images)
    np.save(folder / "cifar10.1_v6_labels.npy", labels)
    found = load_images("cifar10.1", "test", root=tmp_path)
    assert torch.equal(found.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    assert found.labels.tolist() == list(range(6))


def test_v2_has_numbers_as_folders_which_are_not_sorted_as_texts(tmp_path) -> None:
    for number in range(1000):
        (tmp_path / "imagenetv2-matched-frequency-format-val" / str(number)).mkdir(parents=True)
    picture(tmp_path / "imagenetv2-matched-frequency-format-val" / "10" / "a.jpeg", 10)
    picture(tmp_path / "imagenetv2-matched-frequency-format-val" / "2" / "b.jpeg", 200)
    found = open_images("imagenet-v2", "test", root=tmp_path)
    assert found.labels.tolist() == [2, 10]
    (tmp_path / "imagenetv2-matched-frequency-format-val" / "999").rmdir()
    with pytest.raises(DataError, match="expected 1000 folders"):
        open_images("imagenet-v2", "test", root=tmp_path)


def test_renditions_have_their_own_200_classes(tmp_path) -> None:
    names = [f"n{1443537 + number:08d}" for number in range(200)]
    for name in names:
        (tmp_path / "imagenet-r" / name).mkdir(parents=True)
    picture(tmp_path / "imagenet-r" / names[3] / "art.jpg", 50)
    found = open_images("imagenet-r", "test", root=tmp_path)
    assert found.labels.tolist() == [3]
    assert found.info.num_classes == 200
    x, _ = found.batch(slice(None))
    assert x.shape == (1, 3, 224, 224)


def test_corrupted_imagenet(tmp_path) -> None:
    folder = tmp_path / "ImageNet-C" / "fog" / "2"
    for number in range(1000):
        (folder / f"n{number:08d}").mkdir(parents=True)
    picture(folder / "n00000007" / "ILSVRC2012_val_00000001.JPEG", 90)
    assert open_images("imagenet-c/fog/2", "test", root=tmp_path).labels.tolist() == [7]


def test_the_mean_corruption_error_is_relative_to_alexnet() -> None:
    assert mean_corruption_error(ALEXNET) == pytest.approx(1.0)
    assert sum(ALEXNET.values()) / 15 == pytest.approx(1 - 0.2112, abs=5e-4)  # its mean accuracy as RobustBench has it
    assert mean_corruption_error({name: error / 2 for name, error in ALEXNET.items()}) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="missing are fog"):
        mean_corruption_error({name: 0.5 for name in ALEXNET if name != "fog"})
