"""The objective that a recipe's settings name, with their constants."""

from dataclasses import asdict
from typing import Any

from rp_dra.objectives import Adr, Awp, Ikl, Objective, PgdAt, Standard, Trades, TradesOriginal
from rp_dra.settings import Method, ObjectiveName, TrainingSettings, objective_name


def objective_of(
    training: TrainingSettings,
    *,
    robust: bool = True,
    method: Method | None = None,
    num_classes: int | None = None,
) -> Objective:
    """What a step minimises.

    Args:
        training: names the objective, and holds the constants.
        robust: False for plain cross-entropy, the comparison.
        method: of a run; those that name an objective (at+ikl, at+adr, standard) go before the setting.

    Raises:
        ValueError: if IKL is asked for without the number of classes.
    """
    name = objective_name(training.objective, method) if robust else "standard"
    if name == "standard":
        return Standard(label_smoothing=training.label_smoothing)
    if name in ("adr", "adr-trades"):
        adr = training.adr
        base = _attacked(training, "pgd-at" if name == "adr" else name)
        return Adr(_perturbed(training, base), tau=adr.tau, lam=adr.lam, decay=adr.decay)
    if name == "ikl":
        if num_classes is None:
            raise ValueError("IKL keeps a mean prediction for each class; give objective_of num_classes")
        return _perturbed(training, _ikl(training, num_classes))
    return _perturbed(training, _attacked(training, name))


def _perturbed(training: TrainingSettings, base: Objective) -> Objective:
    """With adversarial weight perturbation, if that is on."""
    awp = training.awp
    return Awp(base, gamma=awp.gamma, start_epoch=awp.start_epoch, variant=awp.variant) if awp.gamma else base


def _attacked(training: TrainingSettings, name: ObjectiveName) -> Objective:
    """PGD-AT, which is published without label smoothing, or TRADES in one of its forms; ADR's is one joint pass."""
    attack: dict[str, Any] = {name: getattr(training, name) for name in ("eps", "step_size", "norm")}
    attack["steps"] = training.attack_steps
    beta, smoothing = training.beta, training.label_smoothing
    if name == "pgd-at":
        return PgdAt(**attack, attack_mode=training.attack_mode)
    if name == "adr-trades":
        return TradesOriginal(**attack, beta=beta, joint_forward=True)
    kind = {"trades": Trades, "trades-original": TradesOriginal}[name]
    return kind(**attack, beta=beta, label_smoothing=smoothing, joint_forward=training.joint_forward)


def _ikl(training: TrainingSettings, num_classes: int) -> Ikl:
    own = {ours: theirs for ours, theirs in asdict(training.ikl).items() if ours != "attack_steps"}
    attack: dict[str, Any] = {name: getattr(training, name) for name in ("eps", "norm", "joint_forward")}
    return Ikl(num_classes=num_classes, steps=training.ikl.attack_steps, **own, **attack)
