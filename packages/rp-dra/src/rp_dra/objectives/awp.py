"""AWP: the loss is minimised at weights that were moved, in each layer, towards a higher loss.

Sources: Wu et al. 2020, arXiv:2004.05884, and their published code; the variant of Wu et al. 2024, arXiv:2305.12118.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from rp_dra import global_batch
from rp_dra.objectives.objective import Objective, Outcome, Wrapper
from rp_dra.objectives.passes import batch_statistics

AwpVariant = Literal["original", "restored"]


def awp_directions(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """For each weight w of more than one axis the direction in which the loss rises, g |w| / |g|, by name.

    Norms are those of whole tensors. Biases, the vectors of norms, and weights that the loss does not depend on have no
    direction. The published code takes the direction from a step of plain gradient ascent of a copy; its rate cancels.

    Args:
        loss: scalar with graph, a mean over the images of this process; gradients are averaged over all processes.

    Source: Eq. 10 of Wu et al. 2020, arXiv:2004.05884.
    """
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1 and "weight" in name and p.requires_grad}
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    found = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        if gradient is not None:
            gradient = global_batch.mean(gradient.detach().clone())
            found[name] = gradient * (weight.detach().norm() / (gradient.norm() + 1e-20))
    return found


@dataclass(eq=False)
class Awp(Wrapper):
    """Another objective at adversarially perturbed weights.

    The adversarial images are made at the weights w themselves. There the base's loss is taken once more, and its
    gradient gives the directions v (`awp_directions`). "original": this pass leaves the running statistics alone; the
    loss that is minimised, and the optimiser's step with its weight decay, are at w + gamma v, then gamma v is
    subtracted. "restored", ADR's: the first pass moves the running statistics and the second does not; w is put back
    before the optimiser's step, so that weight decay sees w.

    A step costs one pass of the loss, forward and backward, more than the base's. Everything is a function of the step.

    Published: gamma 0.005 with TRADES and IKL from the tenth epoch on, 0.01 with PGD-AT from the first; with ADR,
    `Adr(Awp(PgdAt(), variant="restored"))`, 0.005.

    Source: Wu et al. 2020, arXiv:2004.05884, and their code; Wu et al. 2024, arXiv:2305.12118.
    """

    base: Objective  # whose loss is minimised
    gamma: float = field(default=0.005, kw_only=True)  # length of the step over the weight's, in each tensor
    start_epoch: int = field(default=0, kw_only=True)  # epochs that are trained without it before it starts
    variant: AwpVariant = field(default="original", kw_only=True)
    active: bool = field(default=True, init=False, repr=False)  # in this step; set by `begin_step`
    _moves: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        if self.start_epoch < 0:
            raise ValueError(f"start_epoch must not be negative, got {self.start_epoch}")
        if self.variant not in ("original", "restored"):
            raise ValueError(f"variant must be original or restored, got {self.variant!r}")

    @property
    def additive(self) -> bool:
        """No: the weights are perturbed once a step."""
        return False

    def begin_step(self, model: nn.Module, *, step: int, steps_per_epoch: int, epochs: int) -> None:
        """Whether the weights are perturbed in this step, and what the base does before it."""
        self.active = step // steps_per_epoch >= self.start_epoch
        super().begin_step(model, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """The base's outcome at perturbed weights, which stay there until the optimiser's step."""
        if not self.active or trial:
            return self.base.minimise(model, x, y, x_adv, trial=trial)
        if self._moves:
            raise RuntimeError("the weights are perturbed already; call after_update once the optimiser has stepped")
        if self.variant == "original":
            with batch_statistics(model):
                loss = self.base.minimise(model, x, y, x_adv, trial=True).loss
            self._perturb(model, awp_directions(model, loss))
            return self.base.minimise(model, x, y, x_adv)
        self._perturb(model, awp_directions(model, self.base.minimise(model, x, y, x_adv).loss))
        with batch_statistics(model):
            return self.base.minimise(model, x, y, x_adv, trial=True)

    def before_update(self, model: nn.Module) -> None:
        """The variant "restored": the weights as they were."""
        if self.variant == "restored":
            self._restore(model)

    def after_update(self, model: nn.Module) -> None:
        """The variant "original": what was added is subtracted from the updated weights."""
        self._restore(model)

    def _perturb(self, model: nn.Module, directions: Mapping[str, Tensor]) -> None:
        """Move the weights by gamma along their directions; what has to be undone is kept."""
        with torch.no_grad():
            for name, direction in directions.items():
                weight = model.get_parameter(name)
                step = self.gamma * direction
                self._moves[name] = step if self.variant == "original" else weight.clone()
                weight.add_(step)
        torch.clear_autocast_cache()  # or the next pass would take the half-precision copies of the old weights

    @torch.no_grad()
    def _restore(self, model: nn.Module) -> None:
        for name, kept in self._moves.items():
            weight = model.get_parameter(name)
            if self.variant == "original":
                weight.sub_(kept)
            else:
                weight.copy_(kept)
        self._moves = {}
