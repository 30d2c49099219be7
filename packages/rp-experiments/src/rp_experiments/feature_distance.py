"""How near synthetic images come to real ones: the Fréchet distance over the features of a named network.

It is the FID only over the features of Inception, which the extra `fid` brings.
"""

import sys
from typing import Any

import torch
from rp_analysis.frechet import GaussianMoments
from rp_models.checkpoint import CheckpointError, named_checkpoints
from rp_models.data import DatasetInfo, load_images, subset_index
from rp_models.data.datasets import DataError
from rp_models.loading import load_network, pooled_features
from rp_models.training import Progress
from torch import Tensor, nn

from rp_experiments.recipes.generate import Generation
from rp_experiments.run import Run

BATCH = 500  # images a time
INCEPTION = "inception"


class FeatureJudge:
    """Collects features of synthetic images, and compares them with those of a data set's real ones."""

    def __init__(self, name: str, config: Generation, info: DatasetInfo, run: Run) -> None:
        self.name, self.config, self.run = name, config, run
        self.network = (Inception() if name == INCEPTION else load_network(name)).to(run.device)
        if not hasattr(self.network, "forward_features"):
            raise CheckpointError(f"{name}: a {type(self.network).__name__} has no forward_features to compare")
        try:
            black = torch.zeros(1, info.channels, info.image_size, info.image_size, device=run.device)
            self.width = self._features(black).shape[1]
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{name} does not take the images of {info.name} ({reason})") from error
        self.reference = self._split("train", run.progress)
        try:
            self.held_out = self._split("test", run.progress)
        except (ValueError, DataError):  # not every data set has a test split
            self.held_out = GaussianMoments()
        self.synthetic, self.few = GaussianMoments(), GaussianMoments()

    def take(self, images: Tensor) -> None:
        """Take in the next synthetic images, uint8 (n, c, h, w), up to the limit."""
        few = self.held_out.count
        for batch in images[: self.config.frechet_images - self.synthetic.count].split(BATCH):
            features = self._features(batch.to(self.run.device).float() / 255)
            self.synthetic.update(features)
            if self.few.count < few:
                self.few.update(features[: few - self.few.count])

    def report(self) -> dict[str, Any]:
        """The distances with all that is needed to compare them with others.

        `frechet` is that of the synthetic images to the training split; `same_number` that of as many as there are
        held-out ones; `held_out` that of the real test split, what a perfect model would reach with as many images.
        """
        few = self.held_out.count
        distance = self.synthetic.distance(self.reference)
        return {
            "frechet": distance,
            **({"fid": distance} if self.name == INCEPTION else {}),
            "same_number": self.few.distance(self.reference) if self.few.count == few > 1 else None,
            "held_out": self.held_out.distance(self.reference) if few > 1 else None,
            "network": self.name,
            "features": self.width,
            "images": self.synthetic.count,
            "reference_images": self.reference.count,
            "held_out_images": few,
            "note": "distances of other networks, or of other numbers of images, are not comparable",
        }

    def _split(self, split: str, progress: Progress) -> GaussianMoments:
        """Moments of a split's images, or of a fixed random draw of them."""
        images, moments = load_images(self.config.data, split, root=self.run.root), GaussianMoments()
        index = subset_index(len(images), self.config.frechet_images)
        progress.start(f"features of {self.config.data}, {split}", len(index))
        for rows in index.split(BATCH):
            x, _ = images.batch(rows)
            moments.update(self._features(x.to(self.run.device)))
            progress.advance(moments.count)
        progress.finish()
        return moments

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        return pooled_features(self.network, x).flatten(1).float()


class Inception(nn.Module):
    """The network of FID, whose features torch-fidelity computes as the published ones."""

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise CheckpointError("inception needs torch-fidelity: pip install 'rp-experiments[fid]'") from None
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (b, 2048) of images (b, 1 or 3, h, w) in [0, 1]."""
        pixels = (x * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        features: Tensor = self.network(pixels)[0]
        return features


def judge_of(config: Generation, info: DatasetInfo, run: Run) -> FeatureJudge | None:
    """The judge that the settings ask for; None if they ask for none, or "auto" finds no network or no real images.

    "auto" is the masked autoencoder shipped for these data, else the classifier, which comes last because it may have
    selected the images.
    """
    name = config.frechet_network
    if config.frechet_images < 2 or not name:
        return None
    if name != "auto":
        return FeatureJudge(name, config, info, run)
    shipped = f"mae-{info.name}"
    name = shipped if shipped in named_checkpoints() else config.classifier
    try:
        return FeatureJudge(name, config, info, run) if name else None
    except DataError as error:
        print(f"no Fréchet distance to real images: {error}", file=sys.stderr)
        return None
