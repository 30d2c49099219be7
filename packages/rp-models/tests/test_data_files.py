"""Data sets of one's own, ImageNet's folders, and images that stay in their files."""

import io

import numpy as np
import pytest
import torch
from rp_models.data import (
    Augmentation,
    DataError,
    FolderImages,
    ResizedCrop,
    augmented_batch,
    describe,
    open_images,
    subset,
)
from rp_models.data import load_images as load
from rp_models.data.crops import random_boxes
from rp_models.data.decode import View, crop_picture, view_picture
from rp_models.data.info import SPLITS
from rp_models.data.splits import of_name

Image = pytest.importorskip("PIL.Image")
GENERATOR = np.random.default_rng(0)


def picture(height, width, channels=3):
    """Smooth noise, which survives JPEG."""
    small = GENERATOR.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert("L") if channels == 1 else image


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A class folder: two classes, 40 pictures of different sizes, the smallest of the first ones 20 pixels."""
    root = tmp_path_factory.mktemp("pets")
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number in range(20):
            image = picture(20 + label + number, 30)
            image.save(root / name / f"{number:02d}.{'png' if number % 2 else 'jpg'}")
        (root / name / "notes.txt").write_text("no picture")
    return root


LAYOUTS = {"n h w c": (0, 2, 3, 1), "n c h w": (0, 1, 2, 3), "n h w": None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_npz_of_images_and_labels_is_a_data_set(tmp_path, layout, save):
    images = GENERATOR.integers(0, 256, (30, 1 if layout == "n h w" else 3, 9, 9), dtype=np.uint8)
    labels = np.arange(30, dtype=np.int32) % 3
    stored = images[:, 0] if layout == "n h w" else images.transpose(LAYOUTS[layout])
    save(tmp_path / "own.npz", images=np.ascontiguousarray(stored), labels=labels, class_names=["a", "b", "c"])
    info = describe(str(tmp_path / "own.npz"))
    assert (info.channels, info.image_size, info.class_names) == (images.shape[1], 9, ("a", "b", "c"))
    assert info.split_sizes == {"train": 24, "validation": 3, "test": 3}
    splits = [load(str(tmp_path / "own.npz"), split) for split in SPLITS]
    order = np.random.RandomState(0).permutation(30)
    order = np.concatenate([order[6:], order[3:6], order[:3]])
    assert np.array_equal(torch.cat([split.images for split in splits]).numpy(), images[order])
    assert np.array_equal(torch.cat([split.labels for split in splits]).numpy(), labels[order])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 5, 5, 3))}, "found image"),
        ({"image": np.zeros((4, 5, 5, 3)), "label": np.zeros(4, np.int64)}, "expected images as bytes"),
        ({"image": np.zeros((4, 5, 6, 3), np.uint8), "label": np.zeros(4, np.int64)}, "expected square images"),
        ({"image": np.zeros((4, 5, 5, 3), np.uint8), "label": np.zeros(4)}, "expected labels 0, 1"),
        ({"image": np.zeros((4, 5, 5, 3), np.uint8), "label": np.array([0, -1, 0, 0])}, "expected labels 0, 1"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError, match=message):
        describe(str(tmp_path / "own.npz"))


def test_a_class_folder_is_split_by_the_names_of_its_files(pets):
    info = describe(str(pets))
    assert (info.class_names, info.channels, info.image_size) == (("cat", "dog"), 3, 20)
    sets = {split: open_images(str(pets), split) for split in SPLITS}
    for split, images in sets.items():
        assert len(images) == info.split_sizes[split]
        assert all(of_name(name) == split for name in images.names)
        assert [images.info.class_names[label] for label in images.labels] == [n.split("/")[0] for n in images.names]
    names = sorted(name for images in sets.values() for name in images.names)
    assert names == sorted(f"{c}/{n:02d}.{'png' if n % 2 else 'jpg'}" for c in ("cat", "dog") for n in range(20))


def test_the_split_of_a_name_is_fixed_for_ever():
    held_out = {split: [n for n in range(50) if of_name(f"cat/{n}.png") == split] for split in ("validation", "test")}
    assert held_out == {"validation": [6, 7, 11, 33, 40, 44], "test": [48]}


def test_about_a_tenth_of_all_names_is_held_out():
    splits = [of_name(f"n01440764/{number}.JPEG") for number in range(10_000)]
    for split in ("validation", "test"):
        assert abs(splits.count(split) - 1000) < 5 * 30  # five standard deviations of a binomial draw


def test_given_split_folders_are_taken_as_they_are(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            picture(8, 8, 1).save(tmp_path / split / name / "1.png")
    info = describe(str(tmp_path))
    assert (info.channels, info.split_sizes) == (1, {"train": 2, "validation": 2, "test": 2})
    assert load(str(tmp_path), "validation").images.shape == (2, 1, 8, 8)
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(DataError, match="class folder `c` is unknown in the training images"):
        load(str(tmp_path), "test")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car", "train"):
        (tmp_path / name).mkdir()
        for number in range(20):
            picture(8, 8).save(tmp_path / name / f"{number}.png")
    assert describe(str(tmp_path)).class_names == ("car", "train")


def test_folders_without_classes_or_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="one sub-folder with images for each class"):
        describe(str(tmp_path))
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no images"):
        describe(str(tmp_path))
    (tmp_path / "train" / "a").mkdir(parents=True)
    picture(8, 8).save(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(DataError, match="no `validation` or `val` for the validation split"):
        open_images(str(tmp_path), "validation")


def test_an_adm_crop_of_twice_the_size_averages_pixels_in_fours():
    pixels = GENERATOR.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    found = view_picture(encoded(Image.fromarray(pixels)), View(size=8))
    fours = pixels.reshape(8, 2, 10, 2, 3).astype(float).mean(axis=(1, 3))
    # Pillow rounds once per direction
    assert np.abs(found.transpose(1, 2, 0) - fours[:, 1:9]).max() <= 1


def test_an_image_of_the_right_size_is_left_alone():
    pixels = GENERATOR.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(view_picture(encoded(Image.fromarray(pixels)), View(size=8)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("height", "width"), [(300, 400), (517, 301), (100, 256)])
def test_imagenets_view_is_the_fields(height, width):
    image = picture(height, width)
    found = view_picture(encoded(image), View(size=224, crop="resize", resize=256))
    short = min(height, width)
    size = (256 * width // short, 256 * height // short)  # the longer side is rounded down
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    assert np.array_equal(found, resized[top : top + 224, left : left + 224].transpose(2, 0, 1))


def test_a_part_is_cut_out_before_it_is_resized():
    image = picture(50, 70)
    found = crop_picture(encoded(image), (5, 10, 30, 20), View(size=16))
    part = np.asarray(image)[5:35, 10:30]
    expected = np.asarray(Image.fromarray(part).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(found, expected.transpose(2, 0, 1))


def test_decoding_at_a_quarter_of_the_resolution_shows_the_same_part():
    raw = encoded(picture(400, 480), "JPEG")
    found = crop_picture(raw, (40, 80, 320, 320), View(size=64)).astype(float)
    whole = np.asarray(Image.open(io.BytesIO(raw)))[40:360, 80:400]
    expected = np.asarray(Image.fromarray(whole).resize((64, 64), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    # another low-pass filter before the bicubic one: two levels of 255 on average; a pixel's shift makes thirty
    assert np.abs(found - expected).mean() < 3


def test_files_are_decoded_when_they_are_asked_for(pets):
    images = open_images(str(pets), "train")
    assert isinstance(images, FolderImages)
    index = torch.tensor([4, 0, 4])
    x, y = images.batch(index)
    assert (x.shape, x.dtype, y.tolist()) == ((3, 3, 20, 20), torch.float32, images.labels[index].tolist())
    assert torch.equal(x[0], x[2])
    whole = load(str(pets), "train")
    assert torch.equal(whole.batch(index)[0], x)
    assert torch.equal(subset(images, 5).images, subset(whole, 5).images)
    assert images.to("cpu").device == torch.device("cpu")


def test_training_crops_are_taken_from_the_full_picture(pets):
    images, draw = open_images(str(pets), "train"), torch.tensor([3, 9])
    change = Augmentation(resized_crop=ResizedCrop(scale=(0.2, 0.6)))
    x, y = augmented_batch(images, torch.tensor([1, 5]), change, seed=4, purpose="e", draw=draw)
    files = [images.root / images.names[i] for i in (1, 5)]
    sizes = [Image.open(io.BytesIO(file.read_bytes())).size for file in files]
    height, width = (torch.tensor([size[axis] for size in sizes]) for axis in (1, 0))
    boxes = random_boxes(height, width, change.resized_crop, seed=4, purpose="e", index=draw)
    for image, file, box in zip(x, files, boxes.tolist(), strict=True):
        expected = crop_picture(file.read_bytes(), tuple(box), images.view)
        assert torch.equal(image, torch.from_numpy(expected.copy()).float() / 255)
    assert y.tolist() == images.labels[[1, 5]].tolist()


def test_damaged_and_missing_pictures_are_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(2):
            picture(8, 8).save(tmp_path / "train" / name / f"{number}.png")
    images = open_images(str(tmp_path), "train")
    whole = (tmp_path / "train" / "b" / "1.png").read_bytes()
    for content in (whole[:60], b"text"):
        (tmp_path / "train" / "b" / "1.png").write_bytes(content)
        with pytest.raises(DataError, match=r"b/1\.png: "):
            images.batch(slice(None))
    (tmp_path / "train" / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=r"b/1\.png: No such file"):
        images.batch(slice(None))
    assert len(images.batch(torch.tensor([0, 1, 2]))[0]) == 3


def test_a_set_too_large_for_the_memory_is_not_loaded(pets, monkeypatch):
    monkeypatch.setattr("rp_models.data.folder_images._MEMORY", 1000)
    with pytest.raises(DataError, match="use open_images"):
        load(str(pets), "train")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """ImageNet's folders: a thousand classes, a picture each, twelve in the first."""
    root = tmp_path_factory.mktemp("imagenet")
    synsets = ["n01440764", *(f"n{2_000_000 + 7 * number:08d}" for number in range(999))]
    for synset in synsets:
        for split in ("train", "val"):
            (root / split / synset).mkdir(parents=True)
            (root / split / synset / f"{synset}_1.JPEG").touch()
    raw = encoded(picture(300, 260), "JPEG")
    for number in range(1, 13):
        (root / "train" / synsets[0] / f"{synsets[0]}_{number}.JPEG").write_bytes(raw)
    return root, tuple(synsets)


def test_imagenets_classes_are_its_synsets_in_order(imagenet):
    root, synsets = imagenet
    test = open_images("imagenet", "test", root=root)
    assert len(test) == 1000
    assert test.info.class_names == synsets
    assert test.labels.tolist() == list(range(1000))


def test_ten_training_images_of_each_class_are_validation(imagenet):
    train, validation = (open_images("imagenet-256", split, root=imagenet[0]) for split in ("train", "validation"))
    assert list(train.names) == [f"n01440764/n01440764_{number}.JPEG" for number in (8, 9)]  # sorted as text
    assert len(validation) == 10 + 999
    assert train.batch(slice(None))[0].shape == (2, 3, 256, 256)
    assert open_images("imagenet", "train", root=imagenet[0]).batch(slice(None))[0].shape == (2, 3, 224, 224)


def test_a_part_of_imagenet_is_not_imagenet(tmp_path):
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(DataError, match="expected the 1000 synset folders, found 1; a part of ImageNet"):
        open_images("imagenet", "train", root=tmp_path)
    with pytest.raises(DataError, match=r"imagenet: no train/n01440764 .*one folder a synset"):
        open_images("imagenet", "train", root=tmp_path / "nowhere")
