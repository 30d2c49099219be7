"""The work of `analyze_purifier.py`: AMV and loss over radius and steps, attention maps, theorems, and the page."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rp_analysis import Plot, Report, plot_amv_over_iterations, plot_layer_amv, plot_loss_and_amv, rank_correlation
from rp_models import noise
from rp_models.data import describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier
from rp_models.training import ProgressBar, RunFolder
from rp_models.training.devices import choose_device
from rp_purify import MAEView, curve_over_radii, curve_over_steps, variation
from torch import Tensor

from rp_experiments import purifier_figures as purifier_theorems
from rp_experiments.analyzed_networks import open_views, purifier_around, standard_classifier
from rp_experiments.perturbed import PerturbedImages
from rp_experiments.purifier_curves import Curves, correlations, plain, trends
from rp_experiments.purifier_views import attention_of_targets, reconstruction_sheet
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.reports.purifier_report import (
    ADVERSARIAL,
    CAUTION,
    CLEAN,
    NOISY,
    PURIFIED,
    sentence,
    setting,
    summary,
)


class PurifierAnalysisJob:
    """One analysis of the networks behind a purifier.

    Args:
        config: everything that determines the numbers.
        folder: of page, figures and numbers.
        device: where to compute.
        root: folder of the data sets; None for the usual places.

    Raises:
        CheckpointError, DataError: if a network cannot be used.
    """

    def __init__(
        self, config: PurifierAnalysis, folder: RunFolder, device: torch.device, *, root: Path | None = None
    ) -> None:
        self.config, self.folder, self.device, self.root = config, folder, device, root
        self.info, self.eps = describe(config.data), config.radius
        self.views = open_views(config, self.info, device)
        self.purifiers = {name: purifier_around(name, view, config) for name, view in self.views.items()}
        self.trained = load_classifier(config.classifier, self.info).to(device) if config.classifier else None
        test, self.index = open_subset(config.data, "test", config.images, device=device, root=root)
        self.x, self.y = test.batch(slice(None))
        self._purified = dict[str, Tensor]()
        self.page = Report(f"Attention and loss of {' and '.join(self.views)} on {config.data}")
        self.result: dict[str, Any] = {"setting": setting(config, self.views, len(self.x))}
        self.progress = ProgressBar()

    @classmethod
    def open(
        cls, config: PurifierAnalysis, out: Path, *, resume: bool, device: str, root: Path | None = None
    ) -> "PurifierAnalysisJob":
        """Load networks and images, then claim the folder.

        Raises:
            RunError: if the folder cannot be used.
            CheckpointError, DataError: if a network or the device cannot be used.
        """
        job = cls(config, RunFolder(out), choose_device(device), root=root)
        job.folder = RunFolder.open(out, asdict(config), resume=resume)
        return job

    def run(self) -> None:
        """All sections, then `result.json`, the page, and the main figures on the terminal."""
        config = self.config
        self.page.text(sentence(config, self.result["setting"]))
        self.page.text(CAUTION)
        sections = [self.accuracies, self.over_radii, self.over_steps, self.evidence]
        sections += [self.attention, self.reconstructions, self.theorem_3_2, self.theorem_3_1]
        with self.folder.timed("classifier"):
            classifier = self.trained or standard_classifier(
                config, self.folder, self.device, root=self.root, progress=self.progress
            )
        self.images = PerturbedImages(classifier, self.x, self.y, self.index, config)
        self.progress.start("analyze", len(sections), 0)
        for number, section in enumerate(sections, start=1):
            with self.folder.timed(section.__name__):
                section()
            self.progress.advance(number, {})
        self.progress.finish()
        self.result |= {"caution": CAUTION, "seconds": self.folder.seconds(), "config": asdict(config)}
        self.result["environment"] = self.folder.read_json("environment.json")
        self.folder.write_json("result.json", self.result)
        page = self.page.write(self.folder.path / "index.html")
        print(summary(config, self.result, self.radii, self.steps), f"\npage: {page}")

    @property
    def purifier_seed(self) -> int:
        """Of the purifiers' masks and noise, which are not those that AMV is measured with."""
        return noise.derive_seed(self.config.seed, "purifier")

    def purified(self, model: str) -> Tensor:
        """The attacked images after the purifier around a network."""
        if model not in self._purified:
            attacked, purifier, seed = self.images.attacked(self.eps), self.purifiers[model], self.purifier_seed
            self._purified[model] = self.images.batched(
                lambda rows: purifier(attacked[rows], seed=seed, index=self.index[rows])
            )
        return self._purified[model]

    def accuracies(self) -> None:
        """That the attack works: the classifier's accuracy at each radius."""
        self.page.section("The attack")
        rows = []
        for eps in self._radii():
            images = {ADVERSARIAL: self.images.attacked(eps), NOISY: self.images.noisy(eps)}
            row: dict[str, Any] = {"eps": eps, "eps in 1/255": 255 * eps}
            for kind, x in images.items():
                row[f"accuracy on {kind} %"] = 100 * self.images.accuracy(x)
                row[f"{kind}, RMS change"] = float((x - self.x).square().mean().sqrt())
            rows.append(row)
        self._table("accuracy", rows, "without a purifier")

    def over_radii(self) -> None:
        """AMV and loss against the radius, and layer by layer (Fig. 4 a-c, 7)."""
        self.page.section("Over the attack's radius")
        perturb = {ADVERSARIAL: self.images.attacked, NOISY: self.images.noisy}
        self.radii: Curves = {
            name: {
                kind: curve_over_radii(view, self.x, images, self._radii(), index=self.index)
                for kind, images in perturb.items()
            }
            for name, view in self.views.items()
        }
        self.result["over_radii"] = plain(self.radii)
        plot = plot_loss_and_amv(trends(self.radii), xlabel="radius ε (1/255)", scale=255)
        self._figure("amv-over-radius", plot, "Loss and AMV, mean over images and its 95% interval (Fig. 4 a-c, 7)")
        layers = {
            name: (self._radii(), [point.layers for point in kinds[ADVERSARIAL]]) for name, kinds in self.radii.items()
        }
        caption = "AMV of each decoder layer on adversarial images"
        self._figure("amv-of-layers", plot_layer_amv(layers, xlabel="radius ε (1/255)", scale=255), caption)

    def over_steps(self) -> None:
        """AMV and loss over the purification steps (Fig. 4 d-f, 6), with clean and noisy images as controls."""
        self.page.section("Over the purification steps")
        starts = {ADVERSARIAL: self.images.attacked(self.eps), NOISY: self.images.noisy(self.eps), CLEAN: self.x}
        options = {"seed": self.purifier_seed, "index": self.index, "every": self.config.every}
        self.steps: Curves = {
            name: {
                kind: curve_over_steps(view, self.x, x, self.purifiers[name], **options)  # type: ignore[arg-type]
                for kind, x in starts.items()
            }
            for name, view in self.views.items()
        }
        self.result["over_steps"] = plain(self.steps)
        plot = plot_loss_and_amv(trends(self.steps), xlabel="purification step")
        text = "Loss and AMV against the clean image under the same mask (Fig. 4 d-f); clean: what purifying costs"
        self._figure("amv-over-steps", plot, text)
        families = {"MAE": ("MAE", "RMAE"), "MaskDiT": ("MaskDiT", "RMaskDiT")}
        pairs = {
            family: {f"{name}-Pure": [p.amv for p in self.steps[name][ADVERSARIAL]] for name in members}
            for family, members in families.items()
            if all(name in self.views for name in members)
        }
        if pairs:
            places = [int(point.position) for point in self.steps["MAE"][ADVERSARIAL]]
            plot = plot_amv_over_iterations(pairs, iterations=places)
            self._figure("amv-of-robust", plot, "AMV of adversarial images before and after fine-tuning (Fig. 6)")

    def evidence(self) -> None:
        """Whether AMV and loss rise together with the radius and fall together over the steps."""
        self.page.section("Do AMV and loss move together?")
        rows = [
            correlations(name, axis, kind, points)
            for axis, curves in (("radius", self.radii), ("steps", self.steps))
            for name, kinds in curves.items()
            for kind, points in kinds.items()
            if (axis, kind) != ("steps", CLEAN)
        ]
        self.result["rank_correlation"] = rows
        self._table("rank-correlation", rows, "Spearman's correlation of the curves' points (means over images)")
        rows = [self._image_by_image(name) for name in self.views]
        self.result["image_by_image"] = rows
        self._table("image-by-image", rows, f"adversarial at radius {self.eps:.3g}, before and after purification")

    def attention(self) -> None:
        """Which visible patches a hidden patch attends to (Fig. 2, 8), and how far that moves on all images."""
        self.page.section("Attention of a hidden patch")
        rows, count = [], min(self.config.examples, len(self.x))
        noisy = self.images.noisy(self.eps)
        for name, view in self._autoencoders().items():
            versions = {CLEAN: self.x, ADVERSARIAL: self.images.attacked(self.eps), NOISY: noisy}
            versions[PURIFIED] = self.purified(name)
            report = attention_of_targets(
                view,
                versions,
                self.index,
                drawn=(CLEAN, ADVERSARIAL, PURIFIED),
                count=count,
                batch_size=self.config.batch_size,
            )
            moved = {f"moved, {kind} %": 100 * share for kind, share in report.moved.items()}
            rows.append({"model": name, **moved, "purified nearer than adversarial %": 100 * report.nearer})
            text = f"{name}, last decoder layer: the {count} images whose attention the attack moves most (Fig. 2, 8)"
            self._figure(f"attention-{name.lower()}", report.plot, text)
        self.result["attention_of_hidden_patch"] = rows
        self._table("attention", rows, "share of the target's attention to visible patches that lies elsewhere")

    def reconstructions(self) -> None:
        """What the autoencoder makes of clean, adversarial and purified images (Fig. 1)."""
        self.page.section("Reconstructions")
        few = slice(0, self.config.sheet)
        for name, view in self._autoencoders().items():
            versions = {CLEAN: self.x, ADVERSARIAL: self.images.attacked(self.eps), PURIFIED: self.purified(name)}
            plot = reconstruction_sheet(view, {kind: x[few] for kind, x in versions.items()}, self.index[few])
            text = f"{name}: images, and what it reconstructs from their visible patches (Fig. 1)"
            self._figure(f"reconstructions-{name.lower()}", plot, text)

    def theorem_3_2(self) -> None:
        """How often the inequality of Theorem 3.2 holds."""
        self.page.section("Theorem 3.2: is the loss bounded from below by AMV?")
        images = {NOISY: self.images.noisy} | {
            f"PGD-{steps}": functools.partial(self.images.attacked, steps=steps)
            for steps in sorted({*self.config.weak_steps, self.config.attack_steps})
        }
        report = purifier_theorems.inequality(self._autoencoders(), self.x, self.index, images, self._few_radii())
        self.result["theorem_3_2"] = report.rows
        text = "the largest constant H C_A with which it holds for 95% of the images, c_rec = 0; negative: with none"
        self._table("theorem-3-2", report.rows, text)
        self._figure("theorem-3-2", report.plot, f"{report.title}, by radius in 1/255; the paper names no constants")

    def theorem_3_1(self) -> None:
        """How good the approximation of Theorem 3.1 is."""
        self.page.section("Theorem 3.1: the variation of attention by random features")
        few, config = slice(0, self.config.kernel_images), self.config
        pairs = {eps: self.images.attacked(eps)[few] for eps in self._few_radii()}
        view = next(iter(self._autoencoders().values()))
        report = purifier_theorems.approximation(
            view, self.x[few], self.index[few], pairs, features=config.features, seed=config.seed
        )
        self.result["theorem_3_1"] = report.rows
        self._table("theorem-3-1", report.rows, "medians and rank correlations over images, layers and heads")
        self._figure("theorem-3-1", report.plot, report.title)

    def _autoencoders(self) -> dict[str, MAEView]:
        return {name: view for name, view in self.views.items() if isinstance(view, MAEView)}

    def _radii(self) -> list[float]:
        return [factor * self.eps for factor in self.config.radii]

    def _few_radii(self) -> list[float]:
        """Every other radius, the largest among them: enough for a table."""
        return self._radii()[:0:-2][::-1]

    def _image_by_image(self, model: str) -> dict[str, Any]:
        """Rank correlation over images, and shares of the images that purification improves."""
        view = self.views[model]
        before, after = (
            variation(view, self.x, x, index=self.index) for x in (self.images.attacked(self.eps), self.purified(model))
        )
        rise = before.loss - before.clean_loss
        return {
            "model": model,
            "AMV with rise of loss": rank_correlation(before.layers[:, -1].cpu(), rise.cpu()),
            "loss rises under attack %": 100 * float((rise > 0).double().mean()),
            "loss falls by purifying %": 100 * float((after.loss < before.loss).double().mean()),
            "AMV falls by purifying %": 100 * float((after.layers[:, -1] < before.layers[:, -1]).double().mean()),
            "accuracy attacked %": 100 * self.images.accuracy(self.images.attacked(self.eps)),
            "accuracy purified %": 100 * self.images.accuracy(self.purified(model)),
        }

    def _table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        self.folder.write_json(f"tables/{name}.json", rows)
        self.page.table(rows, caption)

    def _figure(self, name: str, plot: Plot, caption: str) -> None:
        plot.save(self.folder.path / "figures" / name, formats=("png",))
        self.page.figure(plot, caption)
