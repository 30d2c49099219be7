"""How near synthetic images come to real ones: the Fréchet distance over the features of a named network."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import rp_models
import torch
from rp_analysis import GaussianMoments
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import DatasetInfo, load_images, subset_index
from rp_models.data.datasets import DataError
from rp_models.loading import pooled_features
from torch import Tensor, nn

BATCH = 500  # images a time


class Distances(NamedTuple):
    """Fréchet distances to the training split's features.

    Attributes:
        fid: of the synthetic images.
        same_number: of as many synthetic images as there are held-out ones; None if there are fewer.
        held_out: of the real test split, what a perfect model would reach with as many images.
    """

    fid: float
    same_number: float | None
    held_out: float | None


class FeatureJudge:
    """Collects features of synthetic images, and compares them with real ones.

    Args:
        name: checkpoint of a network with `forward_features`: a file, or the name of a shipped one.
        data: name of the real images' data set.
        info: its description.
        limit: of images in each set.
        device: where to compute.

    Raises:
        CheckpointError: if the file cannot be read, or the network has no `forward_features`.
        DataError: if it does not take the images.
    """

    def __init__(self, name: str, data: str, info: DatasetInfo, limit: int, device: torch.device) -> None:
        self.name, self.data, self.limit, self.device = name, data, limit, device
        self.network = rp_models.load(name, device=device)
        if not hasattr(self.network, "forward_features"):
            raise CheckpointError(f"{name}: a {type(self.network).__name__} has no forward_features to compare")
        try:
            black = torch.zeros(1, info.channels, info.image_size, info.image_size, device=device)
            self.width = pooled_features(self.network, black).shape[1]
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{name} does not take the images of {info.name} ({reason})") from error
        self.reference = self._split("train")
        try:
            self.held_out = self._split("test")
        except (ValueError, DataError):  # not every data set has a test split
            self.held_out = GaussianMoments()
        self.synthetic, self.few = GaussianMoments(), GaussianMoments()

    def take(self, images: Tensor) -> None:
        """Take in the next synthetic images, uint8 (n, c, h, w), up to the limit."""
        few = self.held_out.count
        for batch in images[: self.limit - self.synthetic.count].split(BATCH):
            features = self._features(batch.to(self.device).float() / 255)
            self.synthetic.update(features)
            if self.few.count < few:
                self.few.update(features[: few - self.few.count])

    def distances(self) -> Distances:
        """The distances of what was taken in."""
        few = self.held_out.count
        return Distances(
            self.synthetic.distance(self.reference),
            self.few.distance(self.reference) if self.few.count == few > 1 else None,
            self.held_out.distance(self.reference) if few > 1 else None,
        )

    def report(self) -> dict[str, Any]:
        """The distances with all that is needed to compare them with others."""
        return {
            **self.distances()._asdict(),
            "network": self.name,
            "features": self.width,
            "images": self.synthetic.count,
            "reference_images": self.reference.count,
            "held_out_images": self.held_out.count,
            "note": "distances of other networks, or of other numbers of images, are not comparable",
        }

    def _split(self, split: str) -> GaussianMoments:
        """Moments of a split's images, or of a fixed random draw of them."""
        images, moments = load_images(self.data, split), GaussianMoments()
        for index in subset_index(len(images), self.limit).split(BATCH):
            x, _ = images.batch(index)
            moments.update(self._features(x.to(self.device)))
        return moments

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        return pooled_features(self.network, x).flatten(1).float()


def judge_of(
    name: str, classifier: str, data: str, info: DatasetInfo, limit: int, device: torch.device
) -> FeatureJudge | None:
    """The judge that the settings ask for; None if they ask for none, or "auto" finds no network.

    Args:
        name: a checkpoint, or "auto" for the masked autoencoder shipped for these data, else the classifier.
        classifier: checkpoint of the classifier in use, or "". It comes last because it may have selected the images.
        data: see `FeatureJudge`, like the next three.
        info: see `FeatureJudge`.
        limit: see `FeatureJudge`.
        device: see `FeatureJudge`.
    """
    if limit < 2 or not name:
        return None
    if name == "auto":
        shipped = f"mae-{info.name}"
        name = shipped if _is_shipped(shipped) else classifier
    return FeatureJudge(name, data, info, limit, device) if name else None


def _is_shipped(name: str) -> bool:
    if Path(name).is_file():
        return False
    try:
        read_header(name)
    except CheckpointError:
        return False
    return True


def network_digest(model: nn.Module) -> str:
    """A hash of all weights: what tells a checkpoint from another one under the same name."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
