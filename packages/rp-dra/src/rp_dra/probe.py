"""Linear probes on frozen diffusion features: how robust the features are by themselves.

Fresh noise at every query would hide a weakness behind randomness. `DiffusionProbe` has fixed noise, so that the
attacker's gradient is exact (Fig. 3b); `NoisyProbe` is the same classifier with fresh noise, and `eot_gap` measures how
much of its robustness is left for an attacker who averages over the noise.

Source: Section 4.1 and Appendix C of the DRA paper.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from rp_attacks.autoattack import AutoAttack
from rp_attacks.defence import FixedNoise
from rp_attacks.evaluation import evaluate
from rp_attacks.intervals import Interval
from rp_attacks.pgd import PGD
from rp_attacks.problem import Attack
from rp_attacks.report import Report
from rp_models import noise as randomness
from rp_models.data.images import Images
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.attention_head import AttentionHead
from rp_dra.targets.target import FrozenTarget

Noise = Literal["shared", "per-image"]


class DiffusionProbe(nn.Module):
    """A classifier on unconditional features of a frozen target, its noise fixed: one draw for all images.

    Its head is linear, or was replaced by one that takes features with positions (`ProbeTrainer`).

    Deviation: the paper does not say whether all images share one noise tensor; sharing it makes the probe an ordinary
    deterministic classifier of one image. For noise fixed image by image see `NoisyProbe`.

    Args:
        target: the frozen features; a `JoinedTarget` for several noise levels or layers at once.
    """

    head: nn.Linear | AttentionHead
    mean: Tensor
    std: Tensor
    noise: Tensor

    def __init__(
        self, target: FrozenTarget, shape: tuple[int, int, int], width: int, num_classes: int, *, seed: int
    ) -> None:
        super().__init__()
        self.target = target
        self.head = nn.Linear(width, num_classes)
        first = torch.zeros(1, dtype=torch.int64)
        eps = randomness.normal(target.noise_shape(shape), seed=seed, purpose="probe noise", index=first)
        self.register_buffer("noise", eps)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def forward_features(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Standardised diffusion features, differentiable in the images.

        Args:
            noise: standard normal draws (b, *noise_shape); None for the probe's own.
        """
        if noise is None:
            noise = self.noise.expand(len(x), *self.noise.shape[1:])
        return (self.target.differentiable(x, None, noise=noise) - self.mean) / self.std

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Logits (b, k); arguments as in `forward_features`."""
        return self.head(self.forward_features(x, noise))


class NoisyProbe(nn.Module):
    """A probe with fresh noise at every query: a random classifier, as Yagoda et al. 2025 propose one.

    `rp_attacks.FixedNoise(NoisyProbe(...), seed=...)` is the probe whose noise is fixed for each image.

    Args:
        probe: fitted, best on noise that varies (`fit_probe(noise="per-image")` or `ProbeTrainer`).
        seed: of the noise of plain calls; None takes each call's from the system's entropy.
    """

    def __init__(self, probe: DiffusionProbe, *, seed: int | None = None) -> None:
        super().__init__()
        self.probe, self.seed = probe, seed
        self._seeds = randomness.CallSeeds(seed)
        self.eval()

    def with_noise(self, *, seed: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """The probe whose noise for each row is a function of (seed, index of the row)."""
        shape = self.probe.noise.shape[1:]
        return lambda x: self.probe(
            x, randomness.normal(shape, seed=seed, purpose="noisy probe", index=index.to(x.device))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, k) of images (b, c, h, w) in [0, 1], with other noise at every call."""
        return self.with_noise(seed=self._seeds.next(), index=torch.arange(len(x), device=x.device))(x)


