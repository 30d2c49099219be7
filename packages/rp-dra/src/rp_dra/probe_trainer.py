"""Training a probe as the field usually does: Adam, fresh noise at every step, augmented images.

`fit_probe` is exact and needs seconds, but is linear and sees each image as it is; this one sees what a random
classifier will meet, and may have a head that attends to all positions.
"""

import torch
from rp_models import noise
from rp_models.data.images import Images
from rp_models.settings import ComputeSettings
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.schedule import cosine
from rp_models.training.seeding import seeded
from rp_models.training.trainer import BaseTrainer
from torch import Tensor
from torch.nn import functional as F

from rp_dra.attention_head import AttentionHead
from rp_dra.encoder_settings import ProbeSettings
from rp_dra.encoder_trainer import augmented_batches
from rp_dra.probe import DiffusionProbe, new_probe
from rp_dra.targets.target import FrozenTarget


class ProbeTrainer(BaseTrainer):
    """One probe on frozen features, not standardised, and the step that trains its head.

    Attributes:
        model: the probe; use it as a `NoisyProbe`, because it has seen all kinds of noise.

    Source: Xiang et al. 2023, arXiv:2303.09769, and their published code.
    """

    def __init__(
        self,
        target: FrozenTarget,
        images: Images,
        settings: ProbeSettings,
        *,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        self.settings, self.seed = settings, seed
        batches = augmented_batches(images, settings, seed=seed, purpose="probe", processes=processes)
        with seeded(seed, "probe weights"):
            self.model: DiffusionProbe = _probe(target, images, settings, seed=seed)
        optimizer = torch.optim.Adam(self.model.head.parameters(), lr=settings.lr)
        super().__init__({"head": self.model.head}, batches, optimizer, compute=compute, processes=processes)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """A cosine over the epochs, constant in each."""
        return cosine(step // self.steps_per_epoch, steps=self.settings.epochs, peak=self.settings.lr)

    def loss(self, x: Tensor, y: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy on noisy features, and the accuracy."""
        probe = self.model
        eps = noise.normal(probe.noise.shape[1:], seed=self.seed, purpose="probe training noise", index=draw)
        with torch.no_grad():
            features = probe.forward_features(x, eps)
        logits = probe.head(features).float()
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(dim=1) == y).float().mean()}


def _probe(target: FrozenTarget, images: Images, settings: ProbeSettings, *, seed: int) -> DiffusionProbe:
    """A probe with the head that the settings name, not trained; an attention head takes the target's positions."""
    target.positions = settings.head == "attention"
    probe = new_probe(target, images, seed=seed)
    if settings.head == "attention":
        linear = probe.head
        probe.head = AttentionHead(
            linear.in_features, linear.out_features, blocks=settings.blocks, heads=settings.heads
        ).to(images.device)
    return probe
