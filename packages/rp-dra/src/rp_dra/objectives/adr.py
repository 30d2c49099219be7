"""ADR: labels corrected by an average of the classifier's own weights, softer where it is sure and right.

Source: Wu et al. 2024, arXiv:2305.12118.
"""

import copy
from dataclasses import dataclass, field

import torch
from rp_models.training.averaging import follow_
from rp_models.training.schedule import cosine
from torch import Tensor, nn
from torch.nn import functional as F

from rp_dra.objectives.objective import Objective, Outcome, Wrapper
from rp_dra.objectives.passes import check_batch, full_precision


def trust(q: Tensor, y: Tensor, lam: float) -> Tensor:
    """The teacher's share in each label: lambda, less by how much the teacher prefers a wrong class to the true one.

    Args:
        q: the teacher's probabilities (b, k).

    Returns:
        Tensor (b,) in [0, 1]. Source: Wu et al. 2024, arXiv:2305.12118.
    """
    true = q.gather(1, y[:, None]).squeeze(1)
    return (lam - (q.amax(dim=1) - true)).clamp(0.0, 1.0)


def adr_labels(logits: Tensor, y: Tensor, *, tau: float, lam: float) -> Tensor:
    """Labels between the teacher's softened prediction and the one-hot label.

    The largest probability of each is the true class's, whatever the teacher says: the teacher's share falls with its
    preference for another class faster than the one-hot part loses its lead.

    Args:
        tau: temperature of the teacher's prediction.
        lam: lambda, the largest share that the teacher gets, in [0, 1].

    Returns:
        Probabilities (b, k), without graph. Source: Wu et al. 2024, arXiv:2305.12118.
    """
    q = (full_precision(logits.detach()) / tau).softmax(dim=1)
    share = trust(q, y, lam)[:, None]
    return share * q + (1.0 - share) * F.one_hot(y, q.shape[1])


@dataclass(eq=False)
class Adr(Wrapper):
    """An objective that learns from ADR's labels instead of the given ones.

    The teacher is an average of the classifier's weights and statistics, in eval mode, on the natural images. Its
    labels replace the given ones wherever `base` uses them: in attack and loss of PGD-AT, in the natural cross-entropy
    of TRADES, whose KL term has no label. The temperature falls and lambda rises by half a cosine over the steps.

    Published with PGD-AT, and with TRADES in one joint pass, both without label smoothing:
    `Adr(PgdAt())`, `Adr(TradesOriginal(joint_forward=True))`.

    Source: Wu et al. 2024, arXiv:2305.12118; the defaults are for CIFAR-10.
    """

    base: Objective  # what is minimised on those labels; it must take probabilities
    tau: tuple[float, float] = field(default=(2.0, 1.0), kw_only=True)  # first and last temperature
    lam: tuple[float, float] = field(default=(0.7, 0.95), kw_only=True)  # first and last lambda, in [0, 1]
    decay: float = field(default=0.995, kw_only=True)  # of the average, per step
    teacher: nn.Module | None = field(default=None, init=False, repr=False)  # that average, once `modules` has made it
    step_tau: float = field(init=False, repr=False)  # temperature of this step; set by `begin_step`
    step_lam: float = field(init=False, repr=False)  # lambda of this step; set by `begin_step`

    def __post_init__(self) -> None:
        if not min(self.tau) > 0:
            raise ValueError(f"tau must be two temperatures above 0, got {self.tau}")
        if not (min(self.lam) >= 0 and max(self.lam) <= 1):
            raise ValueError(f"lam must be two shares in [0, 1], got {self.lam}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay}")
        self.step_tau, self.step_lam = self.tau[0], self.lam[0]

    def modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The teacher, a copy of the classifier at first, and what the base remembers."""
        if self.teacher is None:
            self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        return {"adr_teacher": self.teacher, **super().modules(model)}

    def begin_step(self, model: nn.Module, *, step: int, steps_per_epoch: int, epochs: int) -> None:
        """Take the last step's weights into the average, and set this step's temperature and lambda."""
        teacher, now = self._made_teacher().state_dict(), model.state_dict()
        decay = self.decay if step > 0 else 0.0  # at first a copy
        follow_(list(teacher.values()), [now[key] for key in teacher], decay)  # running statistics like parameters
        steps = steps_per_epoch * epochs
        self.step_tau = cosine(step, steps=steps, peak=self.tau[0], final=self.tau[1])
        self.step_lam = cosine(step, steps=steps, peak=self.lam[0], final=self.lam[1])
        super().begin_step(model, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Outcome:
        """See `Objective`; labels must be hard ones, which ADR softens."""
        check_batch(x, y, start_noise)
        return self.base(model, x, self._labels(x, y), start_noise=start_noise)

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, start_noise: Tensor) -> Tensor:
        """The base's, on the corrected labels."""
        return self.base.attack(model, x, self._labels(x, y), start_noise=start_noise)

    def minimise(self, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, trial: bool = False) -> Outcome:
        """The base's, on the corrected labels."""
        return self.base.minimise(model, x, self._labels(x, y), x_adv, trial=trial)

    def _labels(self, x: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point():
            raise TypeError("ADR makes probabilities of labels, so y must be int64 labels, got probabilities")
        with torch.no_grad():
            logits = self._made_teacher()(x)
        return adr_labels(logits, y, tau=self.step_tau, lam=self.step_lam)

    def _made_teacher(self) -> nn.Module:
        if self.teacher is None:
            raise ValueError("ADR has no teacher yet; call modules(model) once before the first step")
        return self.teacher
