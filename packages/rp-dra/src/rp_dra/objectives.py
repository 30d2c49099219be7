"""What a training step minimises: a batch in; loss, features and the figures to log out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from rp_attacks.losses import kl_divergence
from rp_attacks.pgd import ascend
from torch import Tensor, nn
from torch.nn import functional as F


class Outcome(NamedTuple):
    """The outcome of an objective on one batch.

    Attributes:
        loss: scalar, with graph.
        features: pooled penultimate features (b, d) of the images that the classifier is made robust on, with graph.
        x_adv: those images.
        metrics: scalar tensors to log, without graph.
    """

    loss: Tensor
    features: Tensor
    x_adv: Tensor
    metrics: dict[str, Tensor]


class Objective(Protocol):
    """A training objective."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Outcome:
        """The outcome for images x (b, c, h, w), labels y (b,) and uniform draws in [0, 1) like x."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Standard:
    """Cross-entropy on the images as they are."""

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Outcome:
        """See `Objective`; the noise is not used."""
        del start_noise
        features, logits = classify(model, x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        return Outcome(loss, features, x, {"accuracy": _accuracy(logits, y)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Trades:
    """TRADES in the Linf ball, as DM-AT does it.

    The attack runs on batch statistics (train mode, running statistics untouched) from a uniform start and raises the
    KL divergence to the natural probabilities, which are computed once. Then natural and adversarial images go through
    the model in two separate train-mode passes. The gradient flows through both sides of the KL term.

    Attributes:
        beta: weight of the robust term.
        label_smoothing: of the natural cross-entropy.
        eps: radius, in [0, 1] pixel units.
        step_size: of the attack.
        steps: of the attack.

    Source: Zhang et al. 2019, arXiv:1901.08573; Wang et al. 2023, arXiv:2302.04638 and their published code.
    """

    beta: float = 5.0
    label_smoothing: float = 0.1
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 10

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Outcome:
        """See `Objective`."""
        start = (x + self.eps * (2.0 * start_noise - 1.0)).clamp(0.0, 1.0)
        with batch_statistics(model):
            with torch.no_grad():
                target = model(x).softmax(dim=1)
            x_adv = ascend(
                lambda z: kl_divergence(target, model(z)),
                x,
                start,
                norm="linf",
                eps=self.eps,
                step_size=self.step_size,
                steps=self.steps,
            )
        _, logits = classify(model, x)
        features, logits_adv = classify(model, x_adv)
        natural = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        robust = kl_divergence(logits.softmax(dim=1), logits_adv).mean()
        metrics = {
            "natural": natural.detach(),
            "robust": robust.detach(),
            "accuracy": _accuracy(logits, y),
            "robust_accuracy": _accuracy(logits_adv, y),
        }
        return Outcome(natural + self.beta * robust, features, x_adv, metrics)


def classify(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (b, d) and logits (b, k) from one pass through a classifier."""
    features = model.forward_features(x)  # type: ignore[operator]
    return features, model.head(features)  # type: ignore[operator]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block, batch norms of a model in train mode leave their running statistics as they are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of right predictions."""
    return (logits.detach().argmax(dim=1) == y).float().mean()
