"""The stages of `probe.py`: diffusion model, baselines, probes over the noise level, accuracy over the radius, EOT.

What is in the run folder is done; an interrupted study goes on from there.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import rp_models
import torch
from rp_analysis.plots import RobustnessCurve, plot_robustness_curves
from rp_attacks import PGD, Classifier, FixedNoise, accuracy_curve
from rp_dra import EdmTarget, fit_probe, objective_of
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.encoder_trainer import EncoderFineTuner, EncoderTrainer
from rp_dra.probe import DiffusionProbe, NoisyProbe, eot_gap
from rp_dra.probe_trainer import ProbeTrainer
from rp_models import noise
from rp_models.checkpoint import CheckpointError
from rp_models.data import DataError, DatasetInfo, subset
from rp_models.diffusion.encoder_classifier import DiffusionClassifier, NoisyClassifier
from rp_models.diffusion.precondition import Precond
from rp_models.loading import load_denoiser
from rp_models.training import seeded, state_path
from torch import nn

from rp_experiments.alignment_networks import noisy_trainer
from rp_experiments.dra_judgement import attacked, autoattack
from rp_experiments.recipes.probe import BASELINES, DETERMINISTIC, Baseline, ProbeStudy
from rp_experiments.results import judged
from rp_experiments.run import Run
from rp_experiments.tables import text
from rp_experiments.train_dra import TrainDraJob

PROBE = "diffusion probe"
BATCH = 128  # images at a time; changes no number beyond rounding
# baselines that are made of the diffusion model's encoder, and the settings of their trainings
ENCODERS = {"noisy encoder": "noisy_encoder", "fine-tuned encoder": "fine_tuning"}


def probe(config: ProbeStudy, run: Run) -> None:
    """All stages of a study, then tables on the terminal, figure and `result.json`."""
    job = ProbeJob(config, run)
    run.claim(config)
    denoiser = job.models.diffusion.model()
    baselines: dict[str, Classifier] = {baseline: job.baseline(baseline, denoiser) for baseline in config.baselines}
    result: dict[str, Any] = {"setting": job.setting()}
    stages: dict[str, Callable[[], Any]] = {
        "noise levels": lambda: job.noise_levels(denoiser),
        "curves": lambda: job.curves(denoiser, baselines),
        "fresh noise": lambda: job.fresh_noise(denoiser),
    }
    if config.autoattack:
        stages["autoattack"] = lambda: job.autoattack(baselines)
    for name, work in stages.items():
        stage = name.replace(" ", "-")
        result[name] = run.once(f"results/{stage}.json", work, stage=stage, said=name)
    curves = {name: RobustnessCurve(**curve) for name, curve in result["curves"].items()}
    run.first(lambda: plot_robustness_curves(curves).save(run.path / "figures" / "curves"))
    run.finish(result)
    if run.main:
        print(tables(result))


class ProbeJob:
    """One study of a diffusion model's features; everything is checked before its folder is claimed."""

    def __init__(self, config: ProbeStudy, run: Run) -> None:
        self.config, self.run = config, run
        self.seed, self.eps = config.models.seed, config.models.evaluation.eps
        self.models = TrainDraJob(replace(config.models, method=("standard", "at")), run)
        self.models.check()
        for baseline, name in ENCODERS.items():
            batch, count = getattr(config, name).batch_size, run.processes.count
            if baseline in config.baselines and batch % count:
                raise DataError(f"{name}.batch_size {batch} cannot be divided among {count} processes; change it")
        _check_network(config, self.models.train.info)

    def baseline(self, baseline: Baseline, denoiser: nn.Module) -> Classifier:
        """A classifier to compare the probe with, trained now if it is not in the folder."""
        if baseline == "standard" or baseline == "at":
            self.models.classifier(baseline, None, None)
            return rp_models.load(self.models.checkpoint(baseline), device=self.run.device)
        stage = baseline.replace(" ", "-")
        product = self.run.path / "checkpoints" / f"{stage}.safetensors"

        def make() -> None:
            trainer = self._noisy_trainer(denoiser) if baseline == "noisy encoder" else self._fine_tuner(denoiser)
            self.run.train(trainer, stage=stage, steps=trainer.steps, seed=self.seed)
            self.run.first(lambda: rp_models.save(trainer.average, product))
            self.run.first(lambda: state_path(self.run.folder, stage).unlink(missing_ok=True))

        self.run.once(f"checkpoints/{stage}.safetensors", make, together=True, stage="")
        classifier = rp_models.load(product, device=self.run.device)
        if isinstance(classifier, NoisyClassifier):
            return FixedNoise(classifier, seed=noise.derive_seed(self.seed, "probe"))
        return classifier

    def noise_levels(self, denoiser: nn.Module) -> list[dict[str, float]]:
        """The probe's accuracy on the validation images over the noise level, without attack."""
        rows = []
        for sigma in self.config.sigmas:
            probe = fit_probe(self._target(denoiser, sigma), self.models.train, seed=self.seed)
            rows.append({"sigma": sigma, "accuracy": self._validated(probe)})
        return rows

    @torch.no_grad()
    def _validated(self, probe: nn.Module) -> float:
        """Accuracy on the validation images, a few at a time."""
        images = self.models.validation
        batches = map(images.batch, torch.arange(len(images), device=images.device).split(BATCH))
        right = sum(int((probe(x).argmax(dim=1) == y).sum()) for x, y in batches)
        return right / len(images)

    def curves(self, denoiser: nn.Module, baselines: Mapping[str, Classifier]) -> dict[str, dict[str, Any]]:
        """Accuracy over the radius under PGD on the margin; all noise is fixed, and known to the attack."""
        steps, x_y = self.config.attack_steps, self.models.test.batch(slice(None))
        attack = PGD(eps=self.eps, step_size=2.5 * self.eps / steps, steps=steps, loss="cw")
        sigma = self.config.models.alignment.sigma[0]
        probe = fit_probe(self._target(denoiser, sigma), self.models.train, seed=self.seed)
        found = {}
        radii = [factor * self.eps for factor in self.config.radii]
        models: dict[str, Classifier] = {PROBE: probe, **baselines}
        for name, model in models.items():
            points = accuracy_curve(model, *x_y, attack, radii, seed=self.seed)
            found[name] = RobustnessCurve.of(points, len(x_y[0]))._asdict()
        return found

    def autoattack(self, baselines: Mapping[str, Classifier]) -> dict[str, dict[str, Any]]:
        """Clean and AutoAttack accuracy of the baselines without noise."""
        settings, found = self.config.models.evaluation, dict[str, dict[str, Any]]()
        for name in (name for name in DETERMINISTIC if name in baselines):
            report = attacked(
                baselines[name],  # type: ignore[arg-type]
                self.models.test,
                autoattack(settings),
                settings,
                seed=self.seed,
                method=name.replace(" ", "-"),
                run=self.run,
                watch=None,
            )
            assert report is not None, "one process works here"
            found[name] = {"clean": judged(report, report.clean), "autoattack": judged(report, report.worst)}
        return found

    def fresh_noise(self, denoiser: nn.Module) -> list[dict[str, Any]]:
        """What probes with fresh noise seem to resist, and what is left under expectation over the noise."""
        config = self.config
        x, y = subset(self.models.test, config.noisy_images).batch(slice(None))
        rows = []
        for sigma in config.noisy_sigmas:
            probe = self._noisy_probe(denoiser, sigma)
            gap = eot_gap(
                NoisyProbe(probe, seed=self.seed),
                x,
                y,
                eps=config.noisy_radius * self.eps,
                steps=config.noisy_steps,
                passes=config.passes,
                seed=self.seed,
                autoattack=config.noisy_autoattack,
            )
            found = {name: value for name, value in gap._asdict().items() if name != "passes" and value is not None}
            accuracies = {name: value._asdict() for name, value in found.items()}
            rows.append({"sigma": sigma, "eps": config.noisy_radius * self.eps, "images": len(x), **accuracies})
        for sigma in config.noisy_sigmas:
            state_path(self.run.folder, self._noisy_stage(sigma)).unlink(missing_ok=True)
        return rows

    @staticmethod
    def _noisy_stage(sigma: float) -> str:
        return f"noisy-probe-{sigma:g}"

    def _noisy_probe(self, denoiser: nn.Module, sigma: float) -> DiffusionProbe:
        """A probe for images with fresh noise: linear and fitted, or with an attention head that is trained."""
        target, settings = self._target(denoiser, sigma), self.config.noisy_probe
        if settings.head == "linear":
            draws = self.config.noisy_draws
            return fit_probe(target, self.models.train, seed=self.seed, noise="per-image", draws=draws)
        trainer = ProbeTrainer(target, self.models.train, settings, seed=self.seed)
        self.run.train(trainer, stage=self._noisy_stage(sigma), steps=trainer.steps, seed=self.seed)
        return trainer.model.eval()

    def _head(self, settings: EncoderSettings) -> dict[str, Any]:
        """Where an encoder's features are taken, as those of the probes, and what classifies them."""
        classes, layer = self.models.train.info.num_classes, self.config.models.alignment.layer[0]
        return {"num_classes": classes, "sigma": settings.sigma, "layer": layer, "head": settings.head}

    def _target(self, denoiser: nn.Module, sigma: float) -> EdmTarget:
        settings = self.config.models.alignment
        return EdmTarget(denoiser, sigma=sigma, layer=settings.layer[0], label="null", precision=settings.precision)

    def _noisy_trainer(self, denoiser: nn.Module) -> EncoderTrainer:
        """The same encoder with fresh weights, and without labels, which are now what it learns."""
        layer, compute = self.config.models.alignment.layer[0], self.config.models.compute
        settings, images = self.config.noisy_encoder, self.models.train
        return noisy_trainer(denoiser, images, settings, layer=layer, compute=compute, run=self.run, seed=self.seed)

    def _fine_tuner(self, denoiser: nn.Module) -> EncoderTrainer:
        images, settings = self.models.train, self.config.fine_tuning
        assert isinstance(denoiser, Precond)
        with seeded(self.seed, "fine-tuned encoder"):
            model = DiffusionClassifier(denoiser, **self._head(settings))
        objective = objective_of(self.config.models.training, method="at", num_classes=images.info.num_classes)
        return EncoderFineTuner(
            model,
            images,
            settings,
            objective=objective,
            compute=self.config.models.compute,
            processes=self.run.processes,
            seed=self.seed,
        )

    def setting(self) -> dict[str, Any]:
        """What the tables say above their numbers."""
        models, config = self.config.models, self.config
        return {
            "data": models.data,
            "split": "test",
            "images": len(self.models.test),
            "attack": f"PGD-{config.attack_steps} on the margin, Linf; the noise of probes is fixed and known",
            "sigma": models.alignment.sigma[0],
            "layer": models.alignment.layer[0],
            "seed": models.seed,
        }


