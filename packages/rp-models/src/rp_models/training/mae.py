"""Training a masked autoencoder on one data set. Source: He et al. 2022, arXiv:2111.06377, Appendix A.1."""

from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from rp_models import noise
from rp_models.data.augmentation import Augmentation
from rp_models.data.images import Images
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import MaeSettings, require
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import Minibatch, mean_over
from rp_models.training.optimizer import build_optimizer, decay_groups
from rp_models.training.schedule import cosine
from rp_models.training.trainer import NetworkTrainer, crops_and_flips
from rp_models.zoo import build


class MaeBatch(NamedTuple):
    """What one step is computed from."""

    images: Tensor  # (b, c, h, w) in [0, 1], augmented
    ranks: Tensor  # uniform draws (b, n); the patches with the smallest stay visible


class MaeTrainer(NetworkTrainer[MaeSettings]):
    """Trains a masked autoencoder; the loss is a mean over hidden values and images."""

    model: MaskedAutoencoder
    average: MaskedAutoencoder
    purpose = "mae"

    def network(self, images: Images) -> MaskedAutoencoder:
        """See `build_mae`."""
        return build_mae(self.settings)

    def optimizer(self) -> Optimizer:
        """Biases and norms do not decay, as in the public code; the tokens, which are three-dimensional, do."""
        settings = self.settings
        groups = decay_groups(self.model, settings.weight_decay, without_decay=lambda _, p: p.dim() == 1)
        return build_optimizer(settings.optimizer, groups, lr=settings.lr, betas=(0.9, 0.95))

    def changes(self) -> Augmentation:
        """Random crops and flips."""
        return crops_and_flips(self.settings)

    def rate(self, step: int) -> float:
        """A cosine with warm-up, then (where asked for) a second, lower cosine without one."""
        settings, first = self.settings, self.settings.steps - self.settings.second_steps
        if step < first:
            return cosine(step, steps=first, peak=settings.lr, warmup=settings.warmup_steps)
        return cosine(step - first, steps=settings.second_steps, peak=settings.second_lr)

    def drawn(self, batch: Minibatch, step: int) -> MaeBatch:
        """The images with the draws of their masks."""
        ranks = noise.uniform((self.model.tokens,), seed=self.seed, purpose="mae masks", index=batch.draw)
        return MaeBatch(batch.x, ranks)

    def loss(self, images: Tensor, ranks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction loss, which is of the hidden patches."""
        require(self.settings.mask_rate > 0, "mae.mask_rate must be above 0: without hidden patches there is no loss")
        return self.model.loss(images, random_mask(ranks, self.settings.mask_rate)).mean(), {}


def build_mae(settings: MaeSettings) -> MaskedAutoencoder:
    """The masked autoencoder of these settings, with fresh weights.

    Raises ValueError if the named network is no masked autoencoder.
    """
    model = build(settings.network, **settings.sizes)
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"mae.network must name a masked autoencoder, but {settings.network!r} is another network")
    return model


def mae_loss(
    model: MaskedAutoencoder,
    images: Images,
    *,
    mask_rate: float,
    seed: int,
    batch_size: int = 500,
    processes: Processes = ALONE,
) -> float:
    """The mean reconstruction loss over a set of images on the model's device, one mask an image."""

    def values(x: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        del labels
        draws = noise.uniform((model.tokens,), seed=seed, purpose="mae evaluation", index=index)
        return model.loss(x, random_mask(draws, mask_rate))

    return mean_over(images, values, batch_size=batch_size, processes=processes)[0]
