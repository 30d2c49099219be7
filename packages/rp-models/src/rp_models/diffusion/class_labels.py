"""Class labels as the diffusion networks take them: one-hot rows, from indices or other weights of the classes."""

import torch
from torch import Tensor

from rp_models.values import check_values


def one_hot_labels(labels: Tensor | None, label_dim: int, like: Tensor) -> Tensor | None:
    """Class labels in the form that the networks take: the one place where indices are accepted.

    Args:
        labels: class indices (b,) of an integer type, one-hot or other weights (b, label_dim) or (1, label_dim), or
            None for no class.
        label_dim: number of classes.
        like: the images (b, ...) they belong to, for their number and device.

    Returns:
        Float32 tensor (b or 1, label_dim), a zero row for None; None if the model has no classes.

    Raises:
        ValueError: if there are labels but no classes, or shape or an index does not fit.
    """
    if label_dim == 0:
        if labels is not None:
            raise ValueError("this model is unconditional (label_dim=0); pass class_labels=None")
        return None
    if labels is None:
        return torch.zeros(1, label_dim, device=like.device)
    labels = labels.to(like.device)
    if labels.dim() == 1 and not labels.is_floating_point():
        check_values(
            labels,
            lambda y: (y >= 0) & (y < label_dim),
            lambda y: f"class labels must be in 0..{label_dim - 1}, got {int(y.min())}..{int(y.max())}",
        )
        labels = labels[:, None] == torch.arange(label_dim, device=like.device)
    if labels.dim() != 2 or labels.shape[1] != label_dim or len(labels) not in (1, len(like)):
        raise ValueError(
            f"class_labels must be indices ({len(like)},) or one-hot ({len(like)}, {label_dim}), "
            f"got {tuple(labels.shape)} {labels.dtype}"
        )
    return labels.to(torch.float32)
