"""Settings of `generate.py`; importing this does not import torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rp_models.data.catalog import describe
from rp_models.diffusion.sampler_settings import FlowSettings, HeunSettings
from rp_models.settings import require

TRAINED = "runs/pretrain/edm-digits/checkpoints/model.safetensors"  # where `pretrain.py edm` leaves its model


def name_of(checkpoint: str) -> str:
    """A name for what was made with a checkpoint; that of the run if the file is `RUN/checkpoints/model`."""
    file = Path(checkpoint)
    inside_run = file.parent.name == "checkpoints" and file.stem == "model"
    return file.parent.parent.name if inside_run else file.stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """Everything that determines the synthetic images, and how they are judged."""

    data: str = ""  # the data set that they imitate; by default what the checkpoint says it was trained on
    images: int = 5000  # in all
    labels: str = "balanced"  # of the images: balanced, or classes to repeat in turn, e.g. 0,0,1
    classes: tuple[int, ...] = ()  # only these, the same number of each; by default all
    seed: int = 0  # image i is made from the noise that belongs to (seed, i)
    batch_size: int = 250  # images made at a time; another size may change single bytes by one
    shard_images: int = 1000  # images in a file, rounded up to whole batches; changes no image
    bf16: bool = False  # run the network in bfloat16
    vae: str = ""  # checkpoint of the autoencoder, for a model of latents
    latents: str = ""  # checkpoint of the latents' normalisation; by default 0.18215 for latents of 4 channels
    classifier: str = ""  # its confidence in the label is recorded; labels the images of a model without classes
    keep: float = 1.0  # keep this share of each class, the most confident, of 1 / keep times as many images
    keep_candidates: bool = False  # leave the files of all candidates in the folder
    # whose features are compared with real ones; auto: a shipped MAE, else the classifier; inception: the FID
    frechet_network: str = "auto"
    frechet_images: int = 50_000  # compare at most so many images, real and synthetic; 0 for no comparison
    heun: HeunSettings = field(default_factory=HeunSettings)  # sampler of EDM and MaskDiT
    flow: FlowSettings = field(default_factory=FlowSettings)  # sampler of LightningDiT

    def __post_init__(self) -> None:
        if self.data:
            describe(self.data)
        for name in ("images", "batch_size", "shard_images"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        require(0 < self.keep <= 1, f"keep must be in (0, 1], got {self.keep}")
        require(
            self.keep == 1 or bool(self.classifier), "keep selects by confidence; name a checkpoint with --classifier"
        )
        require(self.frechet_images >= 0, f"frechet_images must not be negative, got {self.frechet_images}")
        require(
            self.labels == "balanced" or not self.classes,
            "name the classes with --classes (balanced) or with --labels (repeated in turn), not with both",
        )
        require(min(self.class_list, default=0) >= 0, f"classes must not be negative, got {self.class_list}")

    @property
    def class_list(self) -> tuple[int, ...]:
        """The classes that are repeated in turn; empty for all of the model's."""
        if self.labels == "balanced":
            return self.classes
        parts = self.labels.split(",")
        require(
            all(part.strip().isdecimal() for part in parts),
            f"labels must be balanced, or class numbers with commas between them, got {self.labels!r}",
        )
        return tuple(int(part) for part in parts)


def plain() -> Generation:
    """The samplers' own settings: EDM's 18 deterministic steps, LightningDiT's 249 without guidance."""
    return Generation()


def dm_at(data: str, steps: int) -> Generation:
    """The synthetic sets of Wang et al. 2023, arXiv:2302.04638; their 1 M of CIFAR add --classifier and --keep 0.2."""
    heun = HeunSettings(steps=steps)
    return Generation(data=data, images=1_000_000, batch_size=500, shard_images=10_000, heun=heun)


def imagenet64() -> Generation:
    """The stochastic sampler of EDM's ImageNet-64 model (Karras et al. 2022, arXiv:2206.00364, Table 5)."""
    heun = HeunSettings(steps=256, S_churn=40.0, S_min=0.05, S_max=50.0, S_noise=1.003)
    return Generation(images=50_000, batch_size=64, heun=heun)


def maskdit256() -> Generation:
    """MaskDiT on ImageNet-256 with guidance (Zheng et al. 2023, arXiv:2306.09305); needs --vae."""
    return Generation(images=50_000, batch_size=64, heun=HeunSettings(steps=40, guidance=1.5))


def lightningdit(guidance: float, start: float) -> Generation:
    """LightningDiT on ImageNet-256 (Yao et al. 2025, arXiv:2501.01423); needs --vae and --latents."""
    return Generation(images=50_000, batch_size=64, flow=FlowSettings(guidance=guidance, start=start))


def smoke() -> Generation:
    """A few images in seconds; for tests."""
    return Generation(images=20, batch_size=8, shard_images=16, heun=HeunSettings(steps=2), flow=FlowSettings(points=3))


RECIPES: dict[str, Callable[[], Generation]] = {
    "plain": plain,
    "cifar10": lambda: dm_at("cifar10", 20),
    "cifar100": lambda: dm_at("cifar100", 25),
    "svhn": lambda: dm_at("svhn", 25),
    "imagenet64": imagenet64,
    "maskdit-256": maskdit256,
    "lightningdit-64ep": lambda: lightningdit(10.0, 0.10),
    "lightningdit-800ep": lambda: lightningdit(6.7, 0.125),
    "smoke": smoke,
}
