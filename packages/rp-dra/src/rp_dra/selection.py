"""Which average of the weights is kept: the one that resists an attack on the validation images best, as in DM-AT.

Source: Wang et al. 2023, arXiv:2302.04638, and their published trainer.
"""

import copy
from contextlib import AbstractContextManager

import torch
from rp_attacks.losses import cw_margin
from rp_attacks.norms import project
from rp_attacks.pgd import ascend
from rp_models import noise
from rp_models.data import Images
from rp_models.training.distributed import ALONE, Processes
from torch import Tensor, nn

from rp_dra.settings import TrainingSettings


class Best(nn.Module):
    """The best average so far, with its score: part of the training state, so that a resumed run knows it."""

    score: Tensor
    offers: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.register_buffer("score", torch.tensor(-1.0))
        self.register_buffer("offers", torch.tensor(0))

    def offer(self, model: nn.Module, score: float) -> None:
        """Keep a copy of `model` if its score is at least the best so far; ties go to the later one, as in DM-AT."""
        self.offers += 1
        offered = torch.tensor(score, dtype=self.score.dtype)  # in the same precision, or a tie would not be one
        if offered >= self.score.cpu():
            self.score.fill_(score)
            self.model.load_state_dict(model.state_dict())


class Validation:
    """Judges a classifier on the validation images: clean, and under projected gradient ascent on the margin.

    Args:
        training: ball, step size, steps and batch size of the attack.
    """

    def __init__(self, images: Images, training: TrainingSettings, *, seed: int, processes: Processes = ALONE) -> None:
        self.images, self.training, self.seed, self.processes = images, training, seed, processes
        self.device = images.device

    def __call__(self, model: nn.Module, precision: AbstractContextManager[object]) -> tuple[float, float]:
        """Clean and robust accuracy of a classifier in eval mode; an image must be right both times to be robust.

        Args:
            precision: in which the model is asked, e.g. the engine's autocast.
        """
        clean, robust = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        index = torch.arange(len(self.images), device=self.device)[self.processes.rank :: self.processes.count]
        with precision:
            for part in index.split(self.training.validation_batch):
                right, resisting = self._judge(model, part)
                clean, robust = clean + right.sum(), robust + (right & resisting).sum()
        counts = self.processes.mean({"clean": clean, "robust": robust})
        share = self.processes.count / len(self.images)
        return counts["clean"] * share, counts["robust"] * share

    def _judge(self, model: nn.Module, index: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each image of these numbers is right as it is, and after the attack."""
        x, y = self.images.batch(index)
        x_adv = ascend(
            # images that are wrong already get no gradient, as in DM-AT
            lambda z: cw_margin(model(z).float(), y).clamp(max=0.0),
            x,
            self._start(x, index),
            norm=self.training.norm,
            eps=self.training.eps,
            step_size=self.training.step_size,
            steps=self.training.validation_steps,
            box_first=True,  # as published: clip to [0, 1], then project on the L2 ball
        )
        with torch.no_grad():
            return model(x).argmax(dim=1) == y, model(x_adv).argmax(dim=1) == y

    def _start(self, x: Tensor, index: Tensor) -> Tensor:
        """A uniform point of the Linf ball; for L2 a uniform image, pulled back to the ball."""
        uniform = noise.uniform(x.shape[1:], seed=self.seed, purpose="validation", index=index)
        if self.training.norm == "l2":
            return project(uniform, x, norm="l2", eps=self.training.eps)
        return (x + self.training.eps * (2.0 * uniform - 1.0)).clamp(0.0, 1.0)
