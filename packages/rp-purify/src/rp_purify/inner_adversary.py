"""The adversary inside a training step: ascent of the classifier's loss on the denoised image, weights left alone.

ADBM moves a perturbation of the images by sign steps, ADDT one of the noise by ranks; they differ in what the variable
is and how a gradient changes it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Objective = Callable[[Tensor, int], Tensor]
"""objective(variable, step): the scalar that grows."""
Update = Callable[[Tensor, Tensor, int], Tensor]
"""update(variable, gradient, step): the variable after a step."""


def ascend(objective: Objective, update: Update, variable: Tensor, steps: int) -> Iterator[Tensor]:
    """The variable after each of the steps, detached; no parameter's `.grad` is touched."""
    for step in range(steps):
        with torch.enable_grad():
            leaf = variable.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(leaf, step), leaf)
        variable = update(leaf.detach(), gradient, step)
        yield variable


def class_loss(classifier: nn.Module, denoised: Tensor, y: Tensor) -> Tensor:
    """The classifier's cross-entropy on denoised images in [-1, 1], not limited, a mean over the batch."""
    return F.cross_entropy(classifier((denoised + 1) / 2).float(), y)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in eval mode, afterwards in the one that it was in."""
    trains = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(trains)
