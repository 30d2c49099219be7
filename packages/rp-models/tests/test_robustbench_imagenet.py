"""RobustBench's pictures of ImageNet: which, with which labels, and what each preprocessing makes of them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rp_models.data.datasets import DataError
from rp_models.data.decode import view_picture
from rp_models.robustbench.imagenet import imagenet_images, imagenet_view, picture_list
from rp_models.robustbench.images import benchmark_images
from torchvision import transforms
from torchvision.transforms import InterpolationMode

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
SYNSETS = [f"n{number:08d}" for number in range(1000)]


def test_the_list_is_robustbenchs() -> None:
    numbers, labels = zip(*picture_list(), strict=True)
    assert (len(set(numbers)), sum(numbers), sum(labels)) == (5000, 123_943_129, 2_493_113)
    assert (len(set(labels)), picture_list()[0]) == (997, (15253, 979))
    facts = "\n".join(f"{number} {label}" for number, label in picture_list())
    assert hashlib.sha256(facts.encode()).hexdigest()[:16] == "dd3ee9c1609c0155"


def picture(width: int, height: int) -> Image.Image:
    """A picture with edges and texture."""
    noise = np.random.default_rng(width * height).integers(0, 256, (height // 7 + 1, width // 7 + 1, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("Res256Crop224", [transforms.Resize(256, BILINEAR), transforms.CenterCrop(224)]),
        ("BicubicRes256Crop224", [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224)]),
        ("BicubicRes248Crop224", [transforms.Resize(248, BICUBIC), transforms.CenterCrop(224)]),
        ("Res224Crop224", [transforms.Resize(224, BILINEAR), transforms.CenterCrop(224)]),
        ("Crop288", [transforms.CenterCrop(288)]),
        ("Res224", [transforms.Resize([224, 224], BILINEAR)]),
    ],
)
@pytest.mark.parametrize("size", [(500, 375), (333, 501), (224, 224), (285, 283), (256, 341)])
def test_each_preprocessing_is_torchvisions(tmp_path: Path, name: str, steps: list, size: tuple[int, int]) -> None:
    image = picture(*size)
    image.save(tmp_path / "picture.png")
    expected = np.asarray(transforms.Compose(steps)(image)).transpose(2, 0, 1)
    assert np.array_equal(view_picture((tmp_path / "picture.png").read_bytes(), imagenet_view(name)), expected)


def test_an_unknown_preprocessing_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown preprocessing 'Crop'; expected one like Res256Crop224"):
        imagenet_view("Crop")


@pytest.mark.parametrize("layout", ["root", "val", "flat"])
def test_the_pictures_come_in_their_order_with_their_labels(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "imagenet" / "val"
    for synset in SYNSETS if layout != "flat" else [""]:
        (folder / synset).mkdir(parents=True, exist_ok=True)
    for number, label in picture_list()[:3]:
        place = folder / ("" if layout == "flat" else SYNSETS[label])
        picture(300, 280).save(place / f"ILSVRC2012_val_{number:08d}.JPEG")
    images = imagenet_images("Crop288", 3, root=tmp_path if layout == "root" else folder)
    x, labels = images.batch(torch.arange(3))
    assert x.shape == (3, 3, 288, 288)
    assert labels.tolist() == [label for _, label in picture_list()[:3]]
    assert images.info.class_names[labels[0]] == (SYNSETS[labels[0]] if layout != "flat" else f"class {labels[0]}")
    with pytest.raises(DataError, match=r"no picture .*ILSVRC2012_val_\d+.JPEG, one of RobustBench's 5000"):
        imagenet_images("Crop288", 4, root=folder)
    with pytest.raises(DataError, match="5000 pictures of ImageNet, got count=0"):
        imagenet_images("Crop288", 0, root=folder)


def test_corrupted_pictures_are_the_same_ones(tmp_path: Path) -> None:
    folder = tmp_path / "ImageNet-C" / "fog" / "2"
    for synset in SYNSETS:
        (folder / synset).mkdir(parents=True)
    for number, label in picture_list()[:2]:
        picture(224, 224).save(folder / SYNSETS[label] / f"ILSVRC2012_val_{number:08d}.JPEG")
    picture(224, 224).save(folder / SYNSETS[0] / "ILSVRC2012_val_99999999.JPEG")  # not among the 5,000
    images = benchmark_images("imagenet-c/fog/2", 2, root=tmp_path)
    x, labels = images.batch(torch.arange(2))
    assert x.shape == (2, 3, 224, 224)
    assert labels.tolist() == [label for _, label in picture_list()[:2]]
    with pytest.raises(DataError, match="one of RobustBench's 5000 of ImageNet's validation set"):
        benchmark_images("imagenet-c/fog/2", root=tmp_path)
    (folder / SYNSETS[999]).rmdir()
    with pytest.raises(DataError, match="expected 1000 folders of classes, found 999"):
        benchmark_images("imagenet-c/fog/2", 2, root=tmp_path)


def test_a_part_of_the_synsets_is_refused(tmp_path: Path) -> None:
    for synset in SYNSETS[:999]:
        (tmp_path / "val" / synset).mkdir(parents=True)
    with pytest.raises(DataError, match="expected the 1000 synset folders, found 999"):
        imagenet_images(root=tmp_path)
    with pytest.raises(DataError, match="imagenet: no val or validation in any of"):
        imagenet_images(root=tmp_path / "nothing")
