"""The work of `analyze_purifier.py`: AMV and loss over radius and steps, attention maps, theorems, and the page."""

import functools
from dataclasses import asdict
from typing import Any

import torch
from rp_analysis.plots import plot_amv_over_iterations, plot_layer_amv, plot_loss_and_amv
from rp_models import noise
from rp_models.data import DatasetInfo, describe
from rp_models.data.datasets import DataError, open_subset
from rp_models.loading import load_classifier, load_mae, load_maskdit
from rp_models.precision import in_precision, use
from rp_purify import MAEPure, MAEView, MaskDiTPure, MaskDiTView, SignDescent
from rp_purify.amv import curve_over_radii, curve_over_steps
from torch import Tensor

from rp_experiments import purifier_figures as figures
from rp_experiments.networks import standard_classifier
from rp_experiments.pages import Sections
from rp_experiments.perturbed_images import PerturbedImages
from rp_experiments.recipes.analyze_purifier import PurifierAnalysis
from rp_experiments.reports import purifier_report as report
from rp_experiments.reports.purifier_report import ADVERSARIAL, CAUTION, CLEAN, NOISY, PURIFIED
from rp_experiments.run import Run

Views = dict[str, MAEView | MaskDiTView]


def analyze_purifier(config: PurifierAnalysis, run: Run) -> None:
    """The whole analysis; networks and images are loaded before the folder is claimed."""
    job = PurifierAnalysisJob(config, run)
    run.claim(config)
    job.write()


