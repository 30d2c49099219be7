"""The work of `pretrain.py`: train, judge on the validation split, draw sheets, write a model card."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_models.checkpoint import read_header
from rp_models.data import DataError, Images, open_images, subset
from rp_models.model_card import model_card
from rp_models.settings import EdmSettings, MaeSettings, MaskDitSettings, StandardSettings
from rp_models.training import ALONE, BaseTrainer, Processes, TensorBoard, state_path
from torch import nn

from rp_experiments import pretrain_figures as figures
from rp_experiments.estimate import fitted
from rp_experiments.pretrain_kinds import KINDS, Kind, trainer_of
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run

LOG_EVERY = 20  # steps between two lines of metrics.jsonl


def pretrain(config: Pretrain, run: Run, *, tensorboard: bool = False) -> None:
    """Train a model, and leave `checkpoints/model.safetensors`, `result.json`, `card.md` and figures in the folder."""
    train, validation = (
        open_images(config.data, split, root=run.root).to(run.device) for split in ("train", "validation")
    )
    job = _Pretraining(config, KINDS[type(config)], run, train, validation)
    trainer = None if run.has("checkpoints/model.safetensors") else job.trainer()
    run.claim(config)
    if trainer is not None:
        job.train(trainer, tensorboard=tensorboard)
        run.first(lambda: job.store(trainer.average.eval()))
    if run.main:
        state_path(run.folder, "train").unlink(missing_ok=True)
        job.report()


@dataclass(frozen=True)
class _Pretraining:
    """One run of `pretrain.py`."""

    config: Pretrain
    kind: Kind
    run: Run
    images: Images
    validation: Images

    @property
    def settings(self) -> MaeSettings | EdmSettings | MaskDitSettings | StandardSettings:
        """Of the network and its training."""
        settings: Any = getattr(self.config, self.kind.settings)
        return settings

    @property
    def product(self) -> Path:
        """The trained weights."""
        return self.run.path / "checkpoints" / "model.safetensors"

    @property
    def best(self) -> Path:
        """The weights that were best on the validation images, of a run that looks at them."""
        return self.product.with_name("best.safetensors")

    def judge(self, model: nn.Module, images: Images, processes: Processes = ALONE) -> dict[str, float]:
        """Held-out figures."""
        return self.kind.judge(self.config, model, images, processes=processes)

    def trainer(self) -> BaseTrainer:
        """A trainer whose network takes the data set's images, tried on one of them before anything is written."""
        batch, count = self.settings.batch_size, self.run.processes.count
        if batch % count:
            raise DataError(f"a batch of {batch} cannot be divided among {count} processes; change batch_size")
        try:
            trainer = trainer_of(fitted.pretraining(self.config, self.run, "train"), self.images, self.run)
            self.judge(trainer.average, subset(self.validation, 1))
        except DataError:
            raise
        except (ValueError, RuntimeError) as error:
            network = getattr(self.settings, "network", "")
            what = f"{self.kind.settings}.network {network!r}" if network else f"the network of {self.kind.settings}"
            reason = str(error).splitlines()[0]
            raise DataError(f"{what} does not suit {self.config.data}: {reason}") from error
        return trainer

    def train(self, trainer: BaseTrainer, *, tensorboard: bool) -> None:
        """All steps that are still to be done."""
        every, main = self.config.validate_every, self.run.main

        def after_step(done: int) -> Mapping[str, float]:
            if not every or done % every:
                return {}
            found = self.judge(trainer.average, self.validation, self.run.processes)
            if main:
                self.keep_best(trainer.average, found, done)
            return found

        board = TensorBoard(self.run.folder) if tensorboard and main else None
        steps, seed = self.settings.steps, self.config.seed
        self.run.train(trainer, stage="train", steps=steps, seed=seed, log_every=LOG_EVERY, after_step=after_step)
        if board:
            board.close()

    def keep_best(self, model: nn.Module, found: Mapping[str, float], step: int) -> None:
        """Keep the weights as the best ones if none before had a lower held-out loss.

        A resumed run repeats its steps and their figures bit for bit, so a file that is ahead of it stays right.
        """
        if self.best.exists() and read_header(self.best).notes["validation_loss"] <= found["validation_loss"]:
            return
        rp_models.save(model, self.best, notes={**self._notes(), **found, "steps": step}, dtype=self._dtype)

    def store(self, model: nn.Module) -> None:
        """Judge the weights as the file will hold them, and write it."""
        if self.config.half:
            model = model.half().float()
        found = {name: round(value, 5) for name, value in self.judge(model, self.validation).items()}
        rp_models.save(model, self.product, notes={**self._notes(), **found}, dtype=self._dtype)

    def report(self) -> None:
        """Figures, `result.json`, `card.md`, and the end of the run on the terminal."""
        folder, code = self.run.folder, getattr(self.settings, "network", None)
        model = rp_models.load(self.product, device=self.validation.device, code=code)
        header, info = read_header(self.product), self.images.info
        plots = self.kind.figures(self.config, model, self.validation)
        plots["loss"] = figures.loss_curve(folder.metrics("train"))
        for name, plot in plots.items():
            plot.save(self.run.path / "figures" / name, formats=("png",))
        found = {name: value for name, value in header.notes.items() if name.startswith("validation_")}
        result: dict[str, Any] = {
            **found,
            "validation_images": len(self.validation),
            "training_images": len(self.images),
            "network": header.architecture,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "data": {"name": info.name, "source": info.source, "licence": info.licence},
            "processes": self.run.processes.count,
        }
        if self.best.exists():
            kept = read_header(self.best).notes
            result["best"] = {name: kept[name] for name in ("steps", *found)}
        folder.write_text("card.md", model_card(self.run.alone().finish(result), name=self.run.path.name))
        for name, value in found.items():
            said = name.removeprefix("validation_").replace("_", " ")
            print(f"{said} on {len(self.validation)} validation images: {value}")
        print(f'checkpoint: {self.product}; load it with rp_models.load("{self.product}")')
        print(f"figures ({', '.join(plots)}): {self.run.path / 'figures'}")

    def _notes(self) -> dict[str, Any]:
        """What a checkpoint's header says of its training."""
        settings = self.settings
        notes: dict[str, Any] = {"data": self.config.data, "split": "train", "steps": settings.steps}
        notes |= {"batch_size": settings.batch_size, "lr": settings.lr, "seed": self.config.seed}
        if isinstance(settings, MaeSettings | MaskDitSettings):
            notes["mask_rate"] = settings.mask_rate
        return notes

    @property
    def _dtype(self) -> torch.dtype | None:
        """In which type weights are stored; None for that of the model."""
        return torch.float16 if self.config.half else None
