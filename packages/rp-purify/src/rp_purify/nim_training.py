"""Pre-training a masked autoencoder on noisy images (NIM-MAE), on the trainer of masked ones.

Source: You et al. 2023, arXiv:2302.01056, and its public code.
"""

from rp_models import noise
from rp_models.data.images import Images
from rp_models.mask import Mask, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import ComputeSettings, MaeSettings
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.mae import MaeTrainer
from rp_models.training.minibatches import Minibatch, mean_over
from torch import Tensor

from rp_purify.nim import NIMLoss, visible


class NIMTrainer(MaeTrainer):
    """Trains an autoencoder to predict all patches of clean images from noisy ones; arguments as of `MaeTrainer`.

    With a mask rate above 0 patches are also hidden from the encoder, as in DMAE; NIM hides none. `objective` says how
    much noise there is.
    """

    purpose = "nim"

    def __init__(
        self,
        settings: MaeSettings,
        images: Images,
        *,
        objective: NIMLoss | None = None,
        seed: int,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.objective = objective or NIMLoss()
        super().__init__(settings, images, seed=seed, compute=compute, processes=processes)

    def drawn(self, batch: Minibatch, step: int) -> Minibatch:  # type: ignore[override]
        """The images; the loss draws noise by their numbers."""
        return batch

    def loss(self, x: Tensor, labels: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        """The mean error of all patches."""
        return _loss(self.objective, self.model, x, draw, self.settings.mask_rate, self.seed).mean(), {}


def nim_held_out(
    model: MaskedAutoencoder,
    images: Images,
    objective: NIMLoss,
    *,
    mask_rate: float = 0.0,
    seed: int,
    batch_size: int = 500,
    processes: Processes = ALONE,
) -> float:
    """The mean loss over a set of images, one noise level an image."""
    own = noise.derive_seed(seed, "validation")

    def values(x: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        del labels
        return _loss(objective, model, x, index, mask_rate, own)

    return mean_over(images, values, batch_size=batch_size, processes=processes)[0]


def _loss(objective: NIMLoss, model: MaskedAutoencoder, x: Tensor, index: Tensor, rate: float, seed: int) -> Tensor:
    draws = objective.draw(x.shape[1:], seed=seed, index=index)
    mask: Mask = visible(len(x), model.tokens, x)
    if rate > 0:
        mask = random_mask(noise.uniform((model.tokens,), seed=seed, purpose="nim mask", index=index), rate)
    return objective(model, x, draws, mask=mask)
