"""What `pretrain.py` can train: by its settings' class the trainer, how it is judged, and what shows what it learnt."""

from collections.abc import Callable
from typing import Any, NamedTuple

from rp_analysis.plots import Plot
from rp_models import training
from rp_models.data import Images
from rp_models.training import BaseTrainer
from rp_models.training.distributed import Processes
from rp_models.training.edm import edm_held_out
from rp_models.training.mae import mae_loss
from rp_models.training.maskdit import maskdit_held_out
from rp_models.training.standard import standard_held_out
from rp_purify.nim import NIMLoss
from rp_purify.nim_training import NIMTrainer, nim_held_out

from rp_experiments import pretrain_figures as figures
from rp_experiments.recipes.pretrain_settings import (
    Pretrain,
    PretrainClassifier,
    PretrainEdm,
    PretrainMae,
    PretrainMaskDit,
    PretrainNim,
)
from rp_experiments.run import Run


class Kind(NamedTuple):
    """What can be trained: its settings' name, its trainer, how it is judged, and what shows what it has learnt."""

    settings: str
    trainer: Callable[..., BaseTrainer]
    # (config, model, images, processes=): held-out figures, "validation_loss" among them, the lower the better
    judge: Callable[..., dict[str, float]]
    figures: Callable[[Any, Any, Images], dict[str, Plot]]
    options: Callable[[Any], dict[str, Any]] = lambda config: {}  # of the trainer, beside its settings


def trainer_of(config: Pretrain, images: Images, run: Run) -> BaseTrainer:
    """A fresh trainer of what a configuration is for."""
    kind = KINDS[type(config)]
    settings = getattr(config, kind.settings)
    options = {"seed": config.seed, "compute": config.compute, "processes": run.processes, **kind.options(config)}
    return kind.trainer(settings, images, **options)


def _show_samples(config: PretrainEdm | PretrainMaskDit, model: Any, validation: Images) -> dict[str, Plot]:
    """Samples of each class."""
    steps, seed = config.sampler_steps, config.seed
    return {"samples": figures.samples(model, validation.info, steps=steps, seed=seed)}


def _nim_objective(config: PretrainNim) -> NIMLoss:
    """The loss, with the noise of these settings."""
    return NIMLoss(shape=config.noise_shape, scale=config.noise_scale, std=config.noise_std)


def _judge_nim(config: PretrainNim, model: Any, images: Images, processes: Processes) -> dict[str, float]:
    """The training loss."""
    how: dict[str, Any] = {"mask_rate": config.mae.mask_rate, "seed": config.seed, "processes": processes}
    return {"validation_loss": nim_held_out(model, images, _nim_objective(config), **how)}


def _judge_maskdit(config: PretrainMaskDit, model: Any, images: Images, processes: Processes) -> dict[str, float]:
    """The training loss with masks, and (all patches visible) without."""
    settings = config.maskdit
    how: dict[str, Any] = {"mae_weight": settings.mae_weight, "seed": config.seed, "processes": processes}
    masked, plain = (maskdit_held_out(model, images, mask_rate=rate, **how) for rate in (settings.mask_rate, 0.0))
    return {"validation_loss": masked, "validation_denoising_loss": plain}


def _show_maskdit(config: PretrainMaskDit, model: Any, validation: Images) -> dict[str, Plot]:
    """Samples of each class, and reconstructions of held-out images."""
    plots, rate = _show_samples(config, model, validation), config.maskdit.mask_rate
    if rate > 0:
        plots["reconstructions"] = figures.maskdit_reconstructions(model, validation, mask_rate=rate, seed=config.seed)
    return plots


KINDS: dict[type[Pretrain], Kind] = {
    PretrainMae: Kind(
        "mae",
        training.MaeTrainer,
        # the reconstruction loss, one mask an image
        lambda config, *of, processes: {
            "validation_loss": mae_loss(*of, mask_rate=config.mae.mask_rate, seed=config.seed, processes=processes)
        },
        lambda config, *of: {
            "samples": figures.mae_reconstructions(*of, mask_rate=config.mae.mask_rate, seed=config.seed)
        },
    ),
    PretrainNim: Kind(
        "mae",
        NIMTrainer,
        _judge_nim,
        lambda config, *of: {"samples": figures.denoised(*of, std=_nim_objective(config).level, seed=config.seed)},
        lambda config: {"objective": _nim_objective(config)},
    ),
    PretrainEdm: Kind(
        "edm",
        training.EdmTrainer,
        # the denoising loss, at several noise levels an image
        lambda config, *of, processes: {"validation_loss": edm_held_out(*of, seed=config.seed, processes=processes)},
        _show_samples,
    ),
    PretrainMaskDit: Kind("maskdit", training.MaskDitTrainer, _judge_maskdit, _show_maskdit),
    PretrainClassifier: Kind(
        "standard",
        training.StandardTrainer,
        lambda config, *of, processes: dict(
            zip(("validation_loss", "validation_accuracy"), standard_held_out(*of, processes=processes), strict=True)
        ),
        lambda config, *of: {"samples": figures.mistakes(*of)},
    ),
}
