"""The work of `pretrain.py`: train, judge on the validation split, draw sheets, write a model card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_models.checkpoint import read_header
from rp_models.data import DataError, Images, open_images, subset
from rp_models.model_card import model_card
from rp_models.settings import MaeSettings, MaskDitSettings
from rp_models.training import Processes, ProgressBar, RunFolder, TensorBoard, init_distributed, state_path, train_stage
from rp_models.training.devices import choose_device, describe_device
from torch import nn

from rp_experiments import pretrain_figures
from rp_experiments.pretrain_kinds import Kind, Trainer, kind_of
from rp_experiments.recipes.pretrain import Pretrain

LOG_EVERY = 20  # steps between two lines of metrics.jsonl


def pretrain(
    config: Pretrain, out: Path, *, resume: bool, device: str, root: Path | None = None, tensorboard: bool = False
) -> None:
    """Train the model, and leave `checkpoints/model.safetensors`, `result.json`, `card.md` and figures in the folder.

    Args:
        config: everything that determines the weights.
        out: the run's folder.
        resume: go on with the run that is there.
        device: name of the device.
        root: folder of the catalogue's data sets.
        tensorboard: also write the metrics for TensorBoard.

    Raises:
        RunError: if the folder cannot be used.
        DataError: if the network does not fit the data set, or there is no such device.
        Interrupted: if the loss stops being a number.
        OSError: if a file cannot be written.
    """
    where = choose_device(device)
    with init_distributed(where) as processes:
        train, validation = (open_images(config.data, split, root=root).to(where) for split in ("train", "validation"))
        run = _Pretraining(config, kind_of(config), RunFolder(out), train, validation, processes)
        trainer = None if run.product.exists() else run.trainer()
        run.folder.start(asdict(config), resume=resume, processes=processes)
        if trainer is not None:
            run.train(trainer, tensorboard=tensorboard)
            processes.rank_zero_first(lambda: run.store(trainer.average.eval()))
        if processes.main:
            state_path(run.folder, "train").unlink(missing_ok=True)
            run.report(describe_device(where))


@dataclass(frozen=True)
class _Pretraining:
    """One run of `pretrain.py`."""

    config: Pretrain
    kind: Kind
    folder: RunFolder
    training_images: Images
    validation: Images
    processes: Processes

    @property
    def product(self) -> Path:
        """The trained weights."""
        return self.folder.path / "checkpoints" / "model.safetensors"

    @property
    def best(self) -> Path:
        """The weights that were best on the validation images, of a run that looks at them."""
        return self.product.with_name("best.safetensors")

    def trainer(self) -> Trainer:
        """A trainer whose network takes the data set's images, tried on one of them before anything is written."""
        batch, count = self.kind.settings.batch_size, self.processes.count
        if batch % count:
            raise DataError(f"a batch of {batch} cannot be divided among {count} processes; change batch_size")
        try:
            trainer = self.kind.trainer(self.training_images, self.processes)
            self.kind.judge(trainer.average, subset(self.validation, 1))
        except DataError:
            raise
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self.kind.network} does not suit {self.config.data}: {reason}") from error
        return trainer

    def train(self, trainer: Trainer, *, tensorboard: bool) -> None:
        """All steps that are still to be done."""
        config, main = self.config, self.processes.main

        def after_step(done: int) -> Mapping[str, float]:
            if not main or not config.validate_every or done % config.validate_every:
                return {}
            figures = self.kind.judge(trainer.average, self.validation)
            self.keep_best(trainer.average, figures, done)
            return figures

        board = TensorBoard(self.folder) if tensorboard and main else None
        with self.folder.timed("train"):
            train_stage(
                trainer,
                stage="train",
                steps=self.kind.settings.steps,
                folder=self.folder,
                identity={"config": asdict(config)},
                seed=config.seed,
                progress=ProgressBar(),
                log_every=LOG_EVERY,
                after_step=after_step,
                processes=self.processes,
            )
        if board:
            board.close()

    def keep_best(self, model: nn.Module, figures: Mapping[str, float], step: int) -> None:
        """Keep the weights as the best ones if none before had a lower held-out loss.

        A resumed run repeats its steps and their figures bit for bit, so a file that is ahead of it stays right.
        """
        if self.best.exists() and read_header(self.best).notes["validation_loss"] <= figures["validation_loss"]:
            return
        rp_models.save(model, self.best, notes={**self._notes(), **figures, "steps": step}, dtype=self._dtype)

    def store(self, model: nn.Module) -> None:
        """Judge the weights as the file will hold them, and write it."""
        if self.config.half:
            model = model.half().float()
        figures = {name: round(value, 5) for name, value in self.kind.judge(model, self.validation).items()}
        rp_models.save(model, self.product, notes={**self._notes(), **figures}, dtype=self._dtype)

    def report(self, device: str) -> None:
        """Figures, `result.json`, `card.md`, and the end of the run on the terminal."""
        model = rp_models.load(self.product, device=self.validation.device)
        header, info = read_header(self.product), self.training_images.info
        curve = pretrain_figures.loss_curve(self.folder.metrics("train"))
        plots = {**self.kind.figures(model, self.validation), "loss": curve}
        for name, plot in plots.items():
            plot.save(self.folder.path / "figures" / name, formats=("png",))
        figures = {name: value for name, value in header.notes.items() if name.startswith("validation_")}
        result: dict[str, Any] = {
            **figures,
            "validation_images": len(self.validation),
            "training_images": len(self.training_images),
            "network": header.architecture,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "data": {"name": info.name, "source": info.source, "licence": info.licence},
            "device": device,
            "processes": self.processes.count,
            "seconds": self.folder.seconds(),
            "config": asdict(self.config),
            "environment": self.folder.read_json("environment.json"),
        }
        if self.best.exists():
            kept = read_header(self.best).notes
            result["best"] = {name: kept[name] for name in ("steps", *figures)}
        self.folder.write_json("result.json", result)
        self.folder.write_text("card.md", model_card(result, name=self.folder.path.name))
        for name, value in figures.items():
            said = name.removeprefix("validation_").replace("_", " ")
            print(f"{said} on {len(self.validation)} validation images: {value}")
        print(f'checkpoint: {self.product}; load it with rp_models.load("{self.product}")')
        print(f"figures ({', '.join(plots)}): {self.folder.path / 'figures'}")

    def _notes(self) -> dict[str, Any]:
        """What a checkpoint's header says of its training."""
        settings = self.kind.settings
        notes: dict[str, Any] = {
            "data": self.config.data,
            "split": "train",
            "steps": settings.steps,
            "batch_size": settings.batch_size,
            "lr": settings.lr,
            "seed": self.config.seed,
        }
        if isinstance(settings, MaeSettings | MaskDitSettings):
            notes["mask_rate"] = settings.mask_rate
        return notes

    @property
    def _dtype(self) -> torch.dtype | None:
        """In which type weights are stored; None for that of the model."""
        return torch.float16 if self.config.half else None
