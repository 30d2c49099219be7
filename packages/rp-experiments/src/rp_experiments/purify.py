"""The work of `purify.py`: purify in batches, write the images, compare before with after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rp_analysis.plots import plot_image_grid
from rp_models import noise
from rp_models.data import DatasetInfo, ImageSet, default_split, describe, read_synthetic, subset_index, write_synthetic
from rp_models.data.datasets import DataError, open_subset, to_bytes
from rp_models.data.decode import read_picture
from rp_models.data.npz import replacing
from rp_models.data.npz_set import read_npz_images
from rp_models.loading import load_classifier, load_mae
from rp_models.precision import in_precision, use
from rp_models.training.mae import mae_loss
from rp_purify.build import build_purifier
from torch import Tensor, nn

from rp_experiments import tables
from rp_experiments.recipes.purification import Purification
from rp_experiments.results import Accuracy, classified
from rp_experiments.run import Run

CAUTION = (
    "Accuracy on purified images without an attack that knows the purifier is no robust accuracy; "
    "evaluate.py attacks classifier and purifier together."
)
COLUMNS = 10  # images on the sheet
_SUFFIXES = (".png", ".jpg", ".jpeg")


def purify(config: Purification, run: Run) -> None:
    """Purify, write, compare, print; networks and images are loaded before the folder is claimed."""
    info = describe(config.data)
    use(config.compute)
    classifier = load_classifier(config.classifier, info).to(run.device) if config.classifier else None
    purifier = build_purifier(
        config.purifier, info, run.device, classifier=classifier, precision=config.compute.precision
    )
    named = getattr(config.purifier, "mae", config.mae)
    mae = load_mae(named, info).to(run.device) if named else None
    for network in (mae, classifier):
        if network is not None:
            in_precision(network, config.compute.precision)
    pictures = read_pictures(config, info, run.root)
    before = pictures.images.to(run.device)
    run.claim(config)
    with run.timed("purify"):
        after = _purified(purifier, before, pictures.numbers.to(run.device), config, run)
    written = write_pictures(after.images, pictures, run.path)
    (x, _), (purified, _) = before.batch(slice(None)), after.batch(slice(None))
    change = purified - x  # of the images as they are written: rounded to bytes
    found: dict[str, Any] = {
        "images": len(before),
        "origin": pictures.origin,
        "purifier": config.purifier.kind,
        "mean_change": float(change.abs().mean()),
        "largest_change": float(change.abs().max()),
    }
    sets = {"before": before, "after": after}
    if mae is not None:
        rate = getattr(config.purifier, "mask_rate", 0.5)
        found["mae_loss"] = {k: mae_loss(mae, images, mask_rate=rate, seed=config.seed) for k, images in sets.items()}
    if classifier is not None:
        found["accuracy"] = {name: _accuracy(classifier, images) for name, images in sets.items()}
    run.finish({**found, "caution": CAUTION})
    largest = max(found["largest_change"], 1 / 255)
    rows = {"before": x, "after": purified, f"change, ±{largest:.2f}": 0.5 + change / (2 * largest)}  # grey: no change
    sheet = run.path / "figures" / "before_after"
    plot = plot_image_grid(
        {name: images[:COLUMNS] for name, images in rows.items()}, title=f"{pictures.origin}, {config.purifier.kind}"
    )
    plot.save(sheet, formats=("png",))
    print(f"{_in_words(found)}\n{CAUTION}\nimages: {written}\nsheet: {sheet}.png")


def _purified(purifier: nn.Module, before: ImageSet, numbers: Tensor, config: Purification, run: Run) -> ImageSet:
    """The purified images as bytes; each batch is a file, with which an interrupted run goes on."""
    size, seed, done = config.batch_size, noise.derive_seed(config.seed, "purify"), []
    run.progress.start("purify", len(before))
    for start in range(0, len(before), size):
        part = run.path / "parts" / f"{start:08d}.npz"
        if not part.exists():
            x, y = before.batch(slice(start, start + size))
            purified = purifier(x, seed=seed, index=numbers[start : start + size])
            write_synthetic(to_bytes(purified.detach()), y, part)
        done.append(read_synthetic(part, before.info))
        run.progress.advance(min(start + size, len(before)))
    run.progress.finish()
    return ImageSet(torch.cat([part.images for part in done]).to(run.device), before.labels, before.info)


@torch.no_grad()
def _accuracy(classifier: nn.Module, images: ImageSet) -> Accuracy:
    """Share of correctly classified images, with its 95% interval."""
    return classified(classifier, map(images.batch, torch.arange(len(images), device=images.device).split(500)))


def _in_words(found: dict[str, Any]) -> str:
    """The result for the terminal."""
    lines = [f"{found['origin']}, {found['images']} images, {found['purifier']}"]
    mean, largest = found["mean_change"], found["largest_change"]
    lines.append(f"  change     mean {mean:.4f}, largest {largest:.4f}, of pixels in [0, 1]")
    if "mae_loss" in found:
        lines.append("  MAE loss   before {before:.5f}, after {after:.5f}".format(**found["mae_loss"]))
    if "accuracy" in found:
        shown = {name: tables.cell(value) for name, value in found["accuracy"].items()}
        lines.append("  accuracy % before {before}, after {after}".format(**shown))
    return "\n".join(lines)


class Pictures(NamedTuple):
    """Images and where they come from."""

    images: ImageSet  # labels are all 0 where there are none
    numbers: Tensor  # int64 (n,), of each image in its source; the noise of an image is that of its number
    origin: str  # what to call them
    names: tuple[str, ...] = ()  # one each, under which they are written, if they are files of their own
    labelled: bool = True  # whether the labels mean anything


def read_pictures(config: Purification, info: DatasetInfo, root: Path | None) -> Pictures:
    """The images that the settings name: of a data set's split, an `.npz`, or PNG and JPEG files."""
    if not config.input:
        split = config.split or default_split(config.data)
        chosen = open_subset(config.data, split, config.images, device=torch.device("cpu"), root=root)
        return Pictures(*chosen, f"{config.data}, split {split}")
    if config.input[0].endswith(".npz"):
        return _of_npz(Path(config.input[0]), config, info)
    files = _picture_files(config.input)[: config.images]
    pixels = [read_picture(file, info.channels) for file in files]
    for file, image in zip(files, pixels, strict=True):
        _check_size(file, image.shape, info)
    names = tuple(f"{file.stem}.png" for file in files)
    images = _image_set(np.stack(pixels), None, info)
    return Pictures(images, torch.arange(len(files)), f"{len(files)} picture files", names, False)


