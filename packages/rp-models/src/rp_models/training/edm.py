"""Training an EDM diffusion model on one data set, class-conditionally.

Source: Karras et al. 2022, arXiv:2206.00364, Table 1, Appendix F, and their published trainer.
"""

import copy

import torch
from torch import nn

from rp_models import noise
from rp_models.data.batches import BatchPlan
from rp_models.data.datasets import ImageSet
from rp_models.edm.loss import EDMLoss
from rp_models.settings import EdmSettings
from rp_models.training.averaging import average_, ema_decay
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.optimizer import set_rate
from rp_models.training.seeding import seeded
from rp_models.zoo import build


class EdmTrainer:
    """One EDM network, its average, and the step that trains them.

    Attributes:
        model: the denoiser that is trained.
        average: its exponential moving average, which is what one uses.
        state: what training changes.

    Args:
        settings: network and training.
        images: the training images, on the device where the training shall run.
        seed: of weights, batches and noise.
    """

    def __init__(self, settings: EdmSettings, images: ImageSet, *, seed: int) -> None:
        self.settings, self.images, self.seed = settings, images, seed
        self.device = images.images.device
        with seeded(seed, "edm weights"):
            self.model = build_edm(settings, images).to(self.device).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.loss = EDMLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.lr, betas=(0.9, 0.999), eps=1e-8)
        self.state = TrainingState({"model": self.model, "average": self.average}, self.optimizer)
        self.plan = BatchPlan(
            real=len(images),
            batch_size=settings.batch_size,
            epoch_images=len(images),
            seed=noise.derive_seed(seed, "edm"),
        )

    def step(self, step: int) -> Metrics:
        """One optimiser step; the loss is a sum over pixels and a mean over images."""
        batch = self.settings.batch_size
        chosen = self.plan.indices(*divmod(step, self.plan.batches_per_epoch)).to(self.device)
        x, labels = self.images.batch(chosen)
        condition = labels if self.settings.conditional else None
        draw = torch.arange(step * batch, step * batch + len(x), device=self.device)
        rnd, eps = self.loss.draw(x.shape[1:], seed=noise.derive_seed(self.seed, "edm"), index=draw)
        per_value = self.loss(self.model, 2.0 * x - 1.0, condition, rnd=rnd, noise=eps)
        loss = per_value.sum() / len(x)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0.0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        seen = step * batch
        lr = self.settings.lr * min(seen / max(self.settings.rampup_images, 1), 1.0)
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        decay = ema_decay(
            seen + batch, batch_size=batch, half_life=self.settings.ema_half_life, ramp=self.settings.ema_ramp
        )
        average_(self.average, self.model, decay)
        return {"loss": loss.item() / x[0].numel(), "lr": lr}


def build_edm(settings: EdmSettings, images: ImageSet) -> nn.Module:
    """The DDPM++ network of these settings, for this data set's images and classes."""
    return build(
        "edm",
        img_resolution=images.info.image_size,
        img_channels=images.info.channels,
        label_dim=images.info.num_classes if settings.conditional else 0,
        model_type="SongUNet",
        model_channels=settings.model_channels,
        channel_mult=list(settings.channel_mult),
        num_blocks=settings.num_blocks,
        attn_resolutions=list(settings.attn_resolutions),
        dropout=settings.dropout,
    )
