"""The work of `analyze.py`: features of every classifier of a run, then each analysis of the DRA paper."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_analysis import (
    SaeConfig,
    alignment_score,
    cka,
    cknna,
    classification_dimension,
    frequency_map,
    gradient_saliency,
    low_frequency_share,
    mutual_knn,
    permutation_test,
    uniformity_score,
)
from rp_analysis.frequency import difference_map
from rp_analysis.plots import (
    GeometryPoint,
    RobustnessCurve,
    plot_alignment_uniformity_accuracy,
    plot_cknna_scatter,
    plot_component_accuracy,
    plot_gradient_difference,
    plot_perturbation_saliency,
    plot_robustness_curves,
    plot_sae_loss,
)
from rp_analysis.sae_evaluation import sae_sweep
from rp_analysis.similarity import SimilarityPoint
from rp_attacks import PGD, accuracy_curve
from rp_dra import fit_probe
from rp_dra.alignment_settings import LATENT, AlignmentSettings
from rp_dra.settings import ClassifierSettings
from rp_dra.targets import FrozenTarget
from rp_dra.targets.build import alignment_target
from rp_models import noise
from rp_models.data import Images, open_images
from rp_models.data.datasets import open_judged
from rp_models.loading import load_network, pooled_features
from rp_models.precision import in_precision, use
from rp_models.training import RunFolder
from torch import Tensor, nn

from rp_experiments.pages import Sections
from rp_experiments.recipes.analysis import SECTIONS, Analysis, ZooComparison
from rp_experiments.run import Run
from rp_experiments.zoo_similarity import compare_models

PROBE = "diffusion probe"
VALUES = 2**20  # of pixels in a batch


def analyze(config: Analysis, run: Run, zoo: ZooComparison | None = None) -> None:
    """Do a whole analysis of a run, or compare models of RobustBench where some are named."""
    if zoo is not None and zoo.models:
        compare_models(config, run, zoo)
        return
    job = AnalysisJob(config, run)
    run.claim(config)
    job.analyze()


class AnalysisJob(Sections):
    """One analysis of one run; the run's models are loaded before the analysis' folder is claimed."""

    def __init__(self, config: Analysis, run: Run) -> None:
        super().__init__(run, f"What the classifiers of {config.run} have learnt")
        self.config, self.device = config, run.device
        self.trained = RunFolder(Path(config.run))
        self.result: dict[str, Any] = self.trained.read_json("result.json")
        setting = self.result["config"]
        self.eps, self.norm = float(setting["evaluation"]["eps"]), setting["evaluation"]["norm"]
        self.train: Images = open_images(setting["data"], "train", root=run.root).to(run.device)
        self.test, self.index = open_judged(setting["data"], "test", config.images, device=run.device, root=run.root)
        use(config.compute)
        kept, precision = self.trained.path / "checkpoints", config.compute.precision
        self.models = {
            name: in_precision(rp_models.load(kept / f"{name}.safetensors", device=run.device), precision)
            for name in self.result["methods"]
        }
        self.target = None if self.sparse_alone else self._target(setting)

    @property
    def sparse_alone(self) -> bool:
        """Whether nothing is asked for that attacks images or looks at the diffusion model."""
        return set(self.config.sections) == {"sparse"}

    def analyze(self) -> None:
        """All sections, each with its time, then `result.json` and the page."""
        sections = [self.features, *(getattr(self, name) for name in SECTIONS if name in self.config.sections)]
        setting = self.result["setting"]
        judged = setting["images"] if "images" in setting else len(self.test)
        attack = f"PGD on the margin, {self.config.attack_steps} steps"
        self.page.text(
            f"{setting['data']}, {len(self.test)} test images, {self.norm} radius {self.eps:.3g}, "
            f"{setting['classifier']}. Attacked here by {attack}; robust accuracies in tables are AutoAttack's on "
            f"{judged} test images, from the run."
        )
        self.work(sections)
        about = {key: setting[key] for key in ("data", "split", "classifier", "seed")}
        about |= {"images": len(self.test), "norm": self.norm, "eps": self.eps, "attack": attack}
        result = self.run.finish({"setting": about, "tables": self.tables})
        print(f"page: {self.page.write(self.run.path / 'index.html')}, after {sum(result['seconds'].values()):.0f} s")

    def similarity(self) -> None:
        """CKNNA and its relatives with the diffusion features (Fig. 1 and 9)."""
        if self.diffusion is None:
            return
        self.page.section("Similarity with the diffusion model")
        k, rows, points = self.config.neighbours, [], []
        for name, features in self.clean.items():
            test = permutation_test(
                features, self.diffusion, k=k, permutations=self.config.permutations, seed=self.config.seed
            )
            score, robust = cknna(features, self.diffusion, k=k), self._accuracy(name, "autoattack")
            rows.append(
                {
                    "method": name,
                    "CKNNA": score,
                    "p-value": test.p_value,
                    "mutual kNN": mutual_knn(features, self.diffusion, k=k),
                    "CKA, unbiased": cka(features, self.diffusion, unbiased=True),
                    "robust accuracy %": 100 * robust,
                }
            )
            points.append(SimilarityPoint(name, robust, score))
        self.table("similarity", rows, f"k = {k}; unconditional diffusion features at the run's noise level")
        self.figure("cknna", plot_cknna_scatter(points), "CKNNA with the diffusion features and robust accuracy")

    def geometry(self) -> None:
        """Alignment and uniformity of clean and adversarial features (Fig. 4 and 5)."""
        self.page.section("Alignment and uniformity")
        points = [
            GeometryPoint(
                name,
                alignment_score(self.clean[name], self.adversarial[name]),
                uniformity_score(self.clean[name]),
                self._accuracy(name, "clean"),
                self._accuracy(name, "autoattack"),
            )
            for name in self.models
        ]
        self.table("geometry", [point._asdict() for point in points], "negated losses: higher is more")
        self.figure("geometry", plot_alignment_uniformity_accuracy(points), "with (clean, robust) accuracy")

    def curves(self) -> None:
        """Accuracy over the radius, with the linear probe on diffusion features (Fig. 3b)."""
        self.page.section("Accuracy over the radius")
        radii = [factor * self.eps for factor in self.config.radii]
        x, y = self.test.batch(slice(None))
        curves = {
            name: RobustnessCurve.of(
                accuracy_curve(model, x, y, self._pgd(self.eps), radii, seed=self.config.seed, index=self.index), len(x)
            )
            for name, model in self._with_probe().items()
        }
        self.figure("curves", plot_robustness_curves(curves), "PGD at each radius; the probe's noise is fixed")

    def frequency(self) -> None:
        """Spectra of perturbations and of input gradients (Fig. 3a and 10)."""
        self.page.section("Frequency")
        spectra, rows = {}, []
        for name, model in self._with_probe().items():
            delta = self.each(partial(self._perturbation, model))
            spectra[name] = frequency_map(delta)
            share = low_frequency_share(frequency_map(delta, quantity="power"))
            rows.append({"model": name, "energy at or below 1/8 cycle per pixel, %": 100 * share})
        self.table("frequency", rows, "share of the perturbations' energy at low frequencies")
        self.figure("saliency", plot_perturbation_saliency(spectra), "PGD perturbations, low frequencies centred")
        gradients = {name: gradient_saliency(model, self.labelled()) for name, model in self.models.items()}
        pairs = [(base, f"{base}+dra") for base in ("at", "dm-at") if {base, f"{base}+dra"} <= gradients.keys()]
        if pairs:
            maps = {
                f"{aligned}\nminus {base}": difference_map(gradients[base], gradients[aligned], normalize=True)
                for base, aligned in pairs
            }
            self.figure("gradients", plot_gradient_difference(maps), "input gradients, low frequencies upper left")

    def dimension(self) -> None:
        """Classification dimensions and the robust-aware dimension (Fig. 7, Table 3)."""
        self.page.section("Classification dimension")
        rows = []
        for name, model in self.models.items():
            result = classification_dimension(
                self.clean[name],
                self.test.labels,
                model.head.weight.detach(),  # type: ignore[union-attr, operator]
                model.head.bias.detach(),  # type: ignore[union-attr, operator]
                adversarial=self.adversarial[name],
            )
            rows.append(
                {
                    "method": name,
                    "CLS-95": result.cls95,
                    "CLS-99": result.cls99,
                    "robust": result.robust,
                    "robust, within one standard error": "{} to {}".format(*result.robust_range or ("–", "–")),
                }
            )
            self.figure(f"dimension-{name}", plot_component_accuracy(result), name)
        self.table("dimension", rows, f"of {self.clean[name].shape[1]} features; recentred projection")

    def sparse(self) -> None:
        """Reconstruction loss of sparse autoencoders (Fig. 6)."""
        self.page.section("Sparse autoencoders")
        runs = {}
        for name, model in self.models.items():
            train = self._clean_features(model, self.train)
            width = int(train.shape[1] * self.config.sae_expansion)
            config = SaeConfig(
                expansion=self.config.sae_expansion, epochs=self.config.sae_epochs, batch=self.config.sae_batch
            )
            ks = [k for k in self.config.sae_k if k <= width]
            runs[name] = sae_sweep(train, self.clean[name], config, ks=ks, seeds=self.config.sae_seeds)
        rows = [
            {"method": name, "k": run.k, "seed": run.seed, **run.reconstruction._asdict()}
            for name, sweep in runs.items()
            for run in sweep
        ]
        self.table("sae", rows, "trained on the training images' features, judged on the test images'")
        self.figure("sae", plot_sae_loss(runs), "normalised reconstruction loss; lower is easier to disentangle")

    def _target(self, setting: dict[str, Any]) -> FrozenTarget | None:
        """The run's frozen diffusion features: of its latent model, or of the EDM model that it made or was given."""
        known = setting["alignment"] | {"random_level": "no", "loss": "cosine"}
        known |= {"network": ClassifierSettings(**known["network"]), "precision": self.config.compute.precision}
        if known["target"] in LATENT:
            return alignment_target(AlignmentSettings(**known), None, self.device).to(self.device)
        trained = self.trained.path / "checkpoints" / "edm.safetensors"
        model = str(trained) if trained.exists() else setting.get("diffusion_model")
        if model is None:
            return None
        settings = AlignmentSettings(**known | {"target": "edm"})
        return alignment_target(settings, load_network(model).to(self.device), self.device)

    def features(self) -> None:
        """Features of clean and adversarial test images, of every classifier and of the diffusion model."""
        self.clean = {name: self._clean_features(model, self.test) for name, model in self.models.items()}
        self.diffusion = self.probe = None
        if self.sparse_alone:
            return
        self.adversarial = {
            name: self.each(partial(self._adversarial_features, model)) for name, model in self.models.items()
        }
        if self.target is not None:
            self.diffusion = self.each(lambda rows, x, y: self.diffusion_features(rows, x))
            self.probe = fit_probe(self.target, self.train, seed=self.config.seed)

    def _with_probe(self) -> dict[str, nn.Module]:
        return self.models if self.probe is None else {**self.models, PROBE: self.probe}

    def _pgd(self, eps: float) -> PGD:
        """PGD on the margin."""
        steps = self.config.attack_steps
        return PGD(norm=self.norm, eps=eps, step_size=2.5 * eps / steps, steps=steps, loss="cw")

    def attacked(self, model: nn.Module, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Adversarial versions of the test images of some positions."""
        return self._pgd(self.eps)(model, x, y, seed=self.config.seed, index=rows)

    def _perturbation(self, model: nn.Module, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return self.attacked(model, rows, x, y) - x

    def _adversarial_features(self, model: nn.Module, rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return pooled_features(model, self.attacked(model, rows, x, y))

    def diffusion_features(self, rows: Tensor, x: Tensor) -> Tensor:
        """Unconditional features, with noise that belongs to each image."""
        assert self.target is not None
        shape = self.target.noise_shape(x.shape[1:])
        return self.target(x, None, noise=noise.normal(shape, seed=self.config.seed, purpose="similarity", index=rows))

    def _clean_features(self, model: nn.Module, images: Images) -> Tensor:
        return torch.cat([pooled_features(model, x) for _, x, _ in self._batches(images)])

    def each(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """What a function of positions, images and labels gives for all test images."""
        return torch.cat([function(*batch) for batch in self._batches(self.test)])

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images and their labels, a few at a time."""
        return ((x, y) for _, x, y in self._batches(self.test))

    def _batches(self, images: Images) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Positions, images and labels, a few at a time."""
        info = images.info
        size = max(64, VALUES // (info.channels * info.image_size**2))
        for rows in torch.arange(len(images), device=self.device).split(size):
            yield rows, *images.batch(rows)

    def _accuracy(self, method: str, kind: str) -> float:
        return float(self.result["methods"][method][kind]["estimate"])
