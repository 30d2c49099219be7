"""Recipes of `finetune_purifier.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from rp_models.data.catalog import describe
from rp_models.settings import ComputeSettings, require
from rp_purify.settings import FinetuneSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackSettings:
    """PGD in the maximum norm, on classifier and purifier together."""

    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float = 2 / 255  # in [0, 1] pixel units
    steps: int = 10  # of an attack that makes training images
    judging_steps: int = 20  # of the attacks that judge before and after
    eot: int = 2  # passes of the random purifier whose gradients are averaged, when judging

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            require(0 < getattr(self, name) <= 1, f"attack.{name} must be in (0, 1], got {getattr(self, name)}")
        for name in ("steps", "judging_steps", "eot"):
            require(getattr(self, name) >= 1, f"attack.{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DescentSettings:
    """MAE-Pure or MaskDiT-Pure, in which the fine-tuned network is used and judged."""

    steps: int = 90  # sign steps
    step_size: float = 1 / 255  # in [0, 1] pixel units
    halve: bool = True  # take half the step size in the second half of the steps
    eta: float | None = 8 / 255  # no pixel changes by more, in [0, 1] pixel units; None for no limit
    mask_rate: float = 0.25  # share of hidden patches

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"descent.steps must not be negative, got {self.steps}")
        require(0 < self.mask_rate < 1, f"descent.mask_rate must be between 0 and 1, got {self.mask_rate}")
        for name in ("step_size", "eta"):
            value = getattr(self, name)
            require(value is None or 0 <= value <= 1, f"descent.{name} must be in [0, 1], got {value}")

    def in_words(self) -> str:
        """Steps and radius."""
        far = "as far as they go" if self.eta is None else f"at most {self.eta:.3g} from the input"
        return f"{self.steps} steps of {self.step_size:.3g}, {far}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetuning:
    """Everything that determines a fine-tuned purifier and its numbers.

    The sign has no derivative, so that training through steps differentiates them by the rule ste-tanh, twice.
    """

    data: str = "digits"  # a data set of the catalogue: trained on its training split, judged on its test split
    kind: Literal["mae", "maskdit"] = "mae"  # which network: RMAE or RMaskDiT
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name, for kind mae
    maskdit: str = ""  # checkpoint of a MaskDiT, for kind maskdit, which needs one
    # checkpoint of the classifier, which stays as it is; "" for the data set's standard one, where that is soon trained
    classifier: str = ""
    train_images: int | None = None  # only that many training images, drawn once and for all; None for all
    images: int | None = 200  # only that many test images, the field's fixed draw; None for all
    through: Literal["one-shot", "steps"] = "one-shot"  # one reconstruction, or the sign steps of `unrolled`
    one_shot_mask_rate: float = 0.5  # of the one-shot reconstruction, for kind mae
    sigma: float = 0.34  # noise level in the units of [-1, 1], for kind maskdit
    seed: int = 0  # of attacks, batches, masks and noise
    batch_size: int = 128  # images attacked at a time
    attack: AttackSettings = field(default_factory=AttackSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    unrolled: DescentSettings = field(default_factory=lambda: DescentSettings(steps=4))
    descent: DescentSettings = field(default_factory=DescentSettings)
    compute: ComputeSettings = field(default_factory=ComputeSettings)  # of the second stage

    def __post_init__(self) -> None:
        describe(self.data)
        for name in ("train_images", "images"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"{name} must be at least 1, got {value}")
        require(
            0 < self.one_shot_mask_rate < 1,
            f"one_shot_mask_rate must be between 0 and 1, got {self.one_shot_mask_rate}",
        )
        require(self.sigma > 0, f"sigma must be positive, got {self.sigma}")
        require(self.batch_size >= 1, f"batch_size must be at least 1, got {self.batch_size}")


def digits() -> Finetuning:
    """The embedded digits at the size of `train_dra.py`'s evaluation: radius 0.15, under two minutes on two cores."""
    eps = 0.15
    return Finetuning(
        data="digits",
        attack=AttackSettings(eps=eps, step_size=eps / 4, steps=10, judging_steps=10, eot=1),
        finetune=FinetuneSettings(steps=300, batch_size=128, lr=1e-3, mu=10.0, noise_std=0.1, mask_rate=0.5),
        descent=DescentSettings(steps=20, step_size=0.01, eta=eps, mask_rate=0.5),
    )


def digits_steps() -> Finetuning:
    """The digits, trained through four sign steps instead of one reconstruction: what RMAE-Pure gains most from."""
    base = digits()
    return replace(
        base,
        through="steps",
        finetune=replace(base.finetune, steps=300, batch_size=64, lr=5e-4, mu=3.0),
        unrolled=DescentSettings(steps=4, step_size=0.05, halve=False, eta=base.attack.eps, mask_rate=0.5),
        descent=replace(base.descent, steps=10, step_size=0.04),
    )


def digits_maskdit() -> Finetuning:
    """The digits with a MaskDiT, whose own loss is 30 times an autoencoder's, so that it gets a smaller weight."""
    base = digits()
    return replace(
        base,
        kind="maskdit",
        finetune=replace(base.finetune, lr=5e-4, mu=1.0),
        descent=replace(base.descent, steps=6, step_size=0.04, halve=False, mask_rate=0.25),
    )


def digits_maskdit_steps() -> Finetuning:
    """The digits with a MaskDiT, trained through three sign steps."""
    base = digits_maskdit()
    return replace(
        base,
        through="steps",
        finetune=replace(base.finetune, steps=100, batch_size=32, lr=2e-4),
        unrolled=replace(base.descent, steps=3, step_size=0.2 / 3),
    )


def fashion_mnist() -> Finetuning:
    """Fashion-MNIST at radius 0.1, on 2,048 of its training images: some minutes on a CPU core."""
    base, eps = digits(), 0.1
    return replace(
        base,
        data="fashion-mnist",
        train_images=2_048,
        mae="mae-fashion-mnist",
        attack=replace(base.attack, eps=eps, step_size=eps / 4, steps=5),
        finetune=replace(base.finetune, steps=300, batch_size=64, lr=5e-4),
        descent=replace(base.descent, eta=eps),
    )


def smoke() -> Finetuning:
    """The digits in seconds: every part runs, nothing is learnt; for tests."""
    base = digits()
    return replace(
        base,
        images=8,
        batch_size=1000,
        attack=replace(base.attack, steps=1, judging_steps=1),
        finetune=replace(base.finetune, steps=3, batch_size=8),
        descent=replace(base.descent, steps=2),
    )


RECIPES: dict[str, Callable[[], Finetuning]] = {
    "digits": digits,
    "digits-steps": digits_steps,
    "digits-maskdit": digits_maskdit,
    "digits-maskdit-steps": digits_maskdit_steps,
    "fashion-mnist": fashion_mnist,
    "smoke": smoke,
}
