"""The stages of `train_dra.py`: diffusion model, synthetic images, classifiers, evaluation, report.

A stage whose product is in the run folder is done; an unfinished one goes on from its training state. Several
processes train and evaluate together; the first one writes and prints.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_attacks import Progress as EvaluationProgress
from rp_attacks.problem import Attack
from rp_dra import ClassifierTrainer, build_classifier, export_robustbench, objective_of
from rp_dra.positions import Tap
from rp_dra.settings import Method, uses_alignment, uses_synthetic
from rp_dra.targets import FrozenTarget
from rp_dra.targets.build import alignment_target
from rp_models.checkpoint import CheckpointError, save_tensors
from rp_models.data import Images, open_images, subset
from rp_models.data.datasets import DataError
from rp_models.robustbench.images import benchmark_images
from rp_models.training import state_path
from torch import nn

from rp_experiments import alignment_networks, dra_judgement
from rp_experiments.diffusion_model import Diffusion
from rp_experiments.estimate import fitted
from rp_experiments.evaluation_bar import EvaluationBar, blocks
from rp_experiments.launch import Launcher
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.reports import dra_report
from rp_experiments.run import Run


def train_dra(config: TrainDra, run: Run, *, recipe: str = "", workers: int = 0, quiet: bool = False) -> None:
    """Do a whole run, on a CPU with so many launched workers that evaluate beside the training.

    The recipe is where the settings started from: the paper's figures for it are shown beside the run's own.
    """
    job = TrainDraJob(config, run)
    job.check()
    run.claim(config)
    denoiser = job.diffusion.model() if config.needs_diffusion_model else None
    synthetic = job.diffusion.synthetic_images(denoiser) if config.uses_synthetic else None
    beside = workers > 0 and run.device.type == "cpu" and run.processes.count == 1
    with Launcher(workers) if beside else nullcontext() as launcher:
        futures = dict[Method, Future[float]]()
        for method in config.method:
            job.classifier(method, synthetic, denoiser)
            if not run.has(f"results/{method}.json"):
                futures[method] = launcher.submit(_judge, config, run, method) if launcher else job.judge_here(method)
        job.wait_for(futures)
    if not run.main:
        return
    for method, future in futures.items():
        run.folder.add_seconds(f"evaluate {method}", future.result())
    rows: dict[str, Any] = {method: run.folder.read_json(f"results/{method}.json") for method in config.method}
    dra_report.write(run.folder, config, job.test, rows, recipe, show=not quiet)


class TrainDraJob:
    """One run of `train_dra.py`, whose folder need not be claimed yet."""

    def __init__(self, config: TrainDra, run: Run) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.run = config, run
        self.train, self.validation, self.test = (self._images(split) for split in ("train", "validation", "test"))
        if config.train_images is not None:
            self.train = subset(self.train, config.train_images)
        if config.evaluation.order == "robustbench":
            self.test = benchmark_images(config.data, config.evaluation.images, root=run.root).to(run.device)
        elif config.evaluation.images is not None:
            self.test = subset(self.test, config.evaluation.images)
        self.diffusion = Diffusion(config, run, self.train)

    def _images(self, split: str) -> Images:
        return open_images(self.config.data, split, root=self.run.root).to(self.run.device)

    def check(self) -> None:
        """Find out before any work whether the files are there, fit, and make up a training."""
        config, count = self.config, self.run.processes.count
        self.diffusion.check()
        pretrained = config.classifier.pretrained
        if pretrained not in (None, "timm") and not Path(str(pretrained)).is_file():
            raise CheckpointError(f"--classifier.pretrained: there is no file {pretrained}")
        try:
            network = build_classifier(config.classifier, self.train.info, pretrained=False)
        except (ValueError, TypeError) as error:
            raise DataError(f"--classifier: {error}") from error
        if config.uses_alignment and config.alignment.loss == "tokens":
            Tap(network, config.alignment.positions, self.train.batch(slice(0, 1))[0].cpu())
        batch = config.training.batch_size
        if batch % count:
            raise DataError(f"--training.batch-size {batch} cannot be divided among {count} processes")

    def classifier(self, method: Method, synthetic: Images | None, denoiser: nn.Module | None) -> None:
        """Train the classifier of a method, if it is not there."""
        run, seed = self.run, self.config.seed

        def make() -> None:
            trainer = self.trainer(method, synthetic, denoiser)
            identity = {"config": asdict(self.config)}  # of the training; the folder may be a larger study's
            run.train(
                trainer, stage=method, steps=trainer.steps, seed=seed, after_step=trainer.after_step, identity=identity
            )
            run.first(lambda: self.store(trainer.result(), method))

        run.once(f"checkpoints/{method}.safetensors", make, together=True, stage="")
        if run.main:
            state_path(run.folder, method).unlink(missing_ok=True)

    def trainer(self, method: Method, synthetic: Images | None, denoiser: nn.Module | None) -> ClassifierTrainer:
        """The trainer of a method."""
        config = self.config
        used = synthetic if uses_synthetic(method) else None
        return ClassifierTrainer(
            config.classifier,
            config.training,
            self.train,
            objective=objective_of(config.training, method=method, num_classes=self.train.info.num_classes),
            synthetic=used,
            validation=self.validation,
            target=self.target(denoiser, used) if uses_alignment(method) and config.alignment.aligns else None,
            alignment=config.alignment if uses_alignment(method) else None,
            compute=fitted.classifier(config, method, self.run),
            processes=self.run.processes,
            seed=config.seed,
        )

    def target(self, denoiser: nn.Module | None, synthetic: Images | None = None) -> FrozenTarget:
        """The alignment's target; with many synthetic images it gives two representations."""
        count, device, config = len(synthetic) if synthetic is not None else 0, self.run.device, self.config
        settings = alignment_networks.with_checkpoint(config, denoiser, self.train, self.run)
        target = alignment_target(settings, denoiser, device, synthetic=count, info=self.train.info, seed=config.seed)
        return target.to(device)

    def checkpoint(self, method: str) -> Path:
        """Where a method's classifier is kept."""
        return self.run.path / "checkpoints" / f"{method}.safetensors"

    def store(self, model: nn.Module, method: Method) -> None:
        """Write the averaged weights in our layout, and in RobustBench's where that knows the network."""
        notes = {"data": self.config.data, "method": method, "seed": self.config.seed}
        with suppress(TypeError):  # not one of its networks
            export_robustbench(model, self.run.path / "robustbench" / f"{method}.pt")
        rp_models.save(model, self.checkpoint(method), notes=notes)

    def judge(self, method: Method, watch: Callable[[EvaluationProgress], None] | None = None) -> float:
        """Write a method's accuracy under AutoAttack, and what its features look like; the seconds that it took."""
        start = time.monotonic()
        model = rp_models.load(self.checkpoint(method), device=self.run.device, code=self.config.classifier.network)
        settings, seed, folder = self.config.evaluation, self.config.seed, self.run.folder
        report = dra_judgement.attacked(
            model, self.test, self.attacks(), settings, seed=seed, method=method, run=self.run, watch=watch
        )
        if report is not None:
            features = dra_judgement.describe_features(model, self.test, self._similarity_target(), settings, seed=seed)
            right = folder.path / "results" / f"{method}.safetensors"
            save_tensors(dra_judgement.right_images(report), right, {"method": method})
            folder.write_json(f"results/{method}.json", {**dra_report.row(report), **features})
        return time.monotonic() - start

    def attacks(self) -> dict[str, Attack]:
        """What the classifiers are judged by."""
        return dra_judgement.autoattack(self.config.evaluation)

    @property
    def blocks(self) -> int:
        """Blocks of images in this process's evaluation of one method."""
        return blocks(self.attacks(), len(self.test), self.config.evaluation.batch_size, self.run.processes.count)

    def judge_here(self, method: Method) -> "Future[float]":
        """Judge in this process, with a progress bar; the seconds that it took, as a launched process gives them."""
        seconds = self.judge(method, EvaluationBar(self.run.progress, f"evaluate {method}", self.blocks))
        self.run.processes.wait()
        self.run.progress.finish()
        future: Future[float] = Future()
        future.set_result(seconds)
        return future

    def wait_for(self, futures: dict[Method, "Future[float]"]) -> None:
        """Wait for the launched processes, with a bar of the blocks that they have finished."""
        pending, progress = {future for future in futures.values() if not future.done()}, self.run.progress
        if not pending:
            return

        def done() -> int:
            folders = (self.run.path / "evaluation" / method for method in futures)
            return sum(len(list(folder.glob("*/block-*.npz"))) for folder in folders)

        progress.start("evaluate", len(futures) * self.blocks, done())
        while pending:
            pending = wait(pending, timeout=0.5).not_done
            progress.advance(done(), {"classifiers left": len(pending)})
        progress.finish()

    def _similarity_target(self) -> FrozenTarget | None:
        """The target with which features are compared, pooled, if the run has one."""
        config = self.config
        if not config.uses_alignment and (config.alignment.target != "edm" or not config.needs_diffusion_model):
            return None
        target = self.target(self.diffusion.load() if config.needs_diffusion_model else None)
        target.positions = False
        return target


def _judge(config: TrainDra, run: Run, method: Method) -> float:
    """What a launched process does: judge one method of a run; gives the seconds that it took."""
    return TrainDraJob(config, run).judge(method)
