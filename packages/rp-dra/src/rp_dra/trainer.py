"""Training one classifier: DM-AT's recipe, with or without synthetic images, with or without alignment.

Sources: Section 4.2 and Appendix B of the DRA paper; Wang et al. 2023, arXiv:2302.04638 and their published trainer.
"""

import copy
from collections.abc import Mapping

import torch
from rp_attacks.losses import cw_margin
from rp_attacks.pgd import ascend
from rp_models import noise
from rp_models.data.augment import crop_and_flip
from rp_models.data.batches import BatchPlan
from rp_models.data.datasets import ImageSet
from rp_models.training.averaging import average_, dmat_decay
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.optimizer import decay_groups, set_rate
from rp_models.training.schedule import one_cycle
from rp_models.training.seeding import seeded
from rp_models.zoo import build
from torch import Tensor, nn

from rp_dra.alignment import Alignment
from rp_dra.objectives import Objective, Standard, Trades
from rp_dra.settings import AlignmentSettings, ClassifierSettings, TrainingSettings
from rp_dra.targets import EdmTarget


class ClassifierTrainer:
    """One classifier, its weight average, the best average so far, and the step that trains them.

    Attributes:
        model: the classifier that is trained.
        average: the average of its weights.
        best: the average that resisted the validation attack best.
        state: everything that training changes.
        plan: which images make up each batch.

    Args:
        classifier: the network's settings.
        training: the recipe.
        real: training images.
        objective: what a step minimises; `objective_of(training)` for TRADES.
        synthetic: synthetic images, or None.
        validation: images that choose the best average; None takes the last.
        target: the alignment's target, or None for no alignment.
        alignment: its settings.
        seed: of weights, batches, augmentation and noise.
    """

    def __init__(
        self,
        classifier: ClassifierSettings,
        training: TrainingSettings,
        real: ImageSet,
        *,
        objective: Objective,
        synthetic: ImageSet | None = None,
        validation: ImageSet | None = None,
        target: EdmTarget | None = None,
        alignment: AlignmentSettings | None = None,
        seed: int,
    ) -> None:
        self.training, self.real, self.synthetic, self.validation = training, real, synthetic, validation
        self.objective, self.target, self.seed = objective, target, seed
        self.alignment = alignment or AlignmentSettings()
        self.device = real.images.device
        with seeded(seed, "classifier weights"):
            self.model = build_classifier(classifier, real).to(self.device).train()
        self._norms = [(m, m.momentum) for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.best = Best(self.average)
        modules: dict[str, nn.Module] = {"model": self.model, "average": self.average, "best": self.best}
        groups = decay_groups(self.model, training.weight_decay, without_decay=lambda name, _: "batchnorm" in name)
        if target is not None:
            with seeded(seed, "alignment weights"):
                self.head = self._new_head(target).to(self.device)
            modules["head"] = self.head
            groups += decay_groups(self.head, training.weight_decay, without_decay=lambda name, p: p.dim() == 1)
        optimizer = torch.optim.SGD(groups, lr=training.lr, momentum=0.9, nesterov=True)
        self.state = TrainingState(modules, optimizer)
        self.plan = BatchPlan(
            real=len(real),
            synthetic=len(synthetic) if synthetic is not None else 0,
            batch_size=training.batch_size,
            synthetic_fraction=training.synthetic_fraction if synthetic is not None else 0.0,
            epoch_images=training.epoch_images or len(real),
            seed=noise.derive_seed(seed, "batches"),
        )

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.training.epochs * self.plan.batches_per_epoch

    def step(self, step: int) -> Metrics:
        """One optimiser step on one adversarial batch."""
        epoch = step // self.plan.batches_per_epoch
        lr, momentum = one_cycle(epoch, steps=self.training.epochs, peak=self.training.lr, warmup=self.training.warmup)
        set_rate(self.state.optimizer, lr, momentum)
        x, y, draw = self.batch(step)
        self._set_batch_norm_momentum(first=step == 0)
        start_noise = noise.uniform(x.shape[1:], seed=self.seed, purpose="attack start", index=draw)
        outcome = self.objective(self.model, x, y, start_noise=start_noise)
        loss, metrics = outcome.loss, outcome.metrics
        if self.target is not None:
            eps = noise.normal(x.shape[1:], seed=self.seed, purpose="target noise", index=draw)
            alignment = self.head(outcome.features, self.target(x, y, noise=eps))
            loss = loss + self.alignment.weight * alignment
            metrics = {**metrics, "alignment": alignment.detach()}
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.state.optimizer.step()
        warmup_steps = self.training.warmup * self.steps
        average_(self.average, self.model, dmat_decay(step + 1, warmup_steps=warmup_steps, tau=self.training.tau))
        return {"loss": loss.item(), "lr": lr, **{key: value.item() for key, value in metrics.items()}}

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented images, labels, and the numbers that their random draws belong to, of one step."""
        epoch, position = divmod(step, self.plan.batches_per_epoch)
        chosen = self.plan.indices(epoch, position).to(self.device)
        x, y = self.real.batch(chosen.clamp(max=len(self.real) - 1))
        made = chosen >= len(self.real)
        if self.synthetic is not None and bool(made.any()):
            x[made], y[made] = self.synthetic.batch(chosen[made] - len(self.real))
        first = step * self.training.batch_size
        draw = torch.arange(first, first + len(x), device=self.device)
        x = crop_and_flip(
            x,
            padding=self.training.crop_padding,
            flip=self.training.flip,
            seed=self.seed,
            purpose="training",
            index=draw,
        )
        return x, y, draw

    def after_step(self, done: int) -> Mapping[str, float]:
        """At the end of an epoch: judge the average on the validation images, and keep it if it is the best."""
        epoch, rest = divmod(done, self.plan.batches_per_epoch)
        if rest or self.validation is None or self.training.validate_every == 0:
            return {}
        if epoch % self.training.validate_every and epoch != self.training.epochs:
            return {}
        clean, robust = self.validate()
        self.best.offer(self.average, robust if isinstance(self.objective, Trades) else clean)
        return {"validation_accuracy": clean, "validation_robust_accuracy": robust}

    def validate(self) -> tuple[float, float]:
        """Clean accuracy of the average on the validation images, and under PGD on the margin."""
        assert self.validation is not None
        x, y = self.validation.batch(slice(None))
        uniform = noise.uniform(
            x.shape[1:], seed=self.seed, purpose="validation", index=torch.arange(len(x), device=x.device)
        )
        start = (x + self.training.eps * (2.0 * uniform - 1.0)).clamp(0.0, 1.0)
        x_adv = ascend(
            # images that are wrong already get no gradient, as in DM-AT
            lambda z: cw_margin(self.average(z), y).clamp(max=0.0),
            x,
            start,
            norm="linf",
            eps=self.training.eps,
            step_size=self.training.step_size,
            steps=self.training.validation_steps,
        )
        with torch.no_grad():
            right = [(self.average(images).argmax(dim=1) == y) for images in (x, x_adv)]
        return float(right[0].float().mean()), float((right[0] & right[1]).float().mean())

    def result(self) -> nn.Module:
        """The classifier to use: the best average if there was a selection, otherwise the last one."""
        return self.average if int(self.best.offers) == 0 else self.best.model

    def _new_head(self, target: EdmTarget) -> Alignment:
        info = self.real.info
        width = self.model.head.in_features  # type: ignore[union-attr]
        return Alignment(
            width,  # type: ignore[arg-type]
            target.width(info.channels, info.image_size),
            hidden=self.alignment.hidden,
        )

    def _set_batch_norm_momentum(self, *, first: bool) -> None:
        """Momentum 1 in the very first step: the running statistics begin with a batch's, not with 0 and 1."""
        for norm, momentum in self._norms:
            norm.momentum = 1.0 if first else momentum


class Best(nn.Module):
    """The best average so far, with its score: part of the training state, so that a resumed run knows it.

    Args:
        model: copied.
    """

    score: Tensor
    offers: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.register_buffer("score", torch.tensor(-1.0))
        self.register_buffer("offers", torch.tensor(0))

    @torch.no_grad()
    def offer(self, model: nn.Module, score: float) -> None:
        """Keep a copy of `model` if its score is at least the best so far; ties go to the later one, as in DM-AT."""
        self.offers += 1
        if score >= float(self.score):
            self.score.fill_(score)
            self.model.load_state_dict(model.state_dict())


def build_classifier(settings: ClassifierSettings, images: ImageSet) -> nn.Module:
    """DM-AT's wide ResNet for a data set's images and classes, with its normalisation inside."""
    info = images.info
    return build(
        "dm-wide-resnet",
        depth=settings.depth,
        width=settings.width,
        activation=settings.activation,
        bn_momentum=settings.bn_momentum,
        num_classes=info.num_classes,
        in_channels=info.channels,
        mean=list(info.mean),
        std=list(info.std),
    )


def objective_of(training: TrainingSettings, *, robust: bool = True) -> Objective:
    """TRADES with the recipe's constants, or plain cross-entropy for the comparison."""
    if not robust:
        return Standard(label_smoothing=training.label_smoothing)
    return Trades(
        beta=training.beta,
        label_smoothing=training.label_smoothing,
        eps=training.eps,
        step_size=training.step_size,
        steps=training.attack_steps,
    )
