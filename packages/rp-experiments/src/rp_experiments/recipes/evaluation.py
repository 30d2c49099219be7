"""Settings of `evaluate.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from rp_attacks.radii import Norm, check_radius
from rp_attacks.settings import SUITE_NORMS, Budget, CertificateSettings, SuiteName
from rp_models.data.catalog import describe
from rp_models.data.shifts import kinds_of
from rp_models.robustbench.entries import Entry, is_spec
from rp_models.settings import InferenceSettings, at_least, require
from rp_purify.settings import (
    GaussianNoiseSettings,
    MAEPureSettings,
    OneStepDenoiseSettings,
    PurifierSettings,
)

from rp_experiments.recipes.robustbench import THREATS, RobustBenchSettings, corrupted, named_entry


class Sizes(NamedTuple):
    """How much work goes into an evaluation; see the settings of these names."""

    images: int | None
    passes: int | None
    probes: int
    block_size: int
    convergence: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything that determines an evaluation's numbers.

    The quick suite behind a purifier is a first look that takes minutes on two cores: where the settings leave it open,
    it does with fewer images, passes and probes than other evaluations.
    """

    # checkpoint of the classifier, a file or a name; "" for the data set's standard one, where that is soon trained;
    # robustbench:[DATASET/][THREAT/]NAME for an entry of RobustBench
    model: str = ""
    # a data set of the catalogue, or the path of an .npz or a class folder; of an entry of RobustBench its own
    data: str = "digits"
    # whose images are attacked; None: test, of a file or folder without splits all
    split: Literal["train", "validation", "test", "all"] | None = None
    # which family of attacks; certified: a radius that holds against all, of a classifier behind Gaussian noise;
    # beyond-lp: all three norms, a patch, shifted pixels, and shifted data sets; robustbench: AutoAttack standard on
    # RobustBench's images, beside the figures that it publishes
    suite: SuiteName | Literal["certified", "beyond-lp", "robustbench"] = "quick"
    shifts: tuple[str, ...] = ()  # of the suite beyond-lp, e.g. cifar10-c cifar10.1; none named: those at hand
    norm: Norm = "linf"  # of suites that exist in several
    eps: float | None = None  # radius in [0, 1] pixel units; None: the data set's conventional one
    # images, the field's fixed draw, of the suite robustbench the first ones; None for all; auto: 512, for a first look
    # (quick, behind a purifier) 50, for robustbench all
    images: int | Literal["auto"] | None = "auto"
    passes: int | None = None  # verdict passes; None: 1, for a random defence 20, for a first look 10
    pixels: Literal["float", "uint8"] = "float"  # uint8 judges adversarial images that an image file can hold
    # images on which signs of masked gradients are looked for, by SPSA among others; None: 32, for a first look 16
    probes: int | None = None
    # the most passes of the figure that shows how many a random purifier's gradient needs; 0 for no figure; None: 100,
    # for a first look 10
    convergence: int | None = None
    exhaustive: bool = False  # run every attack on every image, for its own accuracy
    seed: int = 0  # of attacks, controls and verdicts
    batch_size: int = 128  # images attacked at a time
    # images of a saved file, the unit of resuming and of sharing between processes; None: 128, for a first look 25
    block_size: int | None = None
    budget: Budget = field(default_factory=Budget)  # of the suites purifier, gradient and blackbox
    certificate: CertificateSettings = field(default_factory=CertificateSettings)  # of the suite certified
    robustbench: RobustBenchSettings = field(default_factory=RobustBenchSettings)  # of the suite of this name
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of the networks that are attacked
    defended: bool = False  # put the purifier of the settings below in front of the classifier
    purifier: PurifierSettings = field(default_factory=MAEPureSettings)

    def __post_init__(self) -> None:
        if is_spec(self.model):
            self._complete(named_entry(self.model, self.data, self.norm))
        info = describe(self.data)
        for kind in self.shifts:
            known = kinds_of(self.data)
            require(kind in known, f"{kind} does not shift {self.data}; known are {', '.join(known) or 'none'}")
        if self.eps is not None:
            shape = (info.channels, info.image_size, info.image_size)
            check_radius(self.ball, self.eps, shape=shape, what="--eps")
        require(
            self.defended or self.suite not in ("bpda-eot20", "purifier", "purifier-quick"),
            f"suite {self.suite} replaces a purifier's backward pass; put one in front with --defended",
        )
        require(
            self.suite != "certified" or (self.defended and self.noise > 0),
            "suite certified needs Gaussian noise before the classifier: --defended with --purifier.kind noise or "
            f"denoise, got {self.purifier.kind if self.defended else 'no purifier'}",
        )
        if self.suite == "robustbench":
            require(not self.defended, "RobustBench takes no purifiers; --suite purifier attacks one")
            require(self.norm in THREATS, f"suite robustbench has norm linf or l2, got {self.norm}")
            require(self.split in (None, "test"), f"suite robustbench is of the test split, got --split {self.split}")
            of_attacks = self.robustbench.state is not None
            require(not (of_attacks and self.corrupted), "a state file is of attacks, not of corrupted images")
        at_least(self, probes=0, convergence=0, images=1, passes=1, batch_size=1, block_size=1)

    def _complete(self, entry: Entry) -> None:
        """Say in full which entry is meant, and take what is left open from it: its images, norm and radius."""
        given: dict[str, Any] = {"model": entry.spec}
        if self.data == "digits":  # the default, which has other images
            given["data"] = entry.dataset
        if self.suite == "robustbench":
            data = given.get("data", self.data)
            require(data == entry.dataset, f"{entry.title} is judged on {entry.dataset}, got --data {data}")
            given |= {} if entry.norm is None else {"norm": entry.norm}
            given |= {} if self.eps is not None or entry.radius is None else {"eps": entry.radius}
        for name, value in given.items():
            object.__setattr__(self, name, value)

    @property
    def entry(self) -> Entry | None:
        """The entry of RobustBench that the model is, if it is one."""
        return named_entry(self.model, self.data, self.norm) if is_spec(self.model) else None

    @property
    def corrupted(self) -> str | None:
        """The kind of corrupted images that the suite robustbench judges on; None where it attacks."""
        chosen, entry = self.robustbench.corruptions, self.entry
        if chosen is None and entry is not None and entry.norm is None:
            chosen = "common"
        return None if chosen is None else corrupted(self.data, chosen)

    @property
    def preprocessing(self) -> str:
        """Of ImageNet's pictures in the suite robustbench."""
        return (self.entry and self.entry.preprocessing) or self.robustbench.preprocessing

    @property
    def ball(self) -> Norm:
        """The norm of the suite's attacks, for those that have one."""
        return "l2" if self.suite == "certified" else SUITE_NORMS.get(self.suite, self.norm)

    @property
    def attacks(self) -> SuiteName | None:
        """The suite of rp-attacks that is run; None where the job has attacks of its own, or none."""
        return cast(SuiteName, self.suite) if self.suite in get_args(SuiteName) else None

    @property
    def noise(self) -> float:
        """Standard deviation, in [0, 1] pixel units, of the noise that the purifier adds first; 0 if it adds none."""
        match self.purifier:
            case GaussianNoiseSettings(std=std):
                return std
            case OneStepDenoiseSettings(sigma=sigma):
                return sigma / 2
        return 0.0

    @property
    def first_look(self) -> bool:
        """Whether this is the quick suite behind a purifier."""
        return self.suite == "quick" and self.defended and self.purifier.kind != "none"

    @property
    def sizes(self) -> Sizes:
        """What the settings say, and where they leave it open, what suits a first look or a verdict."""
        usual = Sizes(images=512, passes=None, probes=32, block_size=128, convergence=100)
        if self.first_look:
            usual = Sizes(images=50, passes=10, probes=16, block_size=25, convergence=10)
        if self.suite == "robustbench":
            usual = usual._replace(images=None)
        return Sizes(
            images=usual.images if self.images == "auto" else self.images,
            passes=usual.passes if self.passes is None else self.passes,
            probes=usual.probes if self.probes is None else self.probes,
            block_size=usual.block_size if self.block_size is None else self.block_size,
            convergence=usual.convergence if self.convergence is None else self.convergence,
        )

    def resolved(self) -> dict[str, Any]:
        """All settings, those left open as numbers, and what is published of an entry of RobustBench."""
        published = {} if self.entry is None else {"published": self.entry.published}
        return asdict(self) | self.sizes._asdict() | published

    @property
    def model_name(self) -> str:
        """What to call the classifier: a file's stem, an entry's name, or a module and its function."""
        if self.entry is not None:
            return self.entry.name
        path, _, factory = self.model.partition(":")
        return "-".join(filter(None, (Path(path).stem, factory))) or "standard"

    @property
    def name(self) -> str:
        """What to call the evaluation: model, suite and purifier."""
        return "-".join([self.model_name, self.suite, *([self.purifier.kind] if self.defended else [])])


def _of_paper(data: str) -> Evaluation:
    """MAE-Pure with the paper's settings on one of its data sets; classifier and autoencoder are to be named."""
    from rp_purify.presets import preset

    return Evaluation(
        data=data,
        suite="purifier",
        defended=True,
        purifier=MAEPureSettings(mae="mae-digits", **preset(data, "mae")),
        compute=InferenceSettings(precision="tf32"),
    )


RECIPES: dict[str, Callable[[], Evaluation]] = {"digits": Evaluation} | {
    data: partial(_of_paper, data) for data in ("cifar10", "cifar100", "svhn", "imagenet")
}
"""Where `evaluate.py` starts from: a first look at the digits, or a paper's data set behind MAE-Pure as published."""
