"""The stages of `train_dra.py`: diffusion model, synthetic images, classifiers, evaluation, report.

A stage whose product is in the run folder is done; an unfinished one goes on from its training state. Under `torchrun`
all processes train and evaluate together; the first one writes and prints.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import rp_models
import torch
from rp_attacks import Progress as EvaluationProgress
from rp_attacks.problem import Attack
from rp_dra import ClassifierTrainer, build_classifier, export_robustbench, objective_of
from rp_dra.settings import Method, uses_alignment, uses_synthetic
from rp_dra.targets import FrozenTarget
from rp_models.checkpoint import CheckpointError, save_tensors
from rp_models.data import Images, open_images, subset
from rp_models.data.datasets import DataError
from rp_models.training import (
    ALONE,
    Processes,
    Progress,
    ProgressBar,
    RunFolder,
    init_distributed,
    state_path,
    train_stage,
)
from rp_models.training.devices import choose_device
from torch import nn

from rp_experiments import dra_judgement
from rp_experiments.diffusion_model import Diffusion, alignment_target
from rp_experiments.evaluations import Evaluations
from rp_experiments.recipes.dra_settings import TrainDra
from rp_experiments.reports import dra_report


class Surroundings(NamedTuple):
    """What a run needs that changes no number.

    Attributes:
        device: where to compute.
        cache: folder of what other runs made.
        root: folder of the data sets; None for the usual places.
        workers: processes that evaluate beside the training, on a CPU.
    """

    device: str = "auto"
    cache: Path = Path("runs/cache")
    root: Path | None = None
    workers: int = 0


@contextmanager
def prepared(where: Surroundings) -> Iterator[tuple[torch.device, Processes]]:
    """The device, and the processes that `torchrun` started, for one run or several.

    Raises:
        DataError: if there is no such device.
    """
    device = choose_device(where.device)
    with init_distributed(device) as processes:
        yield device, processes


def train_dra(
    config: TrainDra,
    out: Path,
    *,
    recipe: str = "",
    resume: bool = False,
    device: str = "auto",
    cache: Path,
    root: Path | None = None,
    workers: int = 0,
    quiet: bool = False,
) -> None:
    """Do a whole run.

    Args:
        config: everything that determines the numbers.
        out: the run's folder.
        recipe: where the settings started from, for the paper's figures beside the run's own.
        resume: go on with the run that is in the folder.
        device: where to compute.
        cache: folder of what other runs made.
        root: folder of the data sets.
        workers: processes that evaluate beside the training, on a CPU.
        quiet: print no table.

    Raises:
        RunError: if the folder cannot be used.
        DataError: if there is no such device, or data and settings do not fit.
        CheckpointError: if a checkpoint is missing or does not fit.
    """
    where = Surroundings(device, cache, root, workers)
    with prepared(where) as (chosen, processes):
        job = TrainDraJob.open(config, out, chosen, processes, resume=resume, where=where)
        job.run(workers=workers, recipe=recipe, quiet=quiet)


class TrainDraJob:
    """One run of `train_dra.py`.

    Args:
        config: everything that determines the numbers.
        folder: of the run.
        device: where to compute.
        cache: folder of what other runs made.
        root: folder of the data sets.
        processes: that do the run together.
    """

    def __init__(
        self,
        config: TrainDra,
        folder: RunFolder,
        device: torch.device,
        cache: Path,
        *,
        root: Path | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.folder, self.device, self.cache, self.root = config, folder, device, cache, root
        self.processes = processes
        self.progress = ProgressBar() if processes.main else Progress()
        self.train: Images = open_images(config.data, "train", root=root).to(device)
        if config.train_images is not None:
            self.train = subset(self.train, config.train_images)
        self.validation: Images = open_images(config.data, "validation", root=root).to(device)
        self.test: Images = open_images(config.data, "test", root=root).to(device)
        if config.evaluation.images is not None:
            self.test = subset(self.test, config.evaluation.images)
        self.diffusion = Diffusion(config, folder, cache, self.train, self.progress, processes)

    @classmethod
    def open(
        cls,
        config: TrainDra,
        out: Path,
        device: torch.device,
        processes: Processes,
        *,
        resume: bool,
        where: Surroundings,
    ) -> "TrainDraJob":
        """Check everything, then start a run in a new folder, or go on with the one that is there.

        Raises:
            RunError: if the folder cannot be used.
            DataError: if data and settings do not fit.
            CheckpointError: if a checkpoint is missing or does not fit.
        """
        if config.threads:
            torch.set_num_threads(config.threads)
        job = cls(config, RunFolder(out), device, where.cache, root=where.root, processes=processes)
        job.check()
        job.folder.start(asdict(config), resume=resume, processes=processes)
        return job

    def check(self) -> None:
        """Find out before any work whether the files are there, fit, and make up a training.

        Raises:
            DataError: if something does not fit.
            CheckpointError: if a checkpoint is missing or does not fit.
        """
        self.diffusion.check()
        pretrained = self.config.classifier.pretrained
        if pretrained not in (None, "timm") and not Path(str(pretrained)).is_file():
            raise CheckpointError(f"--classifier.pretrained: there is no file {pretrained}")
        try:
            build_classifier(self.config.classifier, self.train.info, pretrained=False)
        except (ValueError, TypeError) as error:
            raise DataError(f"--classifier: {error}") from error
        if self.config.training.batch_size % self.processes.count:
            raise DataError(
                f"--training.batch-size {self.config.training.batch_size} cannot be divided among "
                f"{self.processes.count} processes"
            )

    def run(self, workers: int = 0, recipe: str = "", quiet: bool = False) -> None:
        """All stages, then the report on the terminal.

        Args:
            workers: processes that evaluate what is trained while the next one trains; 0 evaluates in between.
            recipe: where the settings started from.
            quiet: print no table.
        """
        denoiser = self.diffusion.model() if self.config.needs_diffusion_model else None
        synthetic = self.diffusion.synthetic_images(denoiser) if self.config.uses_synthetic else None
        beside = self.device.type == "cpu" and self.processes.count == 1
        with Evaluations(self, workers if beside else 0) as evaluations:
            for method in self.config.method:
                self.classifier(method, synthetic, denoiser)
                evaluations.start(method)
            seconds = evaluations.finish()
        if not self.processes.main:
            return
        for method, spent in seconds.items():
            self.folder.add_seconds(f"evaluate {method}", spent)
        rows: dict[str, Any] = {
            method: self.folder.read_json(f"results/{method}.json") for method in self.config.method
        }
        dra_report.write(self.folder, self.config, self.test, rows, recipe, show=not quiet)

    def classifier(self, method: Method, synthetic: Images | None, denoiser: nn.Module | None) -> None:
        """Train the classifier of a method, if it is not there."""
        product = self.checkpoint(method)
        if not product.exists():
            self.processes.wait()
            trainer = self.trainer(method, synthetic, denoiser)
            with self.folder.timed(method):
                train_stage(
                    trainer,
                    stage=method,
                    steps=trainer.steps,
                    folder=self.folder,
                    identity={"config": asdict(self.config)},
                    seed=self.config.seed,
                    progress=self.progress,
                    after_step=trainer.after_step,
                    processes=self.processes,
                )
            self.processes.rank_zero_first(lambda: self.store(trainer.result(), method))
        if self.processes.main:
            state_path(self.folder, method).unlink(missing_ok=True)

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
            target=self.target(denoiser, used) if uses_alignment(method) else None,
            alignment=config.alignment,
            compute=config.compute,
            processes=self.processes,
            seed=config.seed,
        )

    def target(self, denoiser: nn.Module | None, synthetic: Images | None = None) -> FrozenTarget:
        """The alignment's target; with many synthetic images it gives two representations."""
        count = len(synthetic) if synthetic is not None else 0
        return alignment_target(self.config.alignment, denoiser, self.device, synthetic=count).to(self.device)

    def checkpoint(self, method: str) -> Path:
        """Where a method's classifier is kept."""
        return self.folder.path / "checkpoints" / f"{method}.safetensors"

    def store(self, model: nn.Module, method: Method) -> None:
        """Write the averaged weights in our layout, and in RobustBench's where that knows the network."""
        notes = {"data": self.config.data, "method": method, "seed": self.config.seed}
        with suppress(TypeError):  # not one of its networks
            export_robustbench(model, self.folder.path / "robustbench" / f"{method}.pt")
        rp_models.save(model, self.checkpoint(method), notes=notes)

    def judge(self, method: Method, watch: Callable[[EvaluationProgress], None] | None = None) -> None:
        """Write a method's accuracy under AutoAttack, and what its features look like, on the test images."""
        model = rp_models.load(self.checkpoint(method), device=self.device)
        settings, seed = self.config.evaluation, self.config.seed
        report = dra_judgement.attacked(
            model,
            self.test,
            self.attacks(),
            settings,
            seed=seed,
            folder=self.folder.path / "evaluation" / method,
            processes=self.processes,
            watch=watch,
        )
        if report is None:
            return
        target = self._similarity_target()
        features = dra_judgement.describe_features(model, self.test, target, settings, seed=seed)
        results = self.folder.path / "results"
        save_tensors(dra_judgement.right_images(report), results / f"{method}.safetensors", {"method": method})
        self.folder.write_json(f"results/{method}.json", {**dra_report.row(report), **features})

    def attacks(self) -> dict[str, Attack]:
        """What the classifiers are judged by."""
        return dra_judgement.autoattack(self.config.evaluation)

    def _similarity_target(self) -> FrozenTarget | None:
        """The target with which features are compared, if the run has one."""
        edm = self.config.diffusion_model or self.diffusion.product
        if self.config.alignment.target != "edm":
            return self.target(None) if self.config.uses_alignment else None
        if not self.config.needs_diffusion_model:
            return None
        return self.target(rp_models.load(edm, device=self.device))
