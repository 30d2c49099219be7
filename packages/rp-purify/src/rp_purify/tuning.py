"""Tuning a pre-trained denoiser by ADBM's bridge or by ADDT's perturbed denoising.

Source: Li et al. 2025, arXiv:2408.00315; Liu et al. 2025, arXiv:2404.14309; and their public code.
"""

import torch
from rp_models.data.augmentation import Augmentation
from rp_models.data.images import Images
from rp_models.diffusion.edm_loss import EDMLoss, VPLoss
from rp_models.diffusion.precondition import VPPrecond
from rp_models.settings import ComputeSettings
from rp_models.training.averaging import MovingAverage, average_, dmat_decay
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import Minibatches
from rp_models.training.trainer import BaseTrainer
from torch import Tensor, nn

from rp_purify.addt import ADDTLoss
from rp_purify.bridge import BridgeLoss
from rp_purify.settings import ADBMTuningSettings, ADDTTuningSettings


class TunedAverage(MovingAverage):
    """The average of the weights whose decay grows with the steps: min(ema, (1 + n) / (10 + n)), or ADDT's power."""

    def __init__(self, model: nn.Module, *, ema: float, power: float | None) -> None:
        super().__init__(model, half_life=0)
        self.ema, self.power = ema, power

    def follow(self, model: nn.Module, *, seen: int, batch_size: int) -> None:
        """Move towards the model after a step."""
        average_(self.model, model, self.decay(seen // batch_size))

    def decay(self, step: int) -> float:
        """After optimiser step `step`, from 1."""
        if self.power is None:
            return dmat_decay(step, warmup_steps=0, tau=self.ema)
        return min(self.ema, 1 - (1 + step) ** -self.power)


class DenoiserTuner(BaseTrainer):
    """Trains a denoiser, in place, against an adversary that each step makes anew; `average` is the one to keep.

    Args:
        settings: of ADBM or ADDT, which says the objective.
        denoiser: D(x; sigma) of images in [-1, 1], without classes. ADDT weighs one of the VP process as its VP trainer
            does (a mean over pixels), any other as EDM (a sum).
        classifier: images to logits, kept in eval mode and never changed.
        images: the training images, with batches on the device where the training shall run.
    """

    def __init__(
        self,
        settings: ADBMTuningSettings | ADDTTuningSettings,
        denoiser: nn.Module,
        classifier: nn.Module,
        images: Images,
        *,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        self.settings, self.classifier, self.seed = settings, classifier.eval(), seed
        self.model = denoiser.requires_grad_(True).train()
        self.objective = _objective(settings, denoiser)
        flips = Augmentation(flip=settings.flip)
        batches = Minibatches(
            images, settings.batch_size, seed=seed, purpose="tuning", augmentation=flips, processes=processes
        )
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        power = settings.ema_power if isinstance(settings, ADDTTuningSettings) else None
        average = TunedAverage(self.model, ema=settings.ema, power=power)
        super().__init__(
            {"model": self.model}, batches, optimizer, average=average, compute=compute, processes=processes
        )

    def rate(self, step: int) -> float:
        """A linear rise from zero, then constant."""
        return self.settings.lr * min(step / max(self.settings.warmup_steps, 1), 1.0)

    def loss(self, x: Tensor, labels: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of images in [0, 1]; logged is the part that denoises, a mean over values."""
        x = 2 * x - 1
        if isinstance(self.objective, BridgeLoss):
            bridge = self.objective.draw(x.shape[1:], seed=self.seed, index=draw)
            return self.objective(self.model, self.classifier, x, labels, bridge).mean(), {}
        terms = self.objective(
            self.model, self.classifier, x, labels, self.objective.draw(x.shape[1:], seed=self.seed, index=draw)
        )
        mean = terms.loss.mean()
        own = mean if isinstance(self.objective.base, VPLoss) else terms.loss.sum() / len(x)
        return own + terms.leaked, {"denoising_loss": mean}


def _objective(settings: ADBMTuningSettings | ADDTTuningSettings, denoiser: nn.Module) -> BridgeLoss | ADDTLoss:
    if isinstance(settings, ADBMTuningSettings):
        return BridgeLoss(eps=settings.eps, steps=settings.adversary_steps, tune_T=settings.tune_T, per=settings.per)
    base = VPLoss(epsilon_t=1e-3) if isinstance(denoiser, VPPrecond) else EDMLoss()
    return ADDTLoss(
        base=base, steps=settings.adversary_steps, size=settings.size, largest=settings.largest, leak=settings.leak
    )
