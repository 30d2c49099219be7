"""Weight averaging: the model that is evaluated is an average of those that were trained."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MovingAverage:
    """EDM's exponential moving average of a model's weights; its memory is counted in images, see `ema_decay`.

    `model` is copied as it is now; the copy is in eval mode and without gradients.
    """

    def __init__(self, model: nn.Module, *, half_life: float, ramp: float | None = 0.05) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp

    def follow(self, model: nn.Module, *, seen: int, batch_size: int) -> None:
        """Move towards the model after a step: `seen` images in all, `batch_size` of them in this step.

        Deviation: the published trainer counts `seen` without the step's own images.
        """
        average_(self.model, model, ema_decay(seen, batch_size=batch_size, half_life=self.half_life, ramp=self.ramp))


def dmat_decay(step: int, *, warmup_steps: float, tau: float = 0.995) -> float:
    """The decay of DM-AT's average after optimiser step `step`, from 1; at most `tau`.

    Before `warmup_steps` the average is a plain copy. Source: Gowal et al. 2020, arXiv:2010.03593, as used by Wang et
    al. 2023, arXiv:2302.04638.
    """
    if step < warmup_steps:
        return 0.0
    d = step - warmup_steps
    return min(tau, (1.0 + d) / (10.0 + d))


def ema_decay(images_seen: float, *, batch_size: int, half_life: float, ramp: float | None = 0.05) -> float:
    """The decay of EDM's exponential moving average for one batch, after `images_seen` images.

    A weight's share halves in `half_life` images, which is at most the share `ramp` of the images seen; None switches
    that off. Source: Karras et al. 2022, arXiv:2206.00364, Appendix F.2 and the published trainer.
    """
    if ramp is not None:
        half_life = min(half_life, ramp * images_seen)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def average_(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move an average towards the model: parameters by `1 - decay`, buffers all the way.

    Buffers (batch-norm statistics) are always the model's own. Deviation: DM-AT's trainer takes them over at the end
    of each epoch by sharing the tensors; the two differ only inside the first epoch.
    """
    follow_(list(average.parameters()), list(model.parameters()), decay)
    follow_(list(average.buffers()), list(model.buffers()), 0.0)


@torch.no_grad()
def follow_(kept: Sequence[Tensor], new: Sequence[Tensor], decay: float) -> None:
    """Move tensors towards others by `1 - decay`, in place, one operation for all of a type; integers are copied."""
    pairs = list(zip(kept, new, strict=True))
    for dtype in dict.fromkeys(tensor.dtype for tensor in kept):
        old, newest = ([pair[side] for pair in pairs if pair[0].dtype == dtype] for side in (0, 1))
        if decay == 0.0 or not dtype.is_floating_point:
            torch._foreach_copy_(old, newest)
        else:
            torch._foreach_lerp_(old, newest, 1.0 - decay)
