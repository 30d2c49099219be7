"""The work of `analyze_purifier.py`: AMV and loss over radius and steps, attention maps, theorems, and the page."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from recipes.analyze_purifier import PurifierAnalysis
from rp_analysis import Plot, Report, plot_amv_over_iterations, rank_correlation
from rp_analysis.plots_mae_pure import plot_layer_amv, plot_loss_and_amv
from rp_models import noise
from rp_models.data import describe, load_images, subset_index
from rp_models.data.datasets import DataError
from rp_models.training import ProgressBar, RunFolder
from rp_purify import (
    MAEPure,
    MAEView,
    MaskDiTPure,
    MaskDiTView,
    SignDescent,
    curve_over_radii,
    curve_over_steps,
    variation,
)
from torch import Tensor, nn

from jobs import purifier_theorems
from jobs.device import choose_device
from jobs.networks import load_classifier, load_mae, load_maskdit
from jobs.perturbed import PerturbedImages, train_standard
from jobs.purifier_curves import Curves, correlations, plain, trends
from jobs.purifier_views import attention_of_targets, reconstruction_sheet

CAUTION = (
    "The attack is PGD on the classifier alone; it does not know the purifier. Nothing here is a robust accuracy: "
    "compare_purifiers.py and evaluate.py measure that."
)
ADVERSARIAL, NOISY, CLEAN, PURIFIED = "adversarial", "random signs", "clean", "purified"
Views = dict[str, MAEView | MaskDiTView]


class PurifierAnalysisJob:
    """One analysis of the networks behind a purifier.

    Args:
        config: everything that determines the numbers.
        folder: of page, figures and numbers.
        device: where to compute.

    Raises:
        CheckpointError, DataError: if a network cannot be used.
    """

    def __init__(self, config: PurifierAnalysis, folder: RunFolder, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.info, self.eps = describe(config.data), config.radius
        self.views = self._views()
        self._check_purifiers()
        self.trained = load_classifier(config.classifier, self.info).to(device) if config.classifier else None
        test = load_images(config.data, "test").to(device)
        self.index = subset_index(len(test), config.images or len(test)).to(device)
        self.x, self.y = test.batch(self.index)
        self._purified = dict[str, Tensor]()
        self.page = Report(f"Attention and loss of {' and '.join(self.views)} on {config.data}")
        self.result: dict[str, Any] = {"setting": self._setting()}
        self.progress = ProgressBar()

    @classmethod
    def open(cls, config: PurifierAnalysis, out: Path, *, resume: bool, device: str) -> "PurifierAnalysisJob":
        """Load networks and images, then claim the folder.

        Raises:
            RunError: if the folder cannot be used.
            CheckpointError, DataError: if a network or the device cannot be used.
        """
        job = cls(config, RunFolder(out), choose_device(device))
        job.folder = RunFolder.open(out, asdict(config), resume=resume)
        return job

    def run(self) -> None:
        """All sections, then `result.json`, the page, and the main figures on the terminal."""
        self.page.text(self._sentence())
        self.page.text(CAUTION)
        sections = [self.accuracies, self.over_radii, self.over_steps, self.evidence]
        sections += [self.attention, self.reconstructions, self.theorem_3_2, self.theorem_3_1]
        with self.folder.timed("classifier"):
            classifier = self.trained or self._standard_classifier()
        self.images = PerturbedImages(classifier, self.x, self.y, self.index, self.config)
        self.progress.start("analyze", len(sections), 0)
        for number, section in enumerate(sections, start=1):
            with self.folder.timed(section.__name__):
                section()
            self.progress.advance(number, {})
        self.progress.finish()
        self.result |= {"caution": CAUTION, "seconds": self.folder.seconds(), "config": asdict(self.config)}
        self.result["environment"] = self.folder.read_json("environment.json")
        self.folder.write_json("result.json", self.result)
        page = self.page.write(self.folder.path / "index.html")
        print(self._summary(), f"\npage: {page}")

    @property
    def purifier_seed(self) -> int:
        """Of the purifiers' masks and noise, which are not those that AMV is measured with."""
        return noise.derive_seed(self.config.seed, "purifier")

    def purified(self, model: str) -> Tensor:
        """The attacked images after the purifier around a network."""
        if model not in self._purified:
            attacked, purifier, seed = self.images.attacked(self.eps), self.purifier(model), self.purifier_seed
            self._purified[model] = self.images.batched(
                lambda rows: purifier(attacked[rows], seed=seed, index=self.index[rows])
            )
        return self._purified[model]

    def purifier(self, model: str) -> SignDescent:
        """MAE-Pure or MaskDiT-Pure around one of the networks."""
        view, descent = self.views[model], asdict(self.config.descent)
        if isinstance(view, MAEView):
            return MAEPure(view.model, **descent)
        return MaskDiTPure(view.model, **descent, sigma=self.config.sigma)

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
                kind: curve_over_steps(view, self.x, x, self.purifier(name), **options)  # type: ignore[arg-type]
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

    def _views(self) -> Views:
        """The networks that were named, each with the masks that belong to the seed."""
        config = self.config
        options: dict[str, Any] = {"mask_rate": config.mask_rate, "seed": noise.derive_seed(config.seed, "view")}
        views: Views = {}
        for name, file in (("MAE", config.mae), ("RMAE", config.rmae)):
            if file:
                views[name] = MAEView(model=load_mae(file, self.info).to(self.device), **options)
        for name, file in (("MaskDiT", config.maskdit), ("RMaskDiT", config.rmaskdit)):
            if file:
                model = load_maskdit(file, self.info).to(self.device)
                views[name] = MaskDiTView(model=model, sigma=config.sigma, **options)
        return views

    def _standard_classifier(self) -> nn.Module:
        """A classifier trained on clean images, from the folder or trained now."""
        product = self.folder.path / "checkpoints" / "standard.safetensors"
        if not product.exists():
            train = load_images(self.config.data, "train").to(self.device)
            classifier = train_standard(train, self.config, self.progress)
            rp_models.save(classifier, product, notes={"data": self.config.data, "seed": self.config.seed})
        return rp_models.load(product, device=self.device)

    def _check_purifiers(self) -> None:
        """Build the purifiers once, for their errors."""
        try:
            for name in self.views:
                self.purifier(name)
        except ValueError as error:  # a purifier's own check of its settings against the network
            raise DataError(f"purifier: {error}") from error

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

    def _setting(self) -> dict[str, Any]:
        config = self.config
        return {
            "data": config.data,
            "split": "test",
            "images": len(self.x),
            "models": {name: str(getattr(config, name.lower())) for name in self.views},
            "attack": f"PGD-{config.attack_steps} on the classifier, cross-entropy",
            "norm": "linf",
            "eps": self.eps,
            "amv": "Frobenius norm of each head's difference, mean over heads; last decoder layer, class token kept",
            "seed": config.seed,
        }

    def _sentence(self) -> str:
        setting, descent = self.result["setting"], self.config.descent
        return (
            f"{setting['data']}, {setting['images']} test images, {setting['attack']}, Linf radius {self.eps:.4g}; "
            f"{self.config.mask_rate:.0%} of the patches hidden, the same for clean, attacked and purified images. "
            f"Purifiers: {descent.steps} steps of {descent.step_size:.3g}, at most {descent.eta:.3g} from the input. "
            f"AMV: {setting['amv']}."
        )

    def _table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        self.folder.write_json(f"tables/{name}.json", rows)
        self.page.table(rows, caption)

    def _figure(self, name: str, plot: Plot, caption: str) -> None:
        plot.save(self.folder.path / "figures" / name, formats=("png",))
        self.page.figure(plot, caption)

    def _summary(self) -> str:
        """The main numbers for the terminal."""
        lines = [self._sentence(), "", f"{'':30}{'AMV':>9}{'loss':>9}"]
        at = self.config.radii.index(1)
        for name in self.views:
            end = {kind: points[-1] for kind, points in self.steps[name].items()}
            rows = {
                f"{name}, clean": self.radii[name][ADVERSARIAL][0],
                f"{name}, {NOISY}": self.radii[name][NOISY][at],
                f"{name}, {ADVERSARIAL}": self.radii[name][ADVERSARIAL][at],
                f"{name}, {ADVERSARIAL}, purified": end[ADVERSARIAL],
                f"{name}, {CLEAN}, purified": end[CLEAN],
            }
            lines += [f"{title:30}{point.amv:>9.4f}{point.loss:>9.4f}" for title, point in rows.items()]
        lines.append("")
        for row in self.result["rank_correlation"]:
            if row["images"] == ADVERSARIAL:
                values = ", ".join(f"{name} {row[name]:+.2f}" for name in ("AMV with loss", "AMV", "loss"))
                lines.append(f"rank correlation over the {row['over']}, {row['model']}: {values}")
        return "\n".join([*lines, "", CAUTION])