def fit_probe(
    target: FrozenTarget,
    images: Images,
    *,
    seed: int,
    noise: Noise = "shared",
    draws: int = 1,
    weight_decay: float = 1e-3,
    batch_size: int = 512,
) -> DiffusionProbe:
    """Fit the probe by multinomial logistic regression (L-BFGS, float64) on features without augmentation.

    Args:
        noise: "shared" fits on the noise that the probe keeps; "per-image" on other noise for each image, for a probe
            that is used as a `NoisyProbe`.
        draws: with "per-image", how often each image is taken, with other noise each time.
        weight_decay: L2 penalty on the standardised weights.

    Returns:
        The probe, in eval mode.

    Raises:
        ValueError: if several draws of shared noise are asked for.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise must be 'shared' or 'per-image', got {noise!r}")
    if draws < 1 or (noise == "shared" and draws != 1):
        raise ValueError(f"draws must be 1 with shared noise and at least 1 per image, got {draws} with {noise!r}")
    probe = new_probe(target, images, seed=seed)
    device = images.device
    raw, labels = [], []
    for copy in range(draws):
        fit_seed = randomness.derive_seed(seed, "fit", copy)
        for rows in torch.arange(len(images), device=device).split(batch_size):
            x, y = images.batch(rows)
            eps = None
            if noise == "per-image":
                eps = randomness.normal(probe.noise.shape[1:], seed=fit_seed, purpose="probe noise", index=rows)
            with torch.no_grad():
                raw.append(probe.forward_features(x, eps))
            labels.append(y)
    _logistic_regression(probe, torch.cat(raw), torch.cat(labels), weight_decay)
    return probe


def new_probe(target: FrozenTarget, images: Images, *, seed: int) -> DiffusionProbe:
    """A probe for a data set's images and classes, not fitted, in eval mode on the images' device."""
    info = images.info
    shape = (info.channels, info.image_size, info.image_size)
    probe = DiffusionProbe(target, shape, target.width(info.channels, info.image_size), info.num_classes, seed=seed)
    return probe.to(images.device).eval()


def _logistic_regression(probe: DiffusionProbe, raw: Tensor, labels: Tensor, weight_decay: float) -> None:
    """Set the probe's standardisation and linear head from features (n, d) and labels (n,)."""
    assert isinstance(probe.head, nn.Linear)
    with torch.no_grad():
        probe.mean.copy_(raw.mean(dim=0))
        probe.std.copy_(raw.std(dim=0).clamp(min=1e-6))
        features = ((raw - probe.mean) / probe.std).double()
    classes = probe.head.out_features
    weight = torch.zeros(classes, raw.shape[1], dtype=torch.float64, device=raw.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=raw.device, requires_grad=True)
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


class EotGap(NamedTuple):
    """Accuracies of one query of a random classifier, each under one attack on all images.

    Attributes:
        without_eot: under PGD that sees one draw of the noise in each gradient: what a careless evaluation reports.
    """

    clean: Interval  # without attack
    noise: Interval  # at random points of the ball
    without_eot: Interval
    with_eot: Interval  # under PGD that averages the gradient over `passes` draws
    fixed_noise: Interval  # of the classifier with its noise fixed and known to the attacker
    autoattack: Interval | None  # under AutoAttack's standard version, which does not average; None: not asked for
    passes: int  # draws in each averaged gradient


def eot_gap(
    model: NoisyProbe,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int = 20,
    passes: int = 20,
    seed: int,
    batch_size: int = 128,
    autoattack: bool = False,
) -> EotGap:
    """The robust accuracy that a random classifier seems to have, and what is left under expectation over its noise.

    All attacks are PGD with the same steps, of 2.5 eps / steps each, from uniform starts; the noise that attacks see is
    independent of the noise that judges.

    Args:
        eps: Linf radius, in [0, 1] pixel units.
        passes: draws averaged in each gradient of the attack with EOT.
        autoattack: run AutoAttack's standard version too, by which such classifiers have been reported.

    Source: Appendix C of the DRA paper; Athalye et al. 2018, arXiv:1707.07397.
    """

    def judge(classifier: Callable[[Tensor], Tensor], attacks: Mapping[str, Attack]) -> Report:
        return evaluate(
            classifier, x, y, attacks, seed=seed, exhaustive=True, probes=0, batch_size=batch_size, block_size=len(x)
        )

    plain = PGD(eps=eps, step_size=2.5 * eps / steps, steps=steps)
    averaged = PGD(eps=eps, step_size=2.5 * eps / steps, steps=steps, eot=passes)
    attacks: dict[str, Attack] = {"without": plain, "with": averaged}
    if autoattack:
        attacks["autoattack"] = AutoAttack(eps=eps, batch_size=batch_size)
    report = judge(model, attacks)
    known = judge(FixedNoise(model, seed=randomness.derive_seed(seed, "fixed noise")), {"plain": plain})

    def accuracy(of: Report, name: str) -> Interval:
        return of.verdict(of.threats[0].attacks[name]).per_query

    return EotGap(
        clean=report.verdict(report.clean).per_query,
        noise=report.verdict(report.threats[0].noise).per_query,
        without_eot=accuracy(report, "without"),
        with_eot=accuracy(report, "with"),
        fixed_noise=accuracy(known, "plain"),
        autoattack=accuracy(report, "autoattack") if autoattack else None,
        passes=passes,
    )