class PurifierAnalysisJob(Sections):
    """One analysis of the networks behind a purifier."""

    formats = ("png",)

    def __init__(self, config: PurifierAnalysis, run: Run) -> None:
        info, self.eps, self.config = describe(config.data), config.radius, config
        use(config.compute)
        self.views = open_views(config, info, run.device)
        super().__init__(run, f"Attention and loss of {' and '.join(self.views)} on {config.data}")
        self.purifiers = {name: purifier_around(name, view, config) for name, view in self.views.items()}
        trained = load_classifier(config.classifier or standard_classifier(config.data, run), info).to(run.device)
        for network in (trained, *(view.model for view in self.views.values())):
            in_precision(network, config.compute.precision)
        test, self.index = open_subset(config.data, "test", config.images, device=run.device, root=run.root)
        self.x, self.y = test.batch(slice(None))
        self.images = PerturbedImages(trained, self.x, self.y, self.index, config)
        self._purified = dict[str, Tensor]()
        self.result: dict[str, Any] = {"setting": report.setting(config, self.views, len(self.x))}

    def write(self) -> None:
        """All sections, then `result.json`, the page, and the main figures on the terminal."""
        config = self.config
        self.page.text(report.sentence(config, self.result["setting"]))
        self.page.text(CAUTION)
        sections = [self.accuracies, self.over_radii, self.over_steps, self.evidence]
        sections += [self.attention, self.reconstructions, self.theorem_3_2, self.theorem_3_1]
        self.work(sections)
        self.run.finish({**self.result, "caution": CAUTION})
        page = self.page.write(self.run.path / "index.html")
        print(report.summary(config, self.result, self.radii, self.steps), f"\npage: {page}")

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
        self.table("accuracy", rows, "without a purifier")

    def over_radii(self) -> None:
        """AMV and loss against the radius, and layer by layer (Fig. 4 a-c, 7)."""
        self.page.section("Over the attack's radius")
        perturb = {ADVERSARIAL: self.images.attacked, NOISY: self.images.noisy}
        self.radii: figures.Curves = {
            name: {
                kind: curve_over_radii(view, self.x, images, self._radii(), index=self.index)
                for kind, images in perturb.items()
            }
            for name, view in self.views.items()
        }
        self.result["over_radii"] = figures.plain(self.radii)
        plot = plot_loss_and_amv(figures.trends(self.radii), xlabel="radius ε (1/255)", scale=255)
        self.figure("amv-over-radius", plot, "Loss and AMV, mean over images and its 95% interval (Fig. 4 a-c, 7)")
        layers = {
            name: (self._radii(), [point.layers for point in kinds[ADVERSARIAL]]) for name, kinds in self.radii.items()
        }
        caption = "AMV of each decoder layer on adversarial images"
        self.figure("amv-of-layers", plot_layer_amv(layers, xlabel="radius ε (1/255)", scale=255), caption)

    def over_steps(self) -> None:
        """AMV and loss over the purification steps (Fig. 4 d-f, 6), with clean and noisy images as controls."""
        self.page.section("Over the purification steps")
        starts = {ADVERSARIAL: self.images.attacked(self.eps), NOISY: self.images.noisy(self.eps), CLEAN: self.x}
        options = {"seed": self.purifier_seed, "index": self.index, "every": self.config.every}
        self.steps: figures.Curves = {
            name: {
                kind: curve_over_steps(view, self.x, x, self.purifiers[name], **options)  # type: ignore[arg-type]
                for kind, x in starts.items()
            }
            for name, view in self.views.items()
        }
        self.result["over_steps"] = figures.plain(self.steps)
        plot = plot_loss_and_amv(figures.trends(self.steps), xlabel="purification step")
        text = "Loss and AMV against the clean image under the same mask (Fig. 4 d-f); clean: what purifying costs"
        self.figure("amv-over-steps", plot, text)
        families = {"MAE": ("MAE", "RMAE"), "MaskDiT": ("MaskDiT", "RMaskDiT")}
        pairs = {
            family: {f"{name}-Pure": [p.amv for p in self.steps[name][ADVERSARIAL]] for name in members}
            for family, members in families.items()
            if all(name in self.views for name in members)
        }
        if pairs:
            places = [int(point.position) for point in self.steps["MAE"][ADVERSARIAL]]
            plot = plot_amv_over_iterations(pairs, iterations=places)
            self.figure("amv-of-robust", plot, "AMV of adversarial images before and after fine-tuning (Fig. 6)")

    def evidence(self) -> None:
        """Whether AMV and loss rise together with the radius and fall together over the steps."""
        self.page.section("Do AMV and loss move together?")
        rows = [
            figures.correlations(name, axis, kind, points)
            for axis, curves in (("radius", self.radii), ("steps", self.steps))
            for name, kinds in curves.items()
            for kind, points in kinds.items()
            if (axis, kind) != ("steps", CLEAN)
        ]
        self.result["rank_correlation"] = rows
        self.table("rank-correlation", rows, "Spearman's correlation of the curves' points (means over images)")
        rows = [self._image_by_image(name) for name in self.views]
        self.result["image_by_image"] = rows
        self.table("image-by-image", rows, f"adversarial at radius {self.eps:.3g}, before and after purification")

    def attention(self) -> None:
        """Which visible patches a hidden patch attends to (Fig. 2, 8), and how far that moves on all images."""
        self.page.section("Attention of a hidden patch")
        rows, count = [], min(self.config.examples, len(self.x))
        noisy, drawn = self.images.noisy(self.eps), (CLEAN, ADVERSARIAL, PURIFIED)
        for name, view in self._autoencoders().items():
            versions = {CLEAN: self.x, ADVERSARIAL: self.images.attacked(self.eps), NOISY: noisy}
            versions[PURIFIED] = self.purified(name)
            seen = figures.attention_of_targets(
                view, versions, self.index, drawn=drawn, count=count, batch_size=self.config.batch_size
            )
            moved = {f"moved, {kind} %": 100 * share for kind, share in seen.moved.items()}
            rows.append({"model": name, **moved, "purified nearer than adversarial %": 100 * seen.nearer})
            text = f"{name}, last decoder layer: the {count} images whose attention the attack moves most (Fig. 2, 8)"
            self.figure(f"attention-{name.lower()}", seen.plot, text)
        self.result["attention_of_hidden_patch"] = rows
        self.table("attention", rows, "share of the target's attention to visible patches that lies elsewhere")

    def reconstructions(self) -> None:
        """What the autoencoder makes of clean, adversarial and purified images (Fig. 1)."""
        self.page.section("Reconstructions")
        few = slice(0, self.config.sheet)
        for name, view in self._autoencoders().items():
            versions = {CLEAN: self.x, ADVERSARIAL: self.images.attacked(self.eps), PURIFIED: self.purified(name)}
            plot = figures.reconstruction_sheet(view, {kind: x[few] for kind, x in versions.items()}, self.index[few])
            text = f"{name}: images, and what it reconstructs from their visible patches (Fig. 1)"
            self.figure(f"reconstructions-{name.lower()}", plot, text)

    def theorem_3_2(self) -> None:
        """How often the inequality of Theorem 3.2 holds."""
        self.page.section("Theorem 3.2: is the loss bounded from below by AMV?")
        weak, strong = self.config.weak_steps, self.config.attack_steps
        library = self.config.attack == "autoattack"
        images = {NOISY: self.images.noisy} | {
            f"PGD-{steps}": functools.partial(self.images.attacked, steps=steps)
            for steps in sorted({*weak} if library else {*weak, strong})
        }
        images |= {"AutoAttack": self.images.attacked} if library else {}
        rows, plot = figures.inequality(self._autoencoders(), self.x, self.index, images, self._few_radii())
        self.result["theorem_3_2"] = rows
        text = "the largest constant H C_A with which it holds for 95% of the images, c_rec = 0; negative: with none"
        self.table("theorem-3-2", rows, text)
        text = "Share of images for which the inequality holds, c_rec = 0, by radius in 1/255"
        self.figure("theorem-3-2", plot, f"{text}; the paper names no constants")

    def theorem_3_1(self) -> None:
        """How good the approximation of Theorem 3.1 is."""
        self.page.section("Theorem 3.1: the variation of attention by random features")
        few, config = slice(0, self.config.kernel_images), self.config
        pairs = {eps: self.images.attacked(eps)[few] for eps in self._few_radii()}
        view = next(iter(self._autoencoders().values()))
        rows, plot = figures.approximation(
            view, self.x[few], self.index[few], pairs, features=config.features, seed=config.seed
        )
        self.result["theorem_3_1"] = rows
        self.table("theorem-3-1", rows, "medians and rank correlations over images, layers and heads")
        self.figure("theorem-3-1", plot, "One point for each image, decoder layer and head; the line is equality")

    def _autoencoders(self) -> dict[str, MAEView]:
        return {name: view for name, view in self.views.items() if isinstance(view, MAEView)}

    def _radii(self) -> list[float]:
        return [factor * self.eps for factor in self.config.radii]

    def _few_radii(self) -> list[float]:
        """Every other radius, the largest among them: enough for a table."""
        return self._radii()[:0:-2][::-1]

    def _image_by_image(self, model: str) -> dict[str, Any]:
        """What the attack changes and purification mends, over single images."""
        attacked, purified = self.images.attacked(self.eps), self.purified(model)
        return {
            "model": model,
            **figures.image_by_image(self.views[model], self.x, attacked, purified, self.index),
            "accuracy attacked %": 100 * self.images.accuracy(attacked),
            "accuracy purified %": 100 * self.images.accuracy(purified),
        }


def open_views(config: PurifierAnalysis, info: DatasetInfo, device: torch.device) -> Views:
    """The networks that were named, each with the masks that belong to the seed."""
    options: dict[str, Any] = {"mask_rate": config.mask_rate, "seed": noise.derive_seed(config.seed, "view")}
    views: Views = {}
    for name, file in (("MAE", config.mae), ("RMAE", config.rmae)):
        if file:
            views[name] = MAEView(model=load_mae(file, info).to(device), **options)
    for name, file in (("MaskDiT", config.maskdit), ("RMaskDiT", config.rmaskdit)):
        if file:
            views[name] = MaskDiTView(model=load_maskdit(file, info).to(device), sigma=config.sigma, **options)
    return views


def purifier_around(name: str, view: MAEView | MaskDiTView, config: PurifierAnalysis) -> SignDescent:
    """MAE-Pure or MaskDiT-Pure around a network, with the settings of its name."""
    descent = asdict(config.descent_of(name.lower()))
    try:
        if isinstance(view, MAEView):
            return MAEPure(view.model, **descent)
        return MaskDiTPure(view.model, **descent, sigma=config.sigma)
    except ValueError as error:
        raise DataError(f"purifier: {error}") from error
