"""Training one classifier: DM-AT's recipe, with or without synthetic images, with or without alignment.

Sources: Section 4.2 and Appendix B of the DRA paper; Wang et al. 2023, arXiv:2302.04638 and their published trainer.
"""

import copy
from collections.abc import Mapping

import torch
from rp_models.data import Images
from rp_models.settings import ComputeSettings
from rp_models.training.averaging import average_, follow_
from rp_models.training.distributed import ALONE, Processes, synchronise_batch_norms
from rp_models.training.loop import Metrics
from rp_models.training.optimizer import set_rate
from rp_models.training.seeding import seeded
from rp_models.training.trainer import BaseTrainer
from torch import Tensor, nn

from rp_dra import rates
from rp_dra.alignment import Alignment, alignment_loss, shuffled
from rp_dra.choice import objective_of as objective_of
from rp_dra.classifier import build_classifier as build_classifier
from rp_dra.classifier import feature_width
from rp_dra.mixture import Mixture
from rp_dra.objectives import Objective, Outcome
from rp_dra.positions import Tap
from rp_dra.selection import Best, Validation
from rp_dra.settings import AlignmentSettings, ClassifierSettings, TrainingSettings
from rp_dra.targets import FrozenTarget, Target, represent


class ClassifierTrainer(BaseTrainer):
    """One classifier, its weight average, the best average so far, and the step that trains them.

    A step is a function of its number: batches, noise and rates need no state. Several processes (`torchrun`) divide
    each batch and agree with one process up to rounding.

    Attributes:
        best: the average that resisted the validation attack best.

    Args:
        real: training images, on the device where the training shall run.
        objective: what a step minimises; `objective_of(training)` for TRADES.
        validation: images that choose the best average; None takes the last.
    """

    def __init__(
        self,
        classifier: ClassifierSettings,
        training: TrainingSettings,
        real: Images,
        *,
        objective: Objective,
        synthetic: Images | None = None,
        validation: Images | None = None,
        target: Target | None = None,
        alignment: AlignmentSettings | None = None,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        objective.check_micro_batches(compute)
        self.training, self.objective, self.target, self.seed = training, objective, target, seed
        self.alignment = alignment or AlignmentSettings()
        if compute is not None and compute.micro_batch is not None and target is not None and self.alignment.pairs:
            raise ValueError(
                "alignment.loss and alignment.shuffle look at pairs of a batch's images, which micro-batches would "
                "take apart; leave out compute.micro_batch"
            )
        batches = Mixture(training, real, synthetic, seed=seed, processes=processes)
        self.plan = batches.plan
        self._validation = Validation(validation, training, seed=seed, processes=processes) if validation else None
        device = batches.device
        with seeded(seed, "classifier weights"):
            self.model = build_classifier(classifier, real.info).to(device).train()
        synchronise_batch_norms(self.model, processes, compute)
        self._norms = [(m, m.momentum) for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.best = Best(average)
        self._weight = self.alignment.weight
        self._tap = self._tapped(real, compute)
        self.head = self._new_head(target, real).to(device) if target is not None else None
        trained: dict[str, nn.Module] = {"model": self.model, **({"head": self.head} if self.head else {})}
        optimizer = rates.make_optimizer(training, self.model, self.head)
        kept = {"average": average, "best": self.best, **objective.modules(self.model)}
        optimizer.register_step_pre_hook(lambda *_: objective.before_update(self.model))
        optimizer.register_step_post_hook(lambda *_: objective.after_update(self.model))
        super().__init__(trained, batches, optimizer, kept=kept, compute=compute, processes=processes)
        self.average = average
        if self.engine.compute.compile and isinstance(target, FrozenTarget):
            target.compile_features()

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.training.epochs * self.plan.batches_per_epoch

    def rate(self, step: int) -> float:
        """The schedule's rate."""
        return rates.rate(self.training, step, steps_per_epoch=self.plan.batches_per_epoch)[0]

    def step(self, step: int) -> Metrics:
        """One optimiser step; the very first one as it is: its momentum would have to be compiled for itself."""
        if step == 0 and self.engine.compute.compile:
            with torch.compiler.set_stance("force_eager"):
                return super().step(step)
        return super().step(step)

    def graph(self, step: int) -> bool:
        """The head is used as long as features are aligned."""
        return rates.alignment_weight(self.alignment, step / self.steps) > 0

    def before_step(self, step: int) -> None:
        """Momentum of optimiser and batch norms, and what the objective does before a step."""
        training, steps_per_epoch = self.training, self.plan.batches_per_epoch
        set_rate(self.state.optimizer, *rates.rate(training, step, steps_per_epoch=steps_per_epoch))
        self._set_batch_norm_momentum(first=step == 0)
        self._weight = rates.alignment_weight(self.alignment, step / self.steps)
        self.objective.begin_step(self.model, step=step, steps_per_epoch=steps_per_epoch, epochs=training.epochs)

    def follow(self, step: int) -> None:
        """The recipe's average."""
        decay = rates.average_decay(self.training, step, steps_per_epoch=self.plan.batches_per_epoch)
        if self.training.averaging in ("dm-at", "ema"):
            average_(self.average, self.model, decay)
        elif decay < 1:  # running statistics like parameters
            kept, new = (module.state_dict() for module in (self.average, self.model))
            follow_(list(kept.values()), [new[key] for key in kept], decay)

    def after_step(self, done: int) -> Mapping[str, float]:
        """At the end of an epoch: judge the average on the validation images, and keep it if it is the best."""
        epoch, rest = divmod(done, self.plan.batches_per_epoch)
        if rest or self._validation is None or self.training.validate_every == 0:
            return {}
        if epoch % self.training.validate_every and epoch != self.training.epochs:
            return {}
        clean, robust = self.validate()
        self.best.offer(self.average, robust if self.objective.robust else clean)
        return {"validation_accuracy": clean, "validation_robust_accuracy": robust}

    def validate(self) -> tuple[float, float]:
        """Clean accuracy of the average on the validation images, and under PGD on the margin.

        Raises:
            ValueError: if the trainer has no validation images.
        """
        if self._validation is None:
            raise ValueError("there are no validation images; pass validation= to the trainer")
        return self._validation(self.average, self.engine.autocast())

    def result(self) -> nn.Module:
        """The classifier to use: the best average if there was a selection, otherwise the last one."""
        return self.average if int(self.best.offers) == 0 else self.best.model

    def loss(self, x: Tensor, y: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective, and the alignment of the adversarial images' features (Eq. 4 of the DRA paper)."""
        start_noise = self.objective.start_noise(x, seed=self.seed, draw=draw)
        outcome = self.objective(self.model, x, y, start_noise=start_noise)
        loss, metrics = outcome.loss, outcome.metrics
        if self.target is not None and self._weight > 0:
            alignment = self._aligned(outcome, x, y, draw)
            loss, metrics = loss + self._weight * alignment, {**metrics, "alignment": alignment.detach()}
        if self.alignment.consistency:
            natural, adversarial = (_pooled(part) for part in (_natural(outcome), outcome.features))
            consistency = alignment_loss(adversarial, natural)
            loss, metrics = loss + self.alignment.consistency * consistency, {**metrics, "consistency": consistency}
        return loss, metrics

    def _aligned(self, outcome: Outcome, x: Tensor, y: Tensor, draw: Tensor) -> Tensor:
        """The alignment term, of adversarial or natural images, or the mean of both."""
        assert self.target is not None
        assert self.head is not None
        settings = self.alignment
        target = represent(self.target, x, y, seed=self.seed, draw=draw)
        if settings.shuffle != "no":
            target = shuffled(target, y, within_class=settings.shuffle == "class", seed=self.seed, draw=draw)
        parts = []
        if settings.images != "natural":
            parts.append(outcome.features)
        if settings.images != "adversarial":
            parts.append(_natural(outcome))
        return torch.stack([self.head(part, target) for part in parts]).mean()

    def _new_head(self, target: Target, images: Images) -> Alignment:
        info, settings = images.info, self.alignment
        with seeded(self.seed, "alignment weights"):
            return Alignment(
                feature_width(self.model) if self._tap is None else self._tap.width,
                target.width(info.channels, info.image_size),
                hidden=settings.hidden,
                representations=2 if target.random_level else 1,
                shared=settings.shared_head,
                loss=settings.loss,
            )

    def _tapped(self, images: Images, compute: ComputeSettings | None) -> Tap | None:
        """Keep the maps of the classifier's passes, for the loss that compares them."""
        if self.target is None or self.alignment.loss != "tokens":
            return None
        if compute is not None and (compute.compile or compute.checkpointing):
            raise ValueError(
                "alignment.loss=tokens looks inside the network, which a compiled or a checkpointed one does not let "
                "it do; leave out compute.compile and compute.checkpointing"
            )
        x, _ = images.batch(torch.zeros(1, dtype=torch.int64, device=images.device))
        tap = Tap(self.model, self.alignment.positions, x)
        self.model.tap = tap  # type: ignore[assignment]
        return tap

    def _set_batch_norm_momentum(self, *, first: bool) -> None:
        """Momentum 1 in the very first step: the running statistics begin with a batch's, not with 0 and 1."""
        for norm, momentum in self._norms:
            norm.momentum = 1.0 if first else momentum


def _natural(outcome: Outcome) -> Tensor:
    if outcome.features_nat is None:
        raise ValueError(
            "this objective makes no pass of natural images, whose features alignment.images or alignment.consistency "
            "asks for; take trades or ikl"
        )
    return outcome.features_nat


def _pooled(features: Tensor) -> Tensor:
    """The pooled features (b, d), which stand in front of those at positions."""
    return features if features.dim() == 2 else features[:, 0]
