"""A linear probe on frozen diffusion features, with fixed noise: how robust the features are by themselves.

Fresh noise at every query would hide the weakness behind randomness; with the noise of each image fixed, the attacker's
gradient is exact (Section 4.1 and Appendix C of the DRA paper).
"""

import torch
from rp_models import noise
from rp_models.data.datasets import ImageSet
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.targets import EdmTarget


class DiffusionProbe(nn.Module):
    """A linear classifier on unconditional features of a frozen EDM, the noise fixed: one draw shared by all images.

    Deviation: the paper does not say whether all images share one noise tensor; sharing it makes the probe an ordinary
    deterministic classifier of one image.

    Args:
        target: the frozen diffusion features.
        shape: of one image, (c, h, w).
        width: number of features.
        num_classes: number of logits.
        seed: of the noise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, target: EdmTarget, shape: tuple[int, int, int], width: int, num_classes: int, *, seed: int
    ) -> None:
        super().__init__()
        self.target = target
        self.head = nn.Linear(width, num_classes)
        eps = noise.normal(shape, seed=seed, purpose="probe noise", index=torch.zeros(1, dtype=torch.int64))
        self.register_buffer("noise", eps)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward_features(self, x: Tensor) -> Tensor:
        """Standardised diffusion features (b, d) of images (b, c, h, w) in [0, 1], differentiable in x."""
        features = self.target.differentiable(x, None, noise=self.noise.expand_as(x))  # type: ignore[operator]
        return (features - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k) of images (b, c, h, w) in [0, 1]."""
        return self.head(self.forward_features(x))


def fit_probe(
    target: EdmTarget, images: ImageSet, *, seed: int, weight_decay: float = 1e-3, batch_size: int = 512
) -> DiffusionProbe:
    """Fit the probe by multinomial logistic regression (L-BFGS, float64) on features without augmentation.

    Args:
        target: the frozen diffusion features.
        images: training images, on the target's device.
        seed: of the fixed noise.
        weight_decay: L2 penalty on the standardised weights.
        batch_size: images in one pass of the network.

    Returns:
        The probe, in eval mode.
    """
    info = images.info
    shape = (info.channels, info.image_size, info.image_size)
    device = images.images.device
    probe = DiffusionProbe(target, shape, target.width(info.channels, info.image_size), info.num_classes, seed=seed)
    probe = probe.to(device).eval()
    with torch.no_grad():
        parts = [images.batch(part) for part in torch.arange(len(images), device=device).split(batch_size)]
        raw = torch.cat([probe.forward_features(x) for x, _ in parts])
        probe.mean.copy_(raw.mean(dim=0))
        probe.std.copy_(raw.std(dim=0).clamp(min=1e-6))
        features = ((raw - probe.mean) / probe.std).double()
    labels = images.labels
    weight = torch.zeros(info.num_classes, features.shape[1], dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(info.num_classes, dtype=torch.float64, device=device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(features @ weight.T + bias, labels) + weight_decay * weight.square().sum() / 2
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        probe.head.weight.copy_(weight)
        probe.head.bias.copy_(bias)
    return probe
