"""Settings of `generate.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from pathlib import Path

from rp_models.data.catalog import describe
from rp_models.diffusion.sampler_settings import FlowSettings, HeunSettings
from rp_models.settings import InferenceSettings, at_least, require

from rp_experiments.recipes.table import recipes

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
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of the network that makes the images
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
        at_least(self, images=1, batch_size=1, shard_images=1, frechet_images=0)
        require(0 < self.keep <= 1, f"keep must be in (0, 1], got {self.keep}")
        require(
            self.keep == 1 or bool(self.classifier), "keep selects by confidence; name a checkpoint with --classifier"
        )
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


RECIPES = recipes("generate", Generation)