def _check_network(config: ProbeStudy, info: DatasetInfo) -> None:
    """Whether probes and baselines can be made of the diffusion model, before anything is trained."""
    baselines, layer = (
        [baseline for baseline in config.baselines if baseline in ENCODERS],
        config.models.alignment.layer[0],
    )
    if baselines and layer == "before_up":
        raise DataError(
            f"{' and '.join(baselines)}: the features of --models.alignment.layer before_up lie behind the encoder; "
            "take bottleneck, or leave these baselines out with --baselines"
        )
    given = config.models.diffusion_model
    if given is not None and not isinstance(load_denoiser(given, info), Precond):
        raise CheckpointError(f"{given}: expected an EDM network, whose features are probed")


def tables(result: Mapping[str, Any]) -> str:
    """The study's tables as text, each with its setting."""
    setting, curves = result["setting"], result["curves"]
    levels = {f"{row['sigma']:g}": _percent(row["accuracy"]) for row in result["noise levels"]}
    over_radius = [
        {"radius": name}
        | {f"{eps:.3g}": _percent(share) for eps, share in zip(curve["eps"], curve["accuracy"], strict=True)}
        for name, curve in curves.items()
    ]
    parts = [
        f"\n{setting['data']}: linear probes on {setting['layer']} features, validation accuracy without attack, %",
        text([{"sigma": "accuracy", **levels}]),
        f"\naccuracy in % over the Linf radius; {setting['attack']}; {setting['images']} test images, "
        f"sigma {setting['sigma']:g}",
        text(over_radius),
    ]
    columns = {"clean": "clean", "noise": "random", "without_eot": "PGD", "with_eot": "PGD+EOT", "fixed_noise": "known"}
    for row in result["fresh noise"]:
        title = f"\nprobe with fresh noise, sigma {row['sigma']:g}: accuracy in % at radius {row['eps']:.3g}"
        parts += [
            f"{title}, {row['images']} test images; known: noise fixed for each image",
            text([{shown: row[name] for name, shown in columns.items()}]),
        ]
    return "\n".join([*parts, "", *(f"{name}: {BASELINES[name]}" for name in curves if name in BASELINES)])


def _percent(share: float) -> str:
    """`97.3`."""
    return f"{100 * share:.1f}"
