"""Training a linear probe as the field usually does: Adam, fresh noise at every step, augmented images.

`fit_probe` is exact and needs seconds, but sees each image as it is; this one sees what a random classifier will meet.
"""

import torch
from rp_models import noise
from rp_models.data.augmentation import Augmentation
from rp_models.data.images import Images
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.minibatches import Minibatches
from rp_models.training.optimizer import set_rate
from rp_models.training.schedule import cosine
from rp_models.training.seeding import seeded
from torch import Tensor
from torch.nn import functional as F

from rp_dra.encoder_settings import ProbeSettings
from rp_dra.probe import DiffusionProbe, new_probe
from rp_dra.targets.target import FrozenTarget


class ProbeTrainer:
    """One probe on frozen features, not standardised, and the step that trains its linear layer.

    Attributes:
        probe: what is trained; use it as a `NoisyProbe`, because it has seen all kinds of noise.
        state: what training changes: the linear layer alone.

    Args:
        target: the frozen features.
        images: training images, on the target's device.
        settings: of the training.
        seed: of weights, batches, augmentation and noise.

    Source: Xiang et al. 2023, arXiv:2303.09769, and their published code.
    """

    def __init__(self, target: FrozenTarget, images: Images, settings: ProbeSettings, *, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.batches = Minibatches(
            images,
            settings.batch_size,
            seed=seed,
            purpose="probe",
            augmentation=Augmentation(crop_padding=settings.crop_padding, flip=settings.flip),
        )
        with seeded(seed, "probe weights"):
            self.probe: DiffusionProbe = new_probe(target, images, seed=seed)
        optimizer = torch.optim.Adam(self.probe.head.parameters(), lr=settings.lr)
        self.state = TrainingState({"head": self.probe.head}, optimizer)

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * self.batches.plan.batches_per_epoch

    def step(self, step: int) -> Metrics:
        """One optimiser step."""
        epoch = step // self.batches.plan.batches_per_epoch
        lr = cosine(epoch, steps=self.settings.epochs, peak=self.settings.lr)
        set_rate(self.state.optimizer, lr)
        x, y, draw = self.batches.part(step)
        eps = noise.normal(self.probe.noise.shape[1:], seed=self.seed, purpose="probe training noise", index=draw)
        with torch.no_grad():
            features = self.probe.forward_features(x, eps)
        logits = self.probe.head(features)
        loss = F.cross_entropy(logits, y)
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.state.optimizer.step()
        return {"loss": loss.item(), "lr": lr, "accuracy": (logits.argmax(dim=1) == y).float().mean().item()}

    def evidence(self, step: int) -> dict[str, Tensor]:
        """The whole batch of a step, to look at when its loss is not a number."""
        return self.batches.whole(step)._asdict()
