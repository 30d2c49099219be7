"""Synthetic images from a diffusion model: one seed an image, the same image in whatever batch it is made.

Image i of a seed depends on (seed, i, label) alone. The last bit of a network's output depends on the size of the
batch, because sums are split another way, so a byte may differ by one between batch sizes; for one batch size the
bytes are the same however the numbers are shared among files and processes.

Axes: c channels, h w image.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rp_models.diffusion.sampler_settings import HeunSettings
from rp_models.diffusion.samplers import HeunSampler, ImageSampler


def sample_images(
    sampler: ImageSampler,
    numbers: range,
    labels: Tensor | None,
    *,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    done: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """The images of consecutive numbers, batch after batch.

    Args:
        sampler: of the images.
        numbers: which images; for the same bytes as in one long call, start at a multiple of `batch_size`.
        labels: int64 (n,), their classes; None for "no class".
        seed: image i is made from the noise that belongs to (seed, i).
        batch_size: images made at a time.
        device: where the model is.
        done: called with the number of images made so far, after each batch.

    Returns:
        uint8 tensor (n, c, h, w) on the CPU.
    """
    images = torch.empty((len(numbers), *sampler.image_shape), dtype=torch.uint8)
    for start in range(0, len(numbers), batch_size):
        batch = numbers[start : start + batch_size]
        index = torch.arange(batch.start, batch.stop, device=device)
        chosen = None if labels is None else labels[start : start + len(batch)].to(device)
        images[start : start + len(batch)] = sampler(index, chosen, seed=seed).cpu()
        done(start + len(batch))
    return images


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
    """Sample the first images of a seed with EDM's deterministic Heun sampler.

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
        ValueError: if there are neither labels nor a count, or their numbers differ.

    Source: Algorithm 2 of Karras et al. 2022, arXiv:2206.00364; one generator an image as in their published script.
    """
    if count is None and labels is None:
        raise ValueError("without labels, count must say how many images to make")
    if labels is not None and count not in (None, len(labels)):
        raise ValueError(f"expected a label for each of {count} images, got {len(labels)}")
    numbers = range(len(labels) if labels is not None else count or 0)
    sampler = HeunSampler(denoiser, (channels, image_size, image_size), settings=HeunSettings(steps=steps))
    device = next(denoiser.parameters()).device
    return sample_images(sampler, numbers, labels, seed=seed, batch_size=batch_size, device=device, done=done)


def balanced_labels(count: int, num_classes: int) -> Tensor:
    """Labels 0, 1, ..., k-1, 0, 1, ... so that every class gets the same number of images (up to one)."""
    return torch.arange(count) % num_classes


def conditional(denoiser: nn.Module) -> bool:
    """Whether a denoiser takes class labels."""
    return int(getattr(denoiser, "label_dim", 0) or getattr(denoiser, "num_classes", 0)) > 0
