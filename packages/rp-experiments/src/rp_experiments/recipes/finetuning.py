"""Recipes of `finetune_purifier.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.data.catalog import describe
from rp_models.settings import ComputeSettings, at_least, require
from rp_purify.settings import ADBMTuningSettings, ADDTTuningSettings, FinetuneSettings

from rp_experiments.recipes.table import recipes


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackSettings:
    """PGD in the maximum norm, on classifier and purifier together; judging starts anywhere in the ball."""

    eps: float = 8 / 255  # radius, in [0, 1] pixel units
    step_size: float = 2 / 255  # in [0, 1] pixel units
    steps: int = 10  # of an attack that makes training images
    on: Literal["system", "classifier"] = "system"  # what that attack sees; AToP's sees the classifier alone
    start: Literal["uniform", "clean"] = "uniform"  # of that attack; one step of eps from clean is FGSM
    judging_steps: int = 20  # of the attacks that judge before and after
    eot: int = 2  # passes of the random purifier whose gradients are averaged, when judging

    def __post_init__(self) -> None:
        for name in ("eps", "step_size"):
            require(0 < getattr(self, name) <= 1, f"attack.{name} must be in (0, 1], got {getattr(self, name)}")
        at_least(self, "attack.", steps=1, judging_steps=1, eot=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class DescentSettings:
    """MAE-Pure or MaskDiT-Pure, in which the fine-tuned network is used and judged."""

    steps: int = 90  # sign steps
    step_size: float = 1 / 255  # in [0, 1] pixel units
    halve: bool = True  # take half the step size in the second half of the steps
    eta: float | None = 8 / 255  # no pixel changes by more, in [0, 1] pixel units; None for no limit
    mask_rate: float = 0.25  # share of hidden patches

    def __post_init__(self) -> None:
        at_least(self, "descent.", steps=0)
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

    Kinds mae and maskdit are attacked first and trained then, in two stages; the sign has no derivative, so that
    training through steps differentiates them by the rule ste-tanh, twice. Kinds adbm and addt tune a denoiser with an
    adversary in each step, and have the settings of their names.
    """

    data: str = "digits"  # a data set of the catalogue: trained on its training split, judged on its test split
    # which network: RMAE or RMaskDiT, or the denoiser of ADBM or ADDT
    kind: Literal["mae", "maskdit", "adbm", "addt"] = "mae"
    mae: str = "mae-digits"  # masked autoencoder, a file or a shipped name, for kind mae
    maskdit: str = ""  # checkpoint of a MaskDiT, for kind maskdit, which needs one
    edm: str = ""  # checkpoint of a denoiser without classes, for kinds adbm and addt, which need one
    # checkpoint of the classifier, which stays as it is; "" for the data set's standard one, where that is soon trained
    classifier: str = ""
    train_images: int | None = None  # only that many training images, drawn once and for all; None for all
    images: int | None = 200  # only that many test images, the field's fixed draw; None for all
    through: Literal["one-shot", "steps"] = "one-shot"  # one reconstruction, or the sign steps of `unrolled`
    one_shot_mask_rate: float = 0.5  # of the one-shot reconstruction, for kind mae
    one_shot_noise_std: float = 0.0  # of noise before it, in [0, 1] pixel units
    one_shot_keep_visible: bool = False  # keep the patches that it sees
    sigma: float = 0.34  # noise level in the units of [-1, 1], for kind maskdit
    seed: int = 0  # of attacks, batches, masks and noise
    batch_size: int = 128  # images attacked at a time
    attack: AttackSettings = field(default_factory=AttackSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)
    unrolled: DescentSettings = field(default_factory=lambda: DescentSettings(steps=4))
    descent: DescentSettings = field(default_factory=DescentSettings)
    adbm: ADBMTuningSettings = field(default_factory=ADBMTuningSettings)
    addt: ADDTTuningSettings = field(default_factory=ADDTTuningSettings)
    times: int = 100  # t* of the purifier in which the denoiser is judged, in thousandths, for kinds adbm and addt
    reverse_steps: int = 5  # of that purifier, from t* back to 0
    compute: ComputeSettings = field(default_factory=ComputeSettings)  # of the training

    def __post_init__(self) -> None:
        describe(self.data)
        at_least(self, train_images=1, images=1, batch_size=1)
        require(
            0 < self.one_shot_mask_rate < 1,
            f"one_shot_mask_rate must be between 0 and 1, got {self.one_shot_mask_rate}",
        )
        require(
            0 <= self.one_shot_noise_std <= 1,
            f"one_shot_noise_std must be in [0, 1] pixel units, got {self.one_shot_noise_std}",
        )
        require(self.sigma > 0, f"sigma must be positive, got {self.sigma}")
        require(
            1 <= self.reverse_steps <= self.times <= 1000,
            f"expected 1 <= reverse_steps <= times <= 1000, got {self.reverse_steps} and {self.times}",
        )

    @property
    def start(self) -> Literal["mae", "maskdit", "edm"]:
        """The network that it starts from: the setting that names it."""
        return self.kind if self.kind in ("mae", "maskdit") else "edm"

    @property
    def tuning(self) -> ADBMTuningSettings | ADDTTuningSettings:
        """The training of kind adbm or addt."""
        return self.adbm if self.kind == "adbm" else self.addt

    @property
    def product(self) -> str:
        """What the network is called that comes out."""
        return self.kind if self.kind in ("adbm", "addt") else f"r{self.kind}"


RECIPES = recipes("finetuning", Finetuning)
