"""Passes through a classifier: features and logits, which statistics its batch norms use, and what a batch must be."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def full_precision(logits: Tensor) -> Tensor:
    """Logits in at least float32, in which every loss is computed; autocast gives them in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def classify(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Pooled features (b, d), and logits (b, k) in at least float32, from one pass through a classifier.

    With a `Tap` as its attribute `tap`, the features at each position follow the pooled ones: (b, 1 + n, d); whichever
    of the two are narrower have zeros behind them.
    """
    features = model.forward_features(x)  # type: ignore[operator]
    logits = full_precision(model.head(features))  # type: ignore[operator]
    tap = getattr(model, "tap", None)
    if tap is None:
        return features, logits
    parts = features[:, None], tap.take()
    width = max(part.shape[2] for part in parts)
    return torch.cat([F.pad(part, (0, width - part.shape[2])) for part in parts], dim=1), logits


def classify_both(model: nn.Module, x: Tensor, x_adv: Tensor, *, joint: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Natural features (b, d) and logits (b, k), and the adversarial ones.

    Args:
        joint: one pass of 2 b images instead of two of b. In train mode this changes what batch norms compute: both
            halves are normalised by the statistics of their mixture, and the running statistics move once, towards
            the mixture, instead of twice, the second time towards the adversarial images. Without batch norms, and
            in eval mode, nothing changes but the time.
    """
    if joint:
        features, logits = classify(model, torch.cat([x, x_adv]))
        natural, adversarial = logits.chunk(2)
        return features[: len(x)], natural, features[len(x) :], adversarial
    return *classify(model, x), *classify(model, x_adv)


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


@contextmanager
def frozen_if_compiled(model: nn.Module) -> Iterator[None]:
    """Inside the block, the parameters of a compiled model ask for no gradients, so that its graphs compute none.

    A compiled graph computes the gradients of all that asks for them, wanted or not; a model that is not compiled
    computes what is wanted alone. It stays as it is: autocast keeps the casts of its weights only while they ask.
    """
    compiled = getattr(model, "_compiled_call_impl", None) is not None
    asking = [p for p in model.parameters() if p.requires_grad] if compiled else []
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Inside the block, a model is in eval mode; afterwards each of its modules is in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Share of right predictions; the label of a row of probabilities is its largest."""
    labels = y.argmax(dim=1) if y.is_floating_point() else y
    return (logits.detach().argmax(dim=1) == labels).float().mean()


def two_part_metrics(
    natural: Tensor, robust: Tensor, logits: Tensor, logits_adv: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """The two parts of the loss, and the accuracies of the same passes."""
    return {
        "natural": natural.detach(),
        "robust": robust.detach(),
        "accuracy": accuracy(logits, y),
        "robust_accuracy": accuracy(logits_adv, y),
    }


def check_batch(x: Tensor, y: Tensor, start_noise: Tensor) -> None:
    """Refuse a batch whose shapes disagree; values are not looked at, which would make the device wait."""
    if x.dim() != 4:
        raise ValueError(f"x must be a batch of images (b, c, h, w), got shape {tuple(x.shape)}")
    if start_noise.shape != x.shape:
        raise ValueError(
            f"start_noise must have the images' shape {tuple(x.shape)}, got {tuple(start_noise.shape)}; "
            "draw one number for each pixel"
        )
    if not y.is_floating_point() and y.dtype != torch.int64:
        raise TypeError(f"y must be int64 labels or floating probabilities, got {y.dtype}")
    if len(y) != len(x) or y.dim() != (2 if y.is_floating_point() else 1):
        raise ValueError(
            f"y must be labels ({len(x)},) or probabilities ({len(x)}, classes), got {y.dtype} {tuple(y.shape)}"
        )
