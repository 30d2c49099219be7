"""What `pretrain.py` can train: for each kind its trainer, how it is judged, and what shows what it has learnt."""

from typing import Protocol

import torch
from rp_analysis import Plot
from rp_models import training
from rp_models.data import Images
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import EdmSettings, MaeSettings, MaskDitSettings, StandardSettings
from rp_models.training import (
    EdmTrainer,
    MaeTrainer,
    MaskDitTrainer,
    Processes,
    StandardTrainer,
    edm_held_out,
    mae_loss,
    maskdit_held_out,
    standard_held_out,
)
from torch import nn

from rp_experiments import pretrain_figures
from rp_experiments.recipes.pretrain import Pretrain, PretrainClassifier, PretrainEdm, PretrainMae, PretrainMaskDit

Settings = MaeSettings | EdmSettings | MaskDitSettings | StandardSettings


class Trainer(training.Trainer, Protocol):
    """What all trainers have."""

    @property
    def average(self) -> nn.Module:
        """The model that one uses."""


class Kind(Protocol):
    """A kind of model."""

    @property
    def settings(self) -> Settings:
        """Of the network and its training."""

    @property
    def network(self) -> str:
        """What to call the network where it does not suit the data set."""

    def trainer(self, images: Images, processes: Processes) -> Trainer:
        """A fresh trainer."""

    def judge(self, model: nn.Module, images: Images) -> dict[str, float]:
        """Held-out figures; "validation_loss" is among them, the lower the better."""

    def figures(self, model: nn.Module, validation: Images) -> dict[str, Plot]:
        """What shows what the model has learnt, by name; samples or reconstructions."""


def kind_of(config: Pretrain) -> Kind:
    """The kind that a configuration is for."""
    if isinstance(config, PretrainMae):
        return _Mae(config)
    if isinstance(config, PretrainEdm):
        return _Edm(config)
    if isinstance(config, PretrainMaskDit):
        return _MaskDit(config)
    if isinstance(config, PretrainClassifier):
        return _Classifier(config)
    raise TypeError(f"expected a configuration of a kind, got {type(config).__name__}")


class _Mae:
    """Masked autoencoders."""

    def __init__(self, config: PretrainMae) -> None:
        self.config, self.settings = config, config.mae
        self.network = f"mae.network {config.mae.network!r}"

    def trainer(self, images: Images, processes: Processes) -> Trainer:
        """A fresh trainer."""
        config = self.config
        return MaeTrainer(config.mae, images, seed=config.seed, compute=config.compute, processes=processes)

    def judge(self, model: nn.Module, images: Images) -> dict[str, float]:
        """The reconstruction loss, one mask an image."""
        assert isinstance(model, MaskedAutoencoder)
        return {"validation_loss": mae_loss(model, images, mask_rate=self.settings.mask_rate, seed=self.config.seed)}

    def figures(self, model: nn.Module, validation: Images) -> dict[str, Plot]:
        """Reconstructions of held-out images."""
        assert isinstance(model, MaskedAutoencoder)
        rate, seed = self.settings.mask_rate, self.config.seed
        return {"samples": pretrain_figures.mae_reconstructions(model, validation, mask_rate=rate, seed=seed)}


class _Edm:
    """EDM diffusion models."""

    def __init__(self, config: PretrainEdm) -> None:
        self.config, self.settings = config, config.edm
        self.network = "the network of these edm settings"

    def trainer(self, images: Images, processes: Processes) -> Trainer:
        """A fresh trainer."""
        config = self.config
        return EdmTrainer(config.edm, images, seed=config.seed, compute=config.compute, processes=processes)

    def judge(self, model: nn.Module, images: Images) -> dict[str, float]:
        """The denoising loss, at several noise levels an image."""
        return {"validation_loss": edm_held_out(model, images, seed=self.config.seed)}

    def figures(self, model: nn.Module, validation: Images) -> dict[str, Plot]:
        """Samples of each class."""
        steps, seed = self.config.sampler_steps, self.config.seed
        return {"samples": pretrain_figures.samples(model, validation.info, steps=steps, seed=seed)}


class _MaskDit:
    """MaskDiTs."""

    def __init__(self, config: PretrainMaskDit) -> None:
        self.config, self.settings = config, config.maskdit
        self.network = f"maskdit.network {config.maskdit.network!r}"

    def trainer(self, images: Images, processes: Processes) -> Trainer:
        """A fresh trainer."""
        config = self.config
        return MaskDitTrainer(config.maskdit, images, seed=config.seed, compute=config.compute, processes=processes)

    def judge(self, model: nn.Module, images: Images) -> dict[str, float]:
        """The training loss with masks, and (all patches visible) without."""
        assert isinstance(model, MaskDiT)
        weight, seed = self.settings.mae_weight, self.config.seed
        masked, plain = (
            maskdit_held_out(model, images, mask_rate=rate, mae_weight=weight, seed=seed)
            for rate in (self.settings.mask_rate, 0.0)
        )
        return {"validation_loss": masked, "validation_denoising_loss": plain}

    def figures(self, model: nn.Module, validation: Images) -> dict[str, Plot]:
        """Samples of each class, and reconstructions of held-out images."""
        assert isinstance(model, MaskDiT)
        config, rate = self.config, self.settings.mask_rate
        plots = {
            "samples": pretrain_figures.samples(model, validation.info, steps=config.sampler_steps, seed=config.seed)
        }
        if rate > 0:
            plots["reconstructions"] = pretrain_figures.maskdit_reconstructions(
                model, validation, mask_rate=rate, seed=config.seed
            )
        return plots


class _Classifier:
    """Standard classifiers."""

    def __init__(self, config: PretrainClassifier) -> None:
        self.config, self.settings = config, config.standard
        self.network = f"standard.network {config.standard.network!r}"

    def trainer(self, images: Images, processes: Processes) -> Trainer:
        """A fresh trainer."""
        config = self.config
        return StandardTrainer(config.standard, images, seed=config.seed, compute=config.compute, processes=processes)

    def judge(self, model: nn.Module, images: Images) -> dict[str, float]:
        """Cross-entropy and accuracy."""
        loss, accuracy = standard_held_out(model, images)
        return {"validation_loss": loss, "validation_accuracy": accuracy}

    @torch.no_grad()
    def figures(self, model: nn.Module, validation: Images) -> dict[str, Plot]:
        """Held-out images that the classifier gets wrong."""
        return {"samples": pretrain_figures.mistakes(model, validation)}
