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
    default_split,
    describe,
    open_images,
    subset,
)
from rp_models.data import load_images as load
from rp_models.data.augment import augmented_batch
from rp_models.data.crops import random_boxes
from rp_models.data.decode import View, crop_picture, picture_header, read_picture, view_picture
from rp_models.data.info import SPLITS
from rp_models.data.npz_set import read_npz
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
        ({"image": np.zeros((4, 5, 5, 3), np.uint8)}, "found image alone"),
        *(
            ({"image": np.zeros((100, 5, 5), np.uint8), "label": np.zeros(n, np.int64)}, "one label for each of 100")
            for n in (90, 110)
        ),
        ({"image": np.zeros((4, 5, 5), np.uint8), "label": np.zeros((4, 1), np.int64)}, r"one label .* \(4, 1\)"),
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
    with pytest.raises(DataError, match=message):
        read_npz(tmp_path / "own.npz", "test")


def test_a_file_without_splits_can_be_taken_whole(tmp_path, pets):
    images, labels = GENERATOR.integers(0, 256, (9, 5, 5), dtype=np.uint8), np.arange(9) % 3
    np.savez(tmp_path / "own.npz", image=images, label=labels)
    own = str(tmp_path / "own.npz")
    whole = load(own, "all")
    assert np.array_equal(whole.images[:, 0].numpy(), images)
    assert np.array_equal(whole.labels.numpy(), labels)
    with pytest.raises(DataError, match='none is for the test split; take them all with "all"'):
        load(own, "test")
    folder = open_images(str(pets), "all")
    assert len(folder) == 40
    assert folder.labels.tolist() == [0] * 20 + [1] * 20
    (tmp_path / "few" / "cat").mkdir(parents=True)
    picture(8, 8).save(tmp_path / "few" / "cat" / "0.png")
    assert len(load(str(tmp_path / "few"), "all")) == 1
    with pytest.raises(DataError, match='none is for the test split; take them all with "all"'):
        load(str(tmp_path / "few"), "test")
    for name in (own, str(pets)):
        assert default_split(name) == "all"
    assert default_split("digits") == "test"
    with pytest.raises(ValueError, match=r"unknown split 'all' of digits; expected one of train, validation, test$"):
        load("digits", "all")


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
    assert default_split(str(tmp_path)) == "test"
    with pytest.raises(DataError, match="in folders for splits; take one of train, validation, test"):
        open_images(str(tmp_path), "all")
    (tmp_path / "test" / "c").mkdir()
    with pytest.raises(DataError, match="class folder `c` is unknown in the training images"):
        load(str(tmp_path), "test")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car", "train"):
        (tmp_path / name).mkdir()
        for number in range(20):
            picture(8, 8).save(tmp_path / name / f"{number}.png")
    assert describe(str(tmp_path)).class_names == ("car", "train")
    for hidden in (".thumbnails", "train/.thumbnails", "train/notes"):  # nor does a folder beside its pictures matter
        (tmp_path / hidden).mkdir()
        assert describe(str(tmp_path)).class_names == ("car", "train")


def test_split_folders_may_hold_hidden_ones(tmp_path):
    for folder in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / folder).mkdir(parents=True)
        picture(8, 8).save(tmp_path / folder / "1.png")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert describe(str(tmp_path)).class_names == ("a", "b")


def saved(image, path, **options):
    """A picture's file: its path and its bytes."""
    image.save(path, **options)
    return path, path.read_bytes()


def read_alike(path, raw, channels):
    """The pixels (h, w, c) that every way to read a square picture gives."""
    found = read_picture(path, channels)
    side = found.shape[1]
    assert np.array_equal(view_picture(raw, View(size=side, channels=channels)), found)
    assert np.array_equal(crop_picture(raw, (0, 0, side, side), View(size=side, channels=channels)), found)
    (path.parent / "set" / "class").mkdir(parents=True, exist_ok=True)
    (path.parent / "set" / "class" / path.name).write_bytes(raw)
    whole = open_images(str(path.parent / "set"), "all")
    if whole.info.channels == channels:
        assert np.array_equal(whole.load().images[0].numpy(), found)
    return found.transpose(1, 2, 0)


