"""Settings of `purify.py`; importing this does not import torch."""

from dataclasses import dataclass, field
from typing import Literal

from rp_models.data.catalog import describe
from rp_models.settings import InferenceSettings, at_least, require
from rp_purify.settings import MAEPureSettings, PurifierSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Purification:
    """Everything that determines the purified images."""

    data: str = "digits"  # a data set of the catalogue; it says what size the images have
    # which of its images, unless --input names others; None: test, of a file or folder without splits all
    split: Literal["train", "validation", "test", "all"] | None = None
    # other images of that kind: one .npz of `image` and perhaps `label`, PNG and JPEG files, or folders of these
    input: tuple[str, ...] = ()
    images: int | None = None  # only that many, the field's fixed draw (of files the first); None for all
    classifier: str = ""  # checkpoint whose accuracy is reported before and after; needs labels
    seed: int = 0  # of masks and noise
    batch_size: int = 128  # images at a time; changes no image
    purifier: PurifierSettings = field(default_factory=MAEPureSettings)
    compute: InferenceSettings = field(default_factory=InferenceSettings)  # of purifier and classifier
    mae: str = "mae-digits"  # masked autoencoder whose loss is reported where the purifier has none; "" for no loss

    def __post_init__(self) -> None:
        describe(self.data)
        files = [name for name in self.input if name.endswith(".npz")]
        require(
            not files or len(self.input) == 1,
            f"input must be one .npz or PNG and JPEG files, got {' '.join(self.input)}",
        )
        require(
            bool(files) or not (self.input and self.classifier),
            "picture files have no labels, so there is no accuracy; leave out --classifier, or name an .npz with "
            "--input",
        )
        at_least(self, images=1, batch_size=1)
