"""Synthetic images from a diffusion model: one seed an image, the same image in whatever batch it is made."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rp_models import noise
from rp_models.edm.sampler import sample_heun, to_uint8


def balanced_labels(count: int, num_classes: int) -> Tensor:
    """Labels 0, 1, ..., k-1, 0, 1, ... so that every class gets the same number of images (up to one)."""
    return torch.arange(count) % num_classes


@torch.no_grad()
def generate(
    denoiser: nn.Module,
    labels: Tensor | None,
    *,
    count: int | None = None,
    channels: int,
    image_size: int,
    steps: int,
    seed: int,
    batch_size: int,
    done: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Sample images of given classes with EDM's deterministic Heun sampler.

    Args:
        denoiser: an EDM network, in eval mode.
        labels: int64 tensor (n,), the class of each image; None for a model without classes.
        count: number of images n; by default that of the labels.
        channels: of the images.
        image_size: height and width of the images.
        steps: sampler steps.
        seed: image i starts from the noise that belongs to (seed, i).
        batch_size: images made at a time.
        done: called with the number of images made so far, after each batch.

    Returns:
        uint8 tensor (n, channels, image_size, image_size) on the CPU.

    Raises:
        ValueError: if there are neither labels nor a count.

    Source: Algorithm 2 of Karras et al. 2022, arXiv:2206.00364; one generator an image as in their published script.
    """
    count = len(labels) if count is None and labels is not None else count
    if count is None:
        raise ValueError("without labels, count must say how many images to make")
    device = next(denoiser.parameters()).device
    shape = (channels, image_size, image_size)
    images = torch.empty((count, *shape), dtype=torch.uint8)
    for start in range(0, count, batch_size):
        index = torch.arange(start, min(start + batch_size, count), device=device)
        latents = noise.normal(shape, seed=seed, purpose="latents", index=index)
        chosen = None if labels is None else labels[start : start + len(index)].to(device)
        images[start : start + len(index)] = to_uint8(
            sample_heun(denoiser, latents, class_labels=chosen, num_steps=steps)
        ).cpu()
        done(start + len(index))
    return images


def conditional(denoiser: nn.Module) -> bool:
    """Whether a denoiser takes class labels."""
    return int(getattr(denoiser, "label_dim", 0) or getattr(denoiser, "num_classes", 0)) > 0