@pytest.mark.parametrize("name", ["grey.png", "grey.pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_levels_of_sixteen_bits_are_rounded_to_eight(tmp_path, name, channels):
    levels = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    found = read_alike(*saved(Image.fromarray(levels), tmp_path / name), channels)
    expected = (levels / 257).round()  # 65535 = 255 * 257
    assert len(np.unique(found)) == 64
    for channel in range(channels):
        assert np.array_equal(found[..., channel], expected)


def test_palettes_cmyk_and_one_bit_are_what_they_show(tmp_path):
    colours = GENERATOR.integers(0, 256, (3, 3), dtype=np.uint8)
    index = GENERATOR.integers(0, 3, (8, 8), dtype=np.uint8)
    palette = Image.frombytes("P", (8, 8), index.tobytes())
    palette.putpalette(colours.tobytes())
    assert np.array_equal(read_alike(*saved(palette, tmp_path / "palette.png"), 3), colours[index])
    inks = GENERATOR.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    inks[..., 3] //= 2
    path, raw = saved(Image.frombytes("CMYK", (8, 8), inks.tobytes()), tmp_path / "inks.jpg", quality=100)
    decoded = np.asarray(Image.open(path)).astype(float)  # JPEG has changed them a little
    light = (255 - decoded[..., :3]) * (255 - decoded[..., 3:]) / 255
    assert np.abs(read_alike(path, raw, 3) - light).max() <= 2  # Pillow rounds in integers
    bits = GENERATOR.integers(0, 2, (8, 8), dtype=bool)
    assert np.array_equal(read_alike(*saved(Image.fromarray(bits), tmp_path / "bits.png"), 1)[..., 0], 255 * bits)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGB", "I;16"])
def test_what_is_transparent_lies_on_white(tmp_path, kind):
    """Never the colour that happens to stand beneath: half of each picture is transparent, and black beneath."""
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:, 4:] = 0
    expected = np.where(alpha == 0, 255, 100)
    grey = np.where(alpha == 0, 0, 100).astype(np.uint8)
    options = {}
    if kind == "RGBA":
        image = Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1))
    elif kind == "LA":
        image = Image.fromarray(np.stack([grey, alpha], axis=-1))
    elif kind == "P":
        image = Image.frombytes("P", (8, 8), (grey // 100).tobytes())
        image.putpalette([0, 0, 0, 100, 100, 100])
        options = {"transparency": 0}
    elif kind == "RGB":
        image, options = Image.fromarray(np.stack([grey] * 3, axis=-1)), {"transparency": (0, 0, 0)}
    else:
        image, options = Image.fromarray(grey.astype(np.uint16) * 257), {"transparency": 0}
    path, raw = saved(image, tmp_path / "some.png", **options)
    for channels in (1, 3):
        assert np.array_equal(read_alike(path, raw, channels)[..., 0], expected)
    if kind == "RGBA":
        alpha[:, 4:] = 128
        path, raw = saved(Image.fromarray(np.stack([grey, grey, grey, alpha], axis=-1)), tmp_path / "half.png")
        assert np.array_equal(read_alike(path, raw, 3)[..., 0], np.where(alpha == 128, 127, 100))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pictures_of_more_than_sixteen_bits_are_refused(tmp_path, kind):
    path, raw = saved(Image.fromarray(np.zeros((8, 8), kind)), tmp_path / "deep.tiff")
    for read in (lambda: read_picture(path, 1), lambda: view_picture(raw, View(size=8, channels=1))):
        with pytest.raises(DataError, match=r"pixels of 32 bits .*save it with 8 or 16 bits"):
            read()


EXIF_TURNS = {  # what shows a stored picture as it was taken, by the definition of the tag
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", EXIF_TURNS)
def test_pictures_are_turned_as_exif_says(tmp_path, kind, orientation):
    stored = picture(16, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, raw = saved(stored, tmp_path / f"x.{kind.lower()}", exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    plain = np.asarray(Image.open(path).convert("RGB"))
    expected = EXIF_TURNS[orientation](plain)
    assert np.array_equal(read_picture(path, 3).transpose(1, 2, 0), expected)
    assert picture_header(raw)[1:] == expected.shape[:2]
    top, left = (5, 2) if orientation >= 5 else (2, 5)
    part = crop_picture(raw, (top, left, 8, 8), View(size=8))
    assert np.array_equal(part.transpose(1, 2, 0), expected[top : top + 8, left : left + 8])
    middle = view_picture(raw, View(size=16))
    cut = expected[4:20] if orientation >= 5 else expected[:, 4:20]
    assert np.array_equal(middle.transpose(1, 2, 0), cut)
    assert np.array_equal(view_picture(raw, View(size=16, upright=False)).transpose(1, 2, 0), plain[:, 4:20])
    assert picture_header(raw, upright=False)[1:] == (16, 24)


def test_a_part_of_a_large_picture_on_its_side_is_decoded_at_a_quarter(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path, raw = saved(picture(400, 480), tmp_path / "x.jpg", exif=exif, quality=95)
    found = crop_picture(raw, (80, 40, 320, 320), View(size=64)).astype(float)
    part = np.rot90(np.asarray(Image.open(path)), -1)[80:400, 40:360]
    expected = np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(found - expected.transpose(2, 0, 1)).mean() < 3  # as for an upright one


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


def test_all_images_of_a_folder_are_judged_batch_by_batch(pets):
    from rp_models.data.datasets import open_judged, open_subset

    cpu = torch.device("cpu")
    whole, index = open_judged(str(pets), "all", None, device=cpu)
    loaded, same = open_subset(str(pets), "all", None, device=cpu)
    assert isinstance(whole, FolderImages)
    assert torch.equal(index, same)
    assert torch.equal(whole.batch(index)[0], loaded.batch(index)[0])
    assert not isinstance(open_judged(str(pets), "all", 1, device=cpu)[0], FolderImages)
