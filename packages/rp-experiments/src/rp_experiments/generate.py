"""The work of `generate.py`: images in shards, selection by confidence, and what the images are like."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rp_analysis.plots import plot_image_grid
from rp_models.checkpoint import read_tensors, save_tensors
from rp_models.data import describe, write_synthetic
from rp_models.data.datasets import DataError
from rp_models.data.selection import confidence, most_confident
from rp_models.diffusion.sampling import sample_images
from rp_models.loading import load_classifier, load_network
from rp_models.precision import autocast, use
from rp_models.shards import ShardPlan, read_shard
from torch import Tensor

from rp_experiments.content import digest
from rp_experiments.diffusion import build_sampler, check_sampler, data_of
from rp_experiments.feature_distance import judge_of
from rp_experiments.recipes.generate import Generation
from rp_experiments.run import Run

COLUMNS, ROWS = 10, 20  # images and classes on the sheet
NO_LABEL = -1  # of an image whose class nobody knows; no training accepts it


def generate_images(config: Generation, run: Run, *, checkpoint: str) -> None:
    """Make a set of synthetic images, and say what they are like."""
    job = GenerateJob(checkpoint, config, run)
    run.claim(job.identity)
    if not run.everywhere(job.all_there):
        with run.timed("generate"):
            job.make()
    if run.main:
        job.finish()


class GenerateJob:
    """One set of synthetic images; the networks are loaded, and fit together, before its folder is claimed."""

    def __init__(self, checkpoint: str, config: Generation, run: Run) -> None:
        device = run.device
        model = load_network(checkpoint).to(device)
        config = replace(config, data=config.data or data_of(checkpoint))
        use(config.compute)
        self.config, self.run = config, run
        self.info = info = describe(config.data) if config.data else None
        self.sampler = build_sampler(checkpoint, model, config, device)
        check_sampler(checkpoint, self.sampler, config, info)
        if config.classifier and info is None:
            raise DataError(f"{checkpoint} does not say which images it makes; name the data set with --data")
        self.classifier = load_classifier(config.classifier, info).to(device) if config.classifier and info else None
        self.judge = judge_of(config, info, run) if run.main and info is not None else None
        digests = {"checkpoint": digest(model)}
        if self.classifier is not None:
            digests["classifier"] = digest(self.classifier)
        self.identity = {"checkpoint": checkpoint, **asdict(config), "weights": digests}
        self.selects, made = config.keep < 1, config.images
        if self.selects:
            made = -(-config.images * 10**6 // round(config.keep * 10**6))  # rounded up, without 1000.0000001
        size, batch = config.shard_images, config.batch_size
        stem = Path(info.name).stem if info else "images"
        self.final = ShardPlan.of_batches(config.images, size, batch, run.path / "images", stem)
        self.made = ShardPlan.of_batches(made, size, batch, run.path / "candidates", stem)
        if not self.selects:
            self.made = self.final

    def all_there(self) -> bool:
        """Whether nothing is left to be made."""
        return all(path.exists() for path in [*self.final.paths, *self._score_files()])

    def make(self) -> None:
        """Make this process's shards that are not there yet, and wait for those of the others."""
        share = range(self.run.processes.rank, len(self.made), self.run.processes.count)
        progress, before = self.run.progress, 0
        progress.start("images", sum(len(self.made.numbers(shard)) for shard in share))
        for shard in share:
            if not (self.made.path(shard).exists() and (self.classifier is None or self._score_file(shard).exists())):
                self._make(shard, lambda done, before=before: progress.advance(before + done))  # type: ignore[misc]
            before += len(self.made.numbers(shard))
            progress.advance(before)
        progress.finish()
        self.run.processes.wait()

    def finish(self) -> None:
        """Select, look at all images, and report."""
        if self.selects:
            with self.run.timed("select"):
                self.select()
        with self.run.timed("look"):
            result = self.look()
        self.run.alone().finish(result)
        if self.selects and not self.config.keep_candidates:
            shutil.rmtree(self.made.folder, ignore_errors=True)
        self._print(result)

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
        save_tensors({"number": kept, "score": score[kept]}, self.run.path / "selection.safetensors", {})

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
            "files": [str(path.relative_to(self.run.path)) for path in self.final.paths],
            "confidence": self._confidences() if self.classifier is not None else None,
            "quality": self.judge.report() if self.judge is not None else None,
        }

    def _make(self, shard: int, done: Callable[[int], None]) -> None:
        """Make one shard, and its scores where there is a classifier."""
        numbers, labels = self.made.numbers(shard), self._labels(self.made.numbers(shard))
        with autocast(self.run.device, self.config.compute.precision):
            images = sample_images(
                self.sampler,
                numbers,
                labels,
                seed=self.config.seed,
                batch_size=self.config.batch_size,
                device=self.run.device,
                done=done,
            )
        if self.classifier is not None:
            score, labels = confidence(
                self.classifier, images.to(self.run.device), labels, batch_size=self.config.batch_size
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
        return self.run.path / "scores" / f"{shard:05d}.safetensors"

    def _score_files(self) -> list[Path]:
        """The scores of each shard, written after its images; none without a classifier."""
        return [self._score_file(shard) for shard in range(len(self.made))] if self.classifier is not None else []

    def _confidences(self) -> dict[str, float]:
        """The classifier's mean confidence in the labels, of all images that were made and of those that were kept."""
        score = torch.cat([read_tensors(file)["score"] for file in self._score_files()])
        if not self.selects:
            return {"mean": float(score.mean())}
        kept = read_tensors(self.run.path / "selection.safetensors")["score"]
        return {"made": len(score), "mean": float(score.mean()), "mean_kept": float(kept.mean())}

    def _sheet(self, examples: dict[int, list[Tensor]]) -> None:
        rows = {self._name(label): torch.stack(examples[label]) / 255 for label in sorted(examples)[:ROWS]}
        title = f"{self.config.images:,} synthetic images, the first of each class"
        if not self._labelled:
            rows = {str(n + 1): row for n, row in enumerate(rows[self._name(NO_LABEL)].split(COLUMNS))}
            title = f"{self.config.images:,} synthetic images, the first"
        plot_image_grid(rows, title=title).save(self.run.path / "figures" / "samples", formats=("png",))

    def _name(self, label: int) -> str:
        if label == NO_LABEL:
            return "no class"
        return self.info.class_names[label] if self.info else f"class {label}"

    def _print(self, result: dict[str, Any]) -> None:
        counts = result["classes"].values()
        each = f"{min(counts)} to {max(counts)} of each class" if self._labelled else "without labels"
        print(f"{result['images']:,} images, {each}, hash {result['digest']['images']}")
        if result["confidence"]:
            print("  confidence  " + ", ".join(f"{k} {v:.4g}" for k, v in result["confidence"].items()))
        if quality := result["quality"]:
            real = f"{quality['reference_images']:,} real images"
            print(f"  Fréchet distance to {real}, features of {quality['network']}:")
            print(f"    {quality['images']:,} synthetic   {quality['frechet']:.4f}")
            if quality["same_number"] is not None and quality["images"] > quality["held_out_images"]:
                print(f"    {quality['held_out_images']:,} synthetic   {quality['same_number']:.4f}")
            if quality["held_out"] is not None:
                print(f"    {quality['held_out_images']:,} real, held out   {quality['held_out']:.4f}")
        print(f"images: {self.final.folder}\nsheet: {self.run.path / 'figures' / 'samples.png'}")
