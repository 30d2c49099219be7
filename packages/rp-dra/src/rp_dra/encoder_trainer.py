"""Training a classifier with a diffusion model's encoder: adversarially, or by cross-entropy on noisy images."""

from collections.abc import Mapping

import torch
from rp_models import noise
from rp_models.data.augmentation import Augmentation
from rp_models.data.images import Images
from rp_models.diffusion.encoder_classifier import DiffusionClassifier, EncoderClassifier
from rp_models.settings import ComputeSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import Minibatches
from rp_models.training.schedule import cosine
from rp_models.training.trainer import BaseTrainer
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.encoder_settings import EncoderSettings, ProbeSettings
from rp_dra.objectives import Objective


def augmented_batches(
    images: Images, settings: EncoderSettings | ProbeSettings, *, seed: int, purpose: str, processes: Processes
) -> Minibatches:
    """The batches of a training with these settings."""
    augmentation = Augmentation(crop_padding=settings.crop_padding, flip=settings.flip)
    return Minibatches(
        images, settings.batch_size, seed=seed, purpose=purpose, augmentation=augmentation, processes=processes
    )


class EncoderTrainer(BaseTrainer):
    """One encoder classifier, its average, and the step that trains them; a subclass says what a step minimises.

    Args:
        model: the classifier; in train mode from here on.
        images: the training images, on the device where the training shall run.
    """

    model: EncoderClassifier
    average: EncoderClassifier

    def __init__(
        self,
        model: EncoderClassifier,
        images: Images,
        settings: EncoderSettings,
        *,
        kept: Mapping[str, nn.Module] | None = None,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        self.settings, self.seed = settings, seed
        batches = augmented_batches(images, settings, seed=seed, purpose="encoder", processes=processes)
        self.model = model.to(batches.device).train()
        average = MovingAverage(self.model, half_life=settings.ema_half_life)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr)
        super().__init__(
            {"model": self.model},
            batches,
            optimizer,
            average=average,
            kept=kept,
            compute=compute,
            processes=processes,
        )

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """A warm-up and a cosine."""
        settings = self.settings
        return cosine(step + 0.5, steps=self.steps, peak=settings.lr, warmup=settings.warmup * self.steps)


class EncoderFineTuner(EncoderTrainer):
    """Fine-tunes a diffusion model's encoder and its head together, adversarially.

    Args:
        settings: see `EncoderTrainer`; a pre-trained encoder wants a low rate.

    Source: Section 5.6 of the DRA paper, under the recipe of adversarial training without synthetic images.
    """

    def __init__(
        self,
        model: DiffusionClassifier,
        images: Images,
        settings: EncoderSettings,
        *,
        objective: Objective,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        objective.check_micro_batches(compute)
        self.objective = objective
        super().__init__(
            model,
            images,
            settings,
            kept=objective.modules(model.to(images.device)),
            compute=compute,
            processes=processes,
            seed=seed,
        )

    def before_step(self, step: int) -> None:
        """Tells the objective where the training stands."""
        epochs = self.settings.epochs
        self.objective.begin_step(self.model, step=step, steps_per_epoch=self.steps_per_epoch, epochs=epochs)

    def loss(self, x: Tensor, y: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss and metrics."""
        start = self.objective.start_noise(x, seed=self.seed, draw=draw)
        outcome = self.objective(self.model, x, y, start_noise=start)
        return outcome.loss, outcome.metrics


class NoisyClassifierTrainer(EncoderTrainer):
    """Trains a classifier by cross-entropy on images with fresh noise: the encoder without a diffusion model.

    Arguments as of `EncoderTrainer`; the model, a `NoisyClassifier`, has fresh weights.

    Source: Section 5.6 and Appendix E of the DRA paper.
    """

    def loss(self, x: Tensor, y: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, and the accuracy on the noisy batch."""
        eps = noise.normal(x.shape[1:], seed=self.seed, purpose="encoder noise", index=draw)
        logits = self.model(x, noise=eps)
        return F.cross_entropy(logits, y), {"accuracy": (logits.detach().argmax(dim=1) == y).float().mean()}
