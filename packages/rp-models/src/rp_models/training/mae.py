"""Training a masked autoencoder on one data set.

Source: He et al. 2022, arXiv:2111.06377, Appendix A.1.
"""

import torch
from torch import Tensor, nn

from rp_models import noise
from rp_models.data.augment import crop_and_flip
from rp_models.data.batches import BatchPlan
from rp_models.data.datasets import ImageSet
from rp_models.mae import MaskedAutoencoder
from rp_models.mask import random_mask
from rp_models.settings import MaeSettings
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.optimizer import decay_groups, set_rate
from rp_models.training.schedule import cosine
from rp_models.training.seeding import seeded
from rp_models.zoo import build


class MaeTrainer:
    """One masked autoencoder and the step that trains it.

    Attributes:
        model: the autoencoder.
        state: what training changes.

    Args:
        settings: network and training.
        images: the training images, on the device where the training shall run.
        seed: of weights, batches, crops and masks.
    """

    def __init__(self, settings: MaeSettings, images: ImageSet, *, seed: int) -> None:
        self.settings, self.images, self.seed = settings, images, seed
        self.device = images.images.device
        with seeded(seed, "mae weights"):
            self.model = build_mae(settings).to(self.device).train()
        groups = decay_groups(self.model, settings.weight_decay, without_decay=_not_decayed)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))
        self.state = TrainingState({"model": self.model}, self.optimizer)
        self.plan = BatchPlan(
            real=len(images),
            batch_size=settings.batch_size,
            epoch_images=len(images),
            seed=noise.derive_seed(seed, "mae"),
        )

    def step(self, step: int) -> Metrics:
        """One optimiser step; the loss is a mean over hidden values and images."""
        settings = self.settings
        chosen = self.plan.indices(*divmod(step, self.plan.batches_per_epoch)).to(self.device)
        x, _ = self.images.batch(chosen)
        draw = torch.arange(step * len(x), (step + 1) * len(x), device=self.device)
        if settings.crop_padding or settings.flip:
            x = crop_and_flip(
                x, padding=settings.crop_padding, flip=settings.flip, seed=self.seed, purpose="mae", index=draw
            )
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="mae masks", index=draw)
        loss = self.model.loss(x, random_mask(values, settings.mask_rate)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        lr = cosine(step, steps=settings.steps, peak=settings.lr, warmup=settings.warmup_steps)
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        return {"loss": loss.item(), "lr": lr}


def build_mae(settings: MaeSettings) -> MaskedAutoencoder:
    """The masked autoencoder of these settings, with fresh weights.

    Raises:
        ValueError: if the named network is no masked autoencoder.
    """
    model = build(settings.network)
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"mae.network must name a masked autoencoder, but {settings.network!r} is another network")
    return model


@torch.no_grad()
def mae_loss(
    model: MaskedAutoencoder, images: ImageSet, *, mask_rate: float, seed: int, batch_size: int = 500
) -> float:
    """The mean reconstruction loss over a set of images, one mask per image.

    Args:
        model: the autoencoder.
        images: e.g. those of the validation split, on the model's device.
        mask_rate: share of hidden patches.
        seed: of the masks.
        batch_size: images at a time.
    """
    total = 0.0
    for start in range(0, len(images), batch_size):
        x, _ = images.batch(slice(start, start + batch_size))
        index: Tensor = torch.arange(start, start + len(x), device=x.device)
        values = noise.uniform((model.tokens,), seed=seed, purpose="mae evaluation", index=index)
        total += float(model.loss(x, random_mask(values, mask_rate)).sum())
    return total / len(images)


def _not_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Biases and norms, as in the public code; the tokens, which are three-dimensional, decay."""
    return parameter.dim() == 1
