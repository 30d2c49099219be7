"""The stages of `train_dra.py`: diffusion model, synthetic images, classifiers, evaluation, report.

A stage whose product is in the run folder is done; an unfinished one goes on from its training state.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from recipes.dra import TrainDra
from rp_analysis import alignment_score, cknna, uniformity_score
from rp_attacks import PGD, AutoAttack, evaluate
from rp_attacks import Progress as EvaluationProgress
from rp_attacks.autoattack import Part
from rp_attacks.problem import Attack
from rp_attacks.report import Report
from rp_dra.settings import Method
from rp_dra.targets import EdmTarget
from rp_dra.trainer import ClassifierTrainer, objective_of
from rp_models import noise
from rp_models.data import ImageSet, load_images, read_synthetic, subset, write_synthetic
from rp_models.sampling import balanced_labels, generate
from rp_models.training import EdmTrainer, ProgressBar, RunFolder, state_path, train_stage
from torch import nn

from jobs import dra_report
from jobs.device import choose_device
from jobs.evaluations import Evaluations
from jobs.networks import pooled_features

AUTOATTACK: tuple[Part, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")  # the standard version's attacks, in its order


class TrainDraJob:
    """One run of `train_dra.py`.

    Args:
        config: everything that determines the numbers.
        folder: of the run.
        device: where to compute.
        cache: folder of diffusion models that other runs trained.
    """

    def __init__(self, config: TrainDra, folder: RunFolder, device: torch.device, cache: Path) -> None:
        self.config, self.folder, self.device, self.cache = config, folder, device, cache
        self.progress = ProgressBar()
        self.train, self.validation, self.test = (
            load_images(config.data, split).to(device) for split in ("train", "validation", "test")
        )
        if config.evaluation.images is not None:
            self.test = subset(self.test, config.evaluation.images)

    @classmethod
    def open(cls, config: TrainDra, out: Path, *, resume: bool, device: str, cache: Path) -> "TrainDraJob":
        """Check the run folder and the device before any work.

        Raises:
            RunError: if the folder cannot be used.
            DataError: if there is no such device.
        """
        chosen = choose_device(device)
        if config.threads:
            torch.set_num_threads(config.threads)
        return cls(config, RunFolder.open(out, asdict(config), resume=resume), chosen, cache)

    def run(self, workers: int = 0) -> None:
        """All stages, then the report on the terminal.

        Args:
            workers: processes that evaluate what is trained while the next one trains; 0 evaluates in between.
        """
        target, synthetic = None, None
        if any("dm" in method or "dra" in method for method in self.config.method):
            denoiser = self.diffusion_model()
            synthetic = self.synthetic_images(denoiser)
            target = self._target(denoiser)
        with Evaluations(self, workers if self.device.type == "cpu" else 0) as evaluations:
            for method in self.config.method:
                self.classifier(method, synthetic, target)
                evaluations.start(method)
            seconds = evaluations.finish()
        for method, spent in seconds.items():
            self.folder.add_seconds(f"evaluate {method}", spent)
        rows: dict[str, Any] = {
            method: self.folder.read_json(f"results/{method}.json") for method in self.config.method
        }
        dra_report.write(self.folder, self.config, self.test, rows)

    def _target(self, denoiser: nn.Module) -> EdmTarget:
        """The frozen diffusion features of the run."""
        return EdmTarget(denoiser, sigma=self.config.alignment.sigma, layer=self.config.alignment.layer)

    def diffusion_model(self) -> nn.Module:
        """The EDM network of the run: from its folder, from the cache, or trained now."""
        product = self.folder.path / "checkpoints" / "edm.safetensors"
        identity = {
            "data": self.config.data,
            "train": len(self.train),
            "seed": self.config.seed,
            "settings": asdict(self.config.edm),
        }
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()
        cached = self.cache / f"edm-{self.config.data}-{digest}.safetensors"
        if not product.exists() and cached.exists():
            rp_models.save(rp_models.load(cached), product, notes={**identity, "origin": "cache"})
        if not product.exists():
            with self.folder.timed("edm"):
                trainer = EdmTrainer(self.config.edm, self.train, seed=self.config.seed)
                train_stage(
                    trainer,
                    stage="edm",
                    steps=self.config.edm.steps,
                    folder=self.folder,
                    identity=identity,
                    seed=self.config.seed,
                    progress=self.progress,
                    log_every=20,
                )
                rp_models.save(trainer.average, cached, notes=identity)
                rp_models.save(trainer.average, product, notes=identity)
        state_path(self.folder, "edm").unlink(missing_ok=True)
        return rp_models.load(product, device=self.device)

    def synthetic_images(self, denoiser: nn.Module) -> ImageSet | None:
        """The run's synthetic images, drawn now if they are not there; None if no method uses them."""
        if not any(method.startswith("dm-at") for method in self.config.method):
            return None
        product, info, settings = self.folder.path / "synthetic.npz", self.train.info, self.config.synthetic
        if not product.exists():
            with self.folder.timed("synthetic"):
                self.progress.start("synthetic", settings.images, 0)
                labels = balanced_labels(settings.images, info.num_classes)
                images = generate(
                    denoiser,
                    labels,
                    channels=info.channels,
                    image_size=info.image_size,
                    steps=settings.steps,
                    seed=noise.derive_seed(self.config.seed, "synthetic"),
                    batch_size=settings.batch_size,
                    done=lambda count: self.progress.advance(count, {}),
                )
                self.progress.finish()
                write_synthetic(images, labels, product)
        return read_synthetic(product, info).to(self.device)

    def classifier(self, method: Method, synthetic: ImageSet | None, target: EdmTarget | None) -> None:
        """Train the classifier of a method, if it is not there."""
        product = self.folder.path / "checkpoints" / f"{method}.safetensors"
        if not product.exists():
            with self.folder.timed(method):
                trainer = ClassifierTrainer(
                    self.config.classifier,
                    self.config.training,
                    self.train,
                    objective=objective_of(self.config.training, robust=method != "standard"),
                    synthetic=synthetic if method.startswith("dm-at") else None,
                    validation=self.validation,
                    target=target if method.endswith("+dra") else None,
                    alignment=self.config.alignment,
                    seed=self.config.seed,
                )
                train_stage(
                    trainer,
                    stage=method,
                    steps=trainer.steps,
                    folder=self.folder,
                    identity={"config": asdict(self.config)},
                    seed=self.config.seed,
                    progress=self.progress,
                    after_step=trainer.after_step,
                )
                notes = {"data": self.config.data, "method": method, "seed": self.config.seed}
                rp_models.save(trainer.result(), product, notes=notes)
        state_path(self.folder, method).unlink(missing_ok=True)

    def judge(self, method: Method, watch: Callable[[EvaluationProgress], None] | None = None) -> None:
        """Write a method's accuracy under AutoAttack, and what its features look like, on the test images."""
        checkpoints = self.folder.path / "checkpoints"
        model = rp_models.load(checkpoints / f"{method}.safetensors", device=self.device)
        edm = checkpoints / "edm.safetensors"
        target = self._target(rp_models.load(edm, device=self.device)) if edm.exists() else None
        report = self.autoattack(method, model, watch)
        self.folder.write_json(f"results/{method}.json", {**dra_report.row(report), **self.features(model, target)})

    def autoattack(
        self, method: Method, model: nn.Module, watch: Callable[[EvaluationProgress], None] | None
    ) -> Report:
        """AutoAttack's standard version: its four attacks, each on the images that still stand."""
        settings = self.config.evaluation
        attacks: dict[str, Attack] = {
            part: AutoAttack(eps=settings.eps, attacks=(part,), batch_size=settings.batch_size) for part in AUTOATTACK
        }
        x, y = self.test.batch(slice(None))
        return evaluate(
            model,
            x,
            y,
            attacks,
            seed=self.config.seed,
            batch_size=settings.batch_size,
            block_size=settings.batch_size,
            probes=settings.probes,
            folder=self.folder.path / "evaluation" / method,
            progress=watch,
        )

    def features(self, model: nn.Module, target: EdmTarget | None) -> Mapping[str, float | None]:
        """The features' geometry on clean and adversarial images, and their similarity with the diffusion model's."""
        x, y = self.test.batch(slice(None))
        eps = self.config.evaluation.eps
        x_adv = PGD(eps=eps, step_size=eps / 4, steps=20)(model, x, y, seed=self.config.seed)
        clean, adversarial = pooled_features(model, x), pooled_features(model, x_adv)
        similarity = None
        if target is not None:
            index = torch.arange(len(x), device=self.device)
            eps_target = noise.normal(x.shape[1:], seed=self.config.seed, purpose="similarity", index=index)
            # without labels: a condition on the true class would make any good classifier look similar
            diffusion = target(x, None, noise=eps_target)
            similarity = cknna(clean, diffusion, k=min(self.config.evaluation.neighbours, len(x) - 1))
        return {
            "cknna": similarity,
            "alignment": alignment_score(clean, adversarial),
            "uniformity": uniformity_score(clean),
        }
