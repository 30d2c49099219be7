"""The work of `purify.py`: purify in batches, write the images, compare before with after."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rp_analysis.plots import plot_image_grid
from rp_attacks.intervals import wilson_interval
from rp_models import noise
from rp_models.data import ImageSet, describe, read_synthetic, write_synthetic
from rp_models.data.datasets import to_bytes
from rp_models.loading import load_classifier, load_mae
from rp_models.training import ProgressBar, RunFolder
from rp_models.training.devices import choose_device
from rp_models.training.mae import mae_loss
from rp_purify.build import build_purifier
from torch import nn

from rp_experiments.pictures import read_pictures, write_pictures
from rp_experiments.recipes.purification import Purification

CAUTION = (
    "Accuracy on purified images without an attack that knows the purifier is no robust accuracy; "
    "evaluate.py attacks classifier and purifier together."
)
COLUMNS = 10  # images on the sheet


class PurifyJob:
    """One purification.

    Args:
        config: everything that determines the images.
        folder: of the run.
        device: where to compute.
        root: folder of the data sets; None for the usual places.

    Raises:
        CheckpointError, DataError: if a network or an image cannot be used.
    """

    def __init__(
        self, config: Purification, folder: RunFolder, device: torch.device, *, root: Path | None = None
    ) -> None:
        self.config, self.folder, self.device = config, folder, device
        info = describe(config.data)
        self.purifier = build_purifier(config.purifier, info, device)
        mae = getattr(config.purifier, "mae", config.mae)
        self.mae = load_mae(mae, info).to(device) if mae else None
        self.classifier = load_classifier(config.classifier, info).to(device) if config.classifier else None
        self.pictures = read_pictures(config, root=root)
        self.before = self.pictures.images.to(device)

    @classmethod
    def open(
        cls, config: Purification, out: Path, *, resume: bool, device: str, root: Path | None = None
    ) -> "PurifyJob":
        """Load networks and images, then claim the folder.

        Raises:
            RunError: if the folder cannot be used.
            CheckpointError, DataError: if a network, an image or the device cannot be used.
        """
        job = cls(config, RunFolder(out), choose_device(device), root=root)
        job.folder = RunFolder.open(out, asdict(config), resume=resume)
        return job

    def run(self) -> None:
        """Purify, write, compare, print."""
        with self.folder.timed("purify"):
            after = self.purified()
        written = write_pictures(after.images, self.pictures, self.folder.path)
        result = self.compare(after)
        self.folder.write_json("result.json", result)
        few = slice(0, COLUMNS)
        (before, _), (purified, _) = self.before.batch(few), after.batch(few)
        largest = max(result["largest_change"], 1 / 255)
        change = 0.5 + (purified - before) / (2 * largest)  # grey where nothing changed
        rows = {"before": before, "after": purified, f"change, ±{largest:.2f}": change}
        sheet = self.folder.path / "figures" / "before_after"
        title = f"{self.pictures.origin}, {self.config.purifier.kind}"
        plot_image_grid(rows, title=title).save(sheet, formats=("png",))
        self._print(result, written)

    def purified(self) -> ImageSet:
        """The purified images as bytes; each batch is a file, with which an interrupted run goes on."""
        parts, size = self.folder.path / "parts", self.config.batch_size
        seed, done = noise.derive_seed(self.config.seed, "purify"), []
        progress = ProgressBar()
        progress.start("purify", len(self.before), 0)
        for start in range(0, len(self.before), size):
            part = parts / f"{start:08d}.npz"
            if not part.exists():
                x, y = self.before.batch(slice(start, start + size))
                index = self.pictures.numbers[start : start + size].to(self.device)
                write_synthetic(to_bytes(self.purifier(x, seed=seed, index=index).detach()), y, part)
            done.append(read_synthetic(part, self.before.info))
            progress.advance(min(start + size, len(self.before)), {})
        progress.finish()
        images = torch.cat([part.images for part in done]).to(self.device)
        return ImageSet(images, self.before.labels, self.before.info)

    def compare(self, after: ImageSet) -> dict[str, Any]:
        """What purification changed, measured on the images as they are written: rounded to bytes."""
        config = self.config
        (x, _), (purified, _) = self.before.batch(slice(None)), after.batch(slice(None))
        change = (purified - x).abs()
        result: dict[str, Any] = {
            "images": len(x),
            "origin": self.pictures.origin,
            "purifier": config.purifier.kind,
            "mean_change": float(change.mean()),
            "largest_change": float(change.max()),
        }
        sets = {"before": self.before, "after": after}
        if self.mae is not None:
            rate = getattr(config.purifier, "mask_rate", 0.5)
            result["mae_loss"] = {
                name: mae_loss(self.mae, images, mask_rate=rate, seed=config.seed) for name, images in sets.items()
            }
        if self.classifier is not None:
            result["accuracy"] = {name: _accuracy(self.classifier, images) for name, images in sets.items()}
        seconds, environment = self.folder.seconds(), self.folder.read_json("environment.json")
        return {**result, "caution": CAUTION, "seconds": seconds, "config": asdict(config), "environment": environment}

    def _print(self, result: dict[str, Any], written: Path) -> None:
        print(f"{result['origin']}, {result['images']} images, {result['purifier']}")
        mean, largest = result["mean_change"], result["largest_change"]
        print(f"  change     mean {mean:.4f}, largest {largest:.4f}, of pixels in [0, 1]")
        if "mae_loss" in result:
            print("  MAE loss   before {before:.5f}, after {after:.5f}".format(**result["mae_loss"]))
        if "accuracy" in result:
            shown = {name: f"{100 * value['estimate']:.1f}%" for name, value in result["accuracy"].items()}
            print("  accuracy   before {before}, after {after}".format(**shown))
        print(CAUTION)
        print(f"images: {written}\nsheet: {self.folder.path / 'figures' / 'before_after.png'}")


@torch.no_grad()
def _accuracy(classifier: nn.Module, images: ImageSet, batch_size: int = 500) -> dict[str, float]:
    """Share of correctly classified images, with its 95% interval."""
    correct = 0
    for start in range(0, len(images), batch_size):
        x, y = images.batch(slice(start, start + batch_size))
        correct += int((classifier(x).argmax(dim=1) == y).sum())
    return {"correct": correct, "images": len(images), **wilson_interval(correct, len(images))._asdict()}