def write_pictures(pixels: Tensor, pictures: Pictures, folder: Path) -> Path:
    """Write purified uint8 images (n, c, h, w): PNG files for files, otherwise an `.npz`, with labels if there are any.

    PNG for JPEG files as well, whose compression would change what purification has left.
    """
    arrays = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())
    if pictures.names:
        from PIL import Image

        target = folder / "purified"
        target.mkdir(exist_ok=True)
        for name, image in zip(pictures.names, arrays, strict=True):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(target / name)
        return target
    target = folder / "purified.npz"
    if pictures.labelled:
        write_synthetic(pixels, pictures.images.labels, target)
    else:
        with replacing(target) as file:
            np.savez(file, image=arrays)
    return target


def _of_npz(path: Path, config: Purification, info: DatasetInfo) -> Pictures:
    """The field's fixed draw of a file's images, or all, with their numbers."""
    pixels, labels = read_npz_images(path)
    if config.classifier and labels is None:
        raise DataError(f"{path} has no array `label`, so there is no accuracy; leave out --classifier")
    if len(pixels) == 0:
        raise DataError(f"{path} holds no images to purify")
    _check_size(path, pixels.shape[1:], info)
    if labels is not None and labels.max() >= info.num_classes:
        raise DataError(f"{path} has the label {labels.max()}, {info.name} has {info.num_classes} classes")
    index = subset_index(len(pixels), config.images or len(pixels))
    images = _image_set(pixels[index], None if labels is None else labels[index], info)
    return Pictures(images, index, path.name, labelled=labels is not None)


def _image_set(pixels: np.ndarray, labels: np.ndarray | None, info: DatasetInfo) -> ImageSet:
    labels = np.zeros(len(pixels), dtype=np.int64) if labels is None else labels
    return ImageSet(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels), info)


def _check_size(path: Path, shape: Sequence[int], info: DatasetInfo) -> None:
    """Refuse images (c, h, w) of another size or number of channels than the data set's."""
    channels, height, width = shape
    if (height, width) != (info.image_size, info.image_size):
        raise DataError(
            f"{path} has {width}x{height} pixels, the images of {info.name} have {info.image_size}x{info.image_size}; "
            "scale it first"
        )
    if channels != info.channels:
        raise DataError(f"{path} has {channels} channels, the images of {info.name} have {info.channels}")


def _picture_files(names: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named, in order."""
    files: list[Path] = []
    for path in map(Path, names):
        inside = (file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        files += sorted(inside)
    if not files:
        raise DataError(f"no PNG or JPEG files in {' '.join(names)}")
    if len({file.stem for file in files}) < len(files):
        raise DataError("two of the files have the same name; purify them in two runs")
    return files
