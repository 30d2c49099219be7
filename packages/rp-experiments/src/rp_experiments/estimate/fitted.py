"""The settings of each training with a micro-batch that fits into the GPU that is there; see `choice.fitting`."""

from dataclasses import replace
from typing import TypeVar

from rp_dra.settings import Method
from rp_models.settings import ComputeSettings
from torch import nn

from rp_experiments.estimate import steps
from rp_experiments.estimate.choice import fitting
from rp_experiments.estimate.counting import meta_copy
from rp_experiments.estimate.finetuning import finetuning_step, tuning_step
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.run import Run

P = TypeVar("P", bound=Pretrain)


def pretraining(config: P, run: Run, stage: str) -> P:
    """The settings of a pre-training."""
    batch = steps.kind_settings(config).batch_size
    compute = fitting(config.compute, run, stage, batch, lambda: steps.pretraining(config, run))
    return replace(config, compute=compute)


def classifier(config: TrainDra, method: Method, run: Run) -> ComputeSettings:
    """Of one of `train_dra.py`'s methods."""
    batch = config.training.batch_size
    return fitting(config.compute, run, method, batch, lambda: steps.classifier_training(config, method, run)[0])


def finetuning(config: Finetuning, run: Run, stage: str, model: nn.Module, front: nn.Module) -> ComputeSettings:
    """Of stage II of a purifier's fine-tuning, with its network and the classifier in front of which it stands."""
    batch = config.finetune.batch_size
    return fitting(
        config.compute, run, stage, batch, lambda: finetuning_step(config, meta_copy(model), meta_copy(front))
    )


def tuning(config: Finetuning, run: Run, stage: str, denoiser: nn.Module, front: nn.Module) -> ComputeSettings:
    """Of ADBM's or ADDT's training of a denoiser."""
    batch = config.tuning.batch_size
    return fitting(
        config.compute, run, stage, batch, lambda: tuning_step(config, meta_copy(denoiser), meta_copy(front))
    )
