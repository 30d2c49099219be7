"""Optimiser, learning rate and weight average of a training step."""

from rp_models.training.averaging import dmat_decay
from rp_models.training.optimizer import build_optimizer, decay_groups
from rp_models.training.schedule import cosine, one_cycle
from torch import nn
from torch.optim import Optimizer

from rp_dra.settings import AlignmentSettings, TrainingSettings

_NEVER_DECAYED = ("pos_embed", "cls_token", "reg_token", "dist_token")  # by timm's rule, whatever their shape


def make_optimizer(training: TrainingSettings, model: nn.Module, head: nn.Module | None) -> Optimizer:
    """The optimiser of classifier and alignment head, with its groups of decaying and other parameters.

    Args:
        model: the classifier; what decays of it says `training.undecayed`.
        head: the alignment head or None; its biases do not decay.
    """
    spared = {"batchnorm": _in_batch_norm, "vectors": _is_vector, "nothing": _never}[training.undecayed]
    groups = decay_groups(model, training.weight_decay, without_decay=spared)
    if head is not None:
        groups += decay_groups(head, training.weight_decay, without_decay=lambda _, parameter: parameter.dim() == 1)
    return build_optimizer(
        training.optimizer, groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov
    )


def rate(training: TrainingSettings, step: int, *, steps_per_epoch: int) -> tuple[float, float | None]:
    """Learning rate of a step, and SGD's momentum (None where it stays as it is)."""
    if training.schedule == "cosine":
        steps = training.epochs * steps_per_epoch
        return cosine(step, steps=steps, peak=training.lr, warmup=training.warmup * steps), None
    epoch = step // steps_per_epoch
    if training.schedule == "epoch-cosine":
        return cosine(epoch + 1, steps=training.epochs + 1, peak=training.lr), None
    if training.schedule == "steps":
        passed = sum(epoch >= round(share * training.epochs) for share in training.milestones)
        return training.lr * 0.1**passed, None
    lr, momentum = one_cycle(epoch, steps=training.epochs, peak=training.lr, warmup=training.warmup)
    cycled = training.cycle_momentum and training.optimizer == "sgd"
    return lr, momentum if cycled else None


def average_decay(training: TrainingSettings, step: int, *, steps_per_epoch: int) -> float:
    """The share of the old average that is kept after step number `step`, from 0."""
    if training.averaging in ("ema", "ema-all"):
        return training.tau
    if training.averaging == "epochs":  # a copy at the end of the first epoch
        ends = (step + 1) % steps_per_epoch == 0
        return (training.tau if step + 1 > steps_per_epoch else 0.0) if ends else 1.0
    warmup = training.warmup * training.epochs * steps_per_epoch
    return dmat_decay(step + 1, warmup_steps=warmup, tau=training.tau)


def alignment_weight(alignment: AlignmentSettings, share: float) -> float:
    """The weight of the alignment term when a share in [0, 1) of the training is done."""
    if share >= alignment.stop:
        return 0.0
    if alignment.final_weight is None:
        return alignment.weight
    if alignment.weight_schedule == "cosine":
        return cosine(share, steps=1.0, peak=alignment.weight, final=alignment.final_weight)
    return alignment.weight + share * (alignment.final_weight - alignment.weight)


def _never(name: str, parameter: nn.Parameter) -> bool:
    return False


def _in_batch_norm(name: str, parameter: nn.Parameter) -> bool:
    """DM-AT's rule, by the name of the parameter."""
    return "batchnorm" in name


def _is_vector(name: str, parameter: nn.Parameter) -> bool:
    """The rule of timm: norms, biases and layer scales, and the positions and tokens of transformers."""
    return parameter.dim() <= 1 or name.rpartition(".")[2] in _NEVER_DECAYED
