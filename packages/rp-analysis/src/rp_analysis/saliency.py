"""Spectra of what a classifier is sensitive to: adversarial perturbations and input gradients."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .frequency import Quantity, Transform, frequency_map
from .modes import eval_mode

Classifier = Callable[[Tensor], Tensor]
"""Images (b, c, h, w) in [0, 1] to logits (b, k); normalisation is inside."""

Attack = Callable[[Classifier, Tensor, Tensor], Tensor]
"""(model, x, y) to adversarial images of the same shape."""

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images in [0, 1] and their labels."""


class PerturbationSaliency(NamedTuple):
    """The mean spectrum of adversarial perturbations (h, w), and how many images it stands for."""

    spectrum: Tensor
    used: int  # images in the mean
    images: int  # images attacked


def perturbation_saliency(
    model: Classifier,
    attack: Attack,
    batches: Batches,
    *,
    transform: Transform = "fft",
    quantity: Quantity = "magnitude",
    only_successful: bool = True,
) -> PerturbationSaliency:
    """Computes the mean spectrum of the perturbations that an attack finds (DRA Fig. 3a).

    Args:
        model: the attacked classifier; evaluated in eval mode, its mode is restored.
        attack: makes adversarial images; the papers use PGD with eps 8/255.
        transform: see `frequency_map`; Fig. 3a centres low frequencies, which is "fft".
        only_successful: leave out images that are still classified correctly.
    """
    total: Tensor | None = None
    used = images = 0
    with eval_mode(model):
        for x, y in batches:
            x_adv = attack(model, x, y)
            delta = x_adv - x
            images += len(x)
            if only_successful:
                with torch.no_grad():
                    delta = delta[model(x_adv).argmax(dim=1) != y]
            if len(delta):
                part = len(delta) * frequency_map(delta, transform=transform, quantity=quantity)
                total = part if total is None else total + part
                used += len(delta)
    if total is None:
        raise ValueError(f"the attack fooled the model on none of {images} images; use only_successful=False")
    return PerturbationSaliency(total / used, used, images)


def input_gradients(model: Classifier, x: Tensor, y: Tensor, *, normalize: bool = False) -> Tensor:
    """Computes the gradient of each sample's cross-entropy with respect to its image.

    Losses are summed, so that a sample's gradient does not depend on the batch around it.

    Args:
        model: a classifier of images in [0, 1]; evaluated in eval mode, its mode is restored.
        normalize: scale each sample's gradient to unit Euclidean norm.

    Raises:
        ValueError: a gradient that is not finite.
    """
    with eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y.clone(), reduction="sum"), leaf)
    broken = int((~gradient.isfinite()).flatten(1).any(dim=1).sum())
    if broken:
        raise ValueError(f"the gradient is not finite at {broken} of {len(x)} images, so there is no spectrum of it")
    if normalize:
        # by the largest entry first: the squares of small gradients underflow
        gradient = _unit(gradient, torch.linalg.vector_norm(gradient, torch.inf, dim=(1, 2, 3), keepdim=True))
        gradient = _unit(gradient, torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True))
    return gradient


def gradient_saliency(
    model: Classifier,
    batches: Batches,
    *,
    transform: Transform = "dct",
    quantity: Quantity = "magnitude",
    normalize: bool = True,
) -> Tensor:
    """Computes the mean spectrum of a classifier's input gradients (one side of DRA Fig. 10).

    Args:
        transform: see `frequency_map`; Fig. 10 has low frequencies in the upper left, which is "dct".
        normalize: give every image's gradient unit norm, so that maps of two models can be subtracted.
    """
    gradients = (input_gradients(model, x, y, normalize=normalize) for x, y in batches)
    return frequency_map(gradients, transform=transform, quantity=quantity)


def _unit(gradient: Tensor, size: Tensor) -> Tensor:
    """The gradient over its size; zeros stay."""
    return gradient / torch.where(size > 0, size, torch.ones_like(size))
