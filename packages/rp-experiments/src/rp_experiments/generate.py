"""The work of `generate.py`: images in shards, selection by confidence, and what the images are like."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_analysis.plots import plot_image_grid
from rp_models.checkpoint import read_tensors, save_tensors
from rp_models.data import describe, write_synthetic
from rp_models.data.datasets import DataError
from rp_models.data.selection import confidence, most_confident
from rp_models.diffusion.samplers import ImageSampler
from rp_models.diffusion.sampling import sample_images
from rp_models.loading import load_classifier
from rp_models.shards import ShardPlan, Steps, Workers, read_shard, wait_for
from rp_models.training import ProgressBar, RunFolder
from rp_models.training.devices import choose_device
from torch import Tensor, nn

from rp_experiments.diffusion import build_sampler, check_sampler, data_of
from rp_experiments.feature_distance import FeatureJudge, judge_of, network_digest
from rp_experiments.recipes.generate import Generation

COLUMNS, ROWS = 10, 20  # images and classes on the sheet
NO_LABEL = -1  # of an image whose class nobody knows; no training accepts it


class GenerateJob:
    """One set of synthetic images.

    Args:
        config: everything that determines the images but the model, `data` resolved.
        folder: of the run.
        sampler: of the images.
        classifier: for confidences; None for none.
        judge: compares with real images; None for no comparison.
        workers: which of how many processes this is.
        device: where to compute.
    """

    def __init__(
        self,
        config: Generation,
        folder: RunFolder,
        sampler: ImageSampler,
        *,
        classifier: nn.Module | None,
        judge: FeatureJudge | None,
        workers: Workers,
        device: torch.device,
    ) -> None:
        self.config, self.folder, self.sampler = config, folder, sampler
        self.classifier, self.judge, self.workers, self.device = classifier, judge, workers, device
        self.info = describe(config.data) if config.data else None
        self.selects, made = config.keep < 1, config.images
        if self.selects:
            made = -(-config.images * 10**6 // round(config.keep * 10**6))  # rounded up, without 1000.0000001
        size, batch = config.shard_images, config.batch_size
        stem = Path(self.info.name).stem if self.info else "images"
        self.final = ShardPlan.of_batches(config.images, size, batch, folder.path / "images", stem)
        self.made = ShardPlan.of_batches(made, size, batch, folder.path / "candidates", stem)
        if not self.selects:
            self.made = self.final

    @classmethod
    def open(
        cls, checkpoint: str, config: Generation, out: Path, *, resume: bool, device: str, workers: Workers
    ) -> "GenerateJob":
        """Load the networks, see that they fit together, then claim the folder.

        Raises:
            RunError: if the folder cannot be used.
            CheckpointError, DataError: if networks, data and settings do not fit together.
        """
        where = choose_device(workers.device(device))
        model = rp_models.load(checkpoint, device=where)
        config = replace(config, data=config.data or data_of(checkpoint))
        info = describe(config.data) if config.data else None
        sampler = build_sampler(checkpoint, model, config, where)
        check_sampler(checkpoint, sampler, config, info)
        if config.classifier and info is None:
            raise DataError(f"{checkpoint} does not say which images it makes; name the data set with --data")
        classifier = load_classifier(config.classifier, info).to(where) if config.classifier and info else None
        judge = None
        if workers.main and info is not None:
            judge = judge_of(config.fid_network, config.classifier, config.data, info, config.fid_images, where)
        digests = {"checkpoint": network_digest(model)}
        if classifier is not None:
            digests["classifier"] = network_digest(classifier)
        identity = {"checkpoint": checkpoint, **asdict(config), "weights": digests}
        folder = workers.claim(out, identity, resume=resume)
        return cls(config, folder, sampler, classifier=classifier, judge=judge, workers=workers, device=where)

    def run(self) -> None:
        """Make this process's images; the main process then selects, looks at all of them, and reports."""
        if not all(path.exists() for path in [*self.final.paths, *self._score_files()]):
            with self._timed("generate"):
                self.make()
        if not self.workers.main:
            return
        if self.selects:
            with self._timed("select"):
                self.select()
        with self._timed("look"):
            result = self.look()
        self.folder.write_json("result.json", result)
        if self.selects and not self.config.keep_candidates:
            shutil.rmtree(self.made.folder, ignore_errors=True)
        self._print(result)

    def make(self) -> None:
        """Make this process's shards that are not there yet; the main process waits for those of the others."""
        share = self.workers.share(len(self.made))
        progress = Steps(ProgressBar() if self.workers.main else None)
        progress.start("images", sum(len(self.made.numbers(shard)) for shard in share))
        for shard in share:
            if self.made.path(shard).exists() and (self.classifier is None or self._score_file(shard).exists()):
                progress.within(len(self.made.numbers(shard)))
            else:
                self._make(shard, progress.within)
            progress.next(len(self.made.numbers(shard)))
        if self.workers.main and self.workers.count > 1:
            progress.start("files of all processes", len(self.made))
            wait_for(self._score_files() or self.made.paths, progress.within)
        progress.finish()

    def select(self) -> None:
        """Write the most confident candidates of each class, in the order of their numbers."""
        scores = [read_tensors(file) for file in self._score_files()]
        score, label = (torch.cat([part[name] for part in scores]) for name in ("score", "label"))
        kept = most_confident(score, label, self.config.images)
        size = self.made.size
        for shard in range(len(self.final)):
            if self.final.path(shard).exists():
                continue
            numbers = kept[self.final.numbers(shard).start : self.final.numbers(shard).stop]
            parts = []
            for source in (numbers // size).unique().tolist():
                images, _ = read_shard(self.made.path(source))
                parts.append(images[numbers[numbers // size == source] - source * size])
            write_synthetic(torch.cat(parts), label[numbers], self.final.path(shard))
        save_tensors({"number": kept, "score": score[kept]}, self.folder.path / "selection.safetensors", {})

    @torch.no_grad()
    def look(self) -> dict[str, Any]:
        """What the images are like: counts, a hash, a sheet, and the distance to real ones."""
        pixels, classes = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        counts: Counter[int] = Counter()
        examples: dict[int, list[Tensor]] = {}
        for images, labels in map(read_shard, self.final.paths):
            pixels.update(images.permute(0, 2, 3, 1).contiguous().numpy().data)
            classes.update(labels.numpy().data)
            counts.update(labels.tolist())
            for label in labels.unique().tolist():
                row = examples.setdefault(label, [])
                room = COLUMNS * (COLUMNS if label == NO_LABEL else 1) - len(row)
                row.extend(images[labels == label][:room])
            if self.judge is not None:
                self.judge.take(images)
        self._sheet(examples)
        return {
            "images": counts.total(),
            "image_shape": list(self.sampler.image_shape),
            "classes": {self._name(label): counts[label] for label in sorted(counts)},
            "digest": {"images": pixels.hexdigest(), "labels": classes.hexdigest()},
            "files": [str(path.relative_to(self.folder.path)) for path in self.final.paths],
            "confidence": self._confidences() if self.classifier is not None else None,
            "quality": self.judge.report() if self.judge is not None else None,
            "seconds": self.folder.seconds(),
            "config": self.folder.read_json("config.json"),
            "environment": self.folder.read_json("environment.json"),
        }

    def _make(self, shard: int, done: Callable[[int], None]) -> None:
        """Make one shard, and its scores where there is a classifier."""
        numbers, labels = self.made.numbers(shard), self._labels(self.made.numbers(shard))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            images = sample_images(
                self.sampler,
                numbers,
                labels,
                seed=self.config.seed,
                batch_size=self.config.batch_size,
                device=self.device,
                done=done,
            )
        if self.classifier is not None:
            score, labels = confidence(
                self.classifier, images.to(self.device), labels, batch_size=self.config.batch_size
            )
        if labels is None:
            labels = torch.full((len(images),), NO_LABEL)
        write_synthetic(images, labels, self.made.path(shard))
        if self.classifier is not None:
            save_tensors({"score": score, "label": labels}, self._score_file(shard), {})

    @property
    def _labelled(self) -> bool:
        """Whether the images get labels: their condition, or the classifier's prediction."""
        return self.sampler.num_classes > 0 or self.classifier is not None

    def _labels(self, numbers: range) -> Tensor | None:
        """The classes of some numbers; None for a model without classes."""
        if self.sampler.num_classes == 0:
            return None
        classes = torch.tensor(self.config.class_list or range(self.sampler.num_classes))
        return classes[torch.arange(numbers.start, numbers.stop) % len(classes)]

    def _score_file(self, shard: int) -> Path:
        return self.folder.path / "scores" / f"{shard:05d}.safetensors"

    def _score_files(self) -> list[Path]:
        """The scores of each shard, written after its images; none without a classifier."""
        return [self._score_file(shard) for shard in range(len(self.made))] if self.classifier is not None else []

    def _confidences(self) -> dict[str, float]:
        """The classifier's mean confidence in the labels, of all images that were made and of those that were kept."""
        score = torch.cat([read_tensors(file)["score"] for file in self._score_files()])
        if not self.selects:
            return {"mean": float(score.mean())}
        kept = read_tensors(self.folder.path / "selection.safetensors")["score"]
        return {"made": len(score), "mean": float(score.mean()), "mean_kept": float(kept.mean())}

    def _sheet(self, examples: dict[int, list[Tensor]]) -> None:
        rows = {self._name(label): torch.stack(examples[label]) / 255 for label in sorted(examples)[:ROWS]}
        title = f"{self.config.images:,} synthetic images, the first of each class"
        if not self._labelled:
            rows = {str(n + 1): row for n, row in enumerate(rows[self._name(NO_LABEL)].split(COLUMNS))}
            title = f"{self.config.images:,} synthetic images, the first"
        plot_image_grid(rows, title=title).save(self.folder.path / "figures" / "samples", formats=("png",))

    def _name(self, label: int) -> str:
        if label == NO_LABEL:
            return "no class"
        return self.info.class_names[label] if self.info else f"class {label}"

    def _timed(self, stage: str) -> Any:
        return self.folder.timed(stage) if self.workers.main else nullcontext()

    def _print(self, result: dict[str, Any]) -> None:
        counts = result["classes"].values()
        each = f"{min(counts)} to {max(counts)} of each class" if self._labelled else "without labels"
        print(f"{result['images']:,} images, {each}, hash {result['digest']['images']}")
        if result["confidence"]:
            print("  confidence  " + ", ".join(f"{k} {v:.4g}" for k, v in result["confidence"].items()))
        if quality := result["quality"]:
            real = f"{quality['reference_images']:,} real images"
            print(f"  Fréchet distance to {real}, features of {quality['network']}:")
            print(f"    {quality['images']:,} synthetic   {quality['fid']:.4f}")
            if quality["same_number"] is not None and quality["images"] > quality["held_out_images"]:
                print(f"    {quality['held_out_images']:,} synthetic   {quality['same_number']:.4f}")
            if quality["held_out"] is not None:
                print(f"    {quality['held_out_images']:,} real, held out   {quality['held_out']:.4f}")
        print(f"images: {self.final.folder}\nsheet: {self.folder.path / 'figures' / 'samples.png'}")
