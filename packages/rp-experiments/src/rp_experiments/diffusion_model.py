"""What `train_dra.py` takes from diffusion models: the EDM network, the synthetic images, the alignment's target.

What other runs made is taken from the cache: a diffusion model and its images depend on few of a run's settings.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import rp_models
import torch
from rp_dra import load_encoder
from rp_dra.diffusion_encoder import NoisyClassifier
from rp_dra.settings import AlignmentSettings
from rp_dra.targets import EdmTarget, EncoderTarget, FrozenTarget, LightningDitTarget, ModuleTarget
from rp_models import noise
from rp_models.checkpoint import CheckpointError, read_header
from rp_models.data import DatasetInfo, Images, read_synthetic, write_synthetic
from rp_models.data.datasets import DataError
from rp_models.diffusion.sampling import balanced_labels, generate
from rp_models.loading import load_denoiser
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from rp_models.training import EdmTrainer, Processes, Progress, RunFolder, state_path, train_stage
from rp_models.zoo import build_entry
from torch import nn

from rp_experiments.recipes.dra_settings import TrainDra

MANY = 1_000_000  # with more synthetic images the paper takes a second representation of each image
Network = TypeVar("Network", bound=nn.Module)


class Diffusion:
    """The diffusion model of one run, and what comes from it.

    Args:
        config: of the run.
        folder: of the run.
        cache: folder of what other runs made.
        images: the training images.
        progress: watches the work.
        processes: of the run.
    """

    def __init__(
        self,
        config: TrainDra,
        folder: RunFolder,
        cache: Path,
        images: Images,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.config, self.folder, self.cache, self.images = config, folder, cache, images
        self.progress, self.processes = progress, processes
        self.product = folder.path / "checkpoints" / "edm.safetensors"

    def check(self) -> None:
        """Open every file that the run will need, before anything is computed.

        Raises:
            CheckpointError: if a checkpoint is missing, or of another kind.
            DataError: if a model or a file of synthetic images does not fit the data set.
        """
        config, info = self.config, self.images.info
        if config.needs_diffusion_model and config.diffusion_model is not None:
            denoiser = load_denoiser(config.diffusion_model, info)
            _check_classes(denoiser, config.diffusion_model, info, needed=self._condition_needed)
        if config.uses_synthetic and config.synthetic.paths:
            self._given_images()
        if config.uses_alignment and config.alignment.target != "edm":
            alignment_target(config.alignment, None, torch.device("meta"))

    def model(self) -> nn.Module:
        """The EDM network: the given one, that of the run's folder or of the cache, or trained now."""
        given = self.config.diffusion_model
        if given is None and not self.product.exists():
            self._make()
        if self.processes.main:
            state_path(self.folder, "edm").unlink(missing_ok=True)
        return rp_models.load(given or self.product, device=self.images.device)

    def synthetic_images(self, denoiser: nn.Module | None) -> Images:
        """The synthetic images: from the given files, or drawn from the EDM network, now or in another run.

        Of several processes the first one draws; `generate.py` makes large sets with all of them.
        """
        if self.config.synthetic.paths:
            return self._given_images()
        assert denoiser is not None, "TrainDra.needs_diffusion_model"
        product = self.folder.path / "synthetic.npz"
        if not product.exists():
            self.processes.wait()
            self.processes.rank_zero_first(lambda: self._draw(denoiser, product))
        return read_synthetic(product, self.images.info).load().to(self.images.device)

    def _given_images(self) -> Images:
        """The images of the given files, which stay there; batches come out on the run's device."""
        settings, info = self.config.synthetic, self.images.info
        images = read_synthetic(settings.paths, replace(info, image_size=settings.image_size or info.image_size))
        return images.to(self.images.device)

    @property
    def _condition_needed(self) -> bool:
        aligned = self.config.uses_alignment and self.config.alignment.label == "class"
        return aligned or (self.config.uses_synthetic and not self.config.synthetic.paths)

    def _make(self) -> None:
        """Train the network, or take what another run trained."""
        self.processes.wait()
        identity = self._identity()
        cached = self.cache / f"edm-{self._digest(identity)}.safetensors"
        if not cached.exists():
            with self.folder.timed("edm"):
                trainer = EdmTrainer(self.config.edm, self.images, seed=self.config.seed, processes=self.processes)
                train_stage(
                    trainer,
                    stage="edm",
                    steps=self.config.edm.steps,
                    folder=self.folder,
                    identity=identity,
                    seed=self.config.seed,
                    progress=self.progress,
                    log_every=20,
                    processes=self.processes,
                )
            self.processes.rank_zero_first(lambda: rp_models.save(trainer.average, cached, notes=identity))
        self.processes.rank_zero_first(
            lambda: rp_models.save(rp_models.load(cached), self.product, notes={**identity, "cached": cached.name})
        )

    def _draw(self, denoiser: nn.Module, product: Path) -> None:
        """Sample the images, or take those that another run sampled."""
        settings, info = self.config.synthetic, self.images.info
        identity = {**self._identity(), "synthetic": [settings.images, settings.steps, settings.batch_size]}
        cached = self.cache / f"synthetic-{self._digest(identity)}.npz"
        if not cached.exists():
            with self.folder.timed("synthetic"):
                self.progress.start("synthetic", settings.images, 0)
                labels = balanced_labels(settings.images, info.num_classes)
                images = generate(
                    denoiser,
                    labels,
                    channels=info.channels,
                    image_size=info.image_size,
                    steps=settings.steps,
                    seed=noise.derive_seed(self.config.seed, "synthetic"),
                    batch_size=settings.batch_size,
                    done=lambda count: self.progress.advance(count, {}),
                )
                self.progress.finish()
                write_synthetic(images, labels, cached)
        _link(cached, product)

    def _identity(self) -> dict[str, Any]:
        """What the diffusion model depends on."""
        if self.config.diffusion_model is not None:
            return {"weights": digest_of_weights(self.config.diffusion_model), "seed": self.config.seed}
        return {
            "data": self.config.data,
            "train": len(self.images),
            "seed": self.config.seed,
            "settings": asdict(self.config.edm),
        }

    def _digest(self, identity: dict[str, Any]) -> str:
        text = json.dumps(identity, sort_keys=True)
        return f"{self.images.info.name}-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


def alignment_target(
    settings: AlignmentSettings, denoiser: nn.Module | None, device: torch.device, *, synthetic: int = 0
) -> FrozenTarget:
    """The frozen features that a method aligns its classifier with.

    Args:
        settings: which features.
        denoiser: the run's EDM network, for `target="edm"`.
        device: where to compute; "meta" looks at files and sizes alone.
        synthetic: synthetic images that the method trains on; with many the second representation is on ("auto").

    Raises:
        CheckpointError: if a checkpoint is missing, or of another kind.
        DataError: if the parts do not fit each other.
    """
    second = settings.random_level == "yes" or (settings.random_level == "auto" and synthetic > MANY)
    if settings.target == "edm":
        assert denoiser is not None, "TrainDra.needs_diffusion_model"
        return EdmTarget(
            denoiser,
            sigma=settings.sigma,
            layer=settings.layer,
            label=settings.label,
            random_level=second,
            precision=settings.precision,
        )
    assert settings.checkpoint is not None, "AlignmentSettings"
    if settings.target == "encoder":
        encoder = load_encoder(settings.checkpoint, device="cpu" if device.type == "meta" else device)
        if not isinstance(encoder, NoisyClassifier):
            raise CheckpointError(f"{settings.checkpoint}: expected a NoisyClassifier, found {type(encoder).__name__}")
        return EncoderTarget(encoder, precision=settings.precision)
    if settings.target == "network":
        return ModuleTarget(_Features(_load(nn.Module, settings.checkpoint, device)), precision=settings.precision)
    return _lightningdit(settings, device, second)


class _Features(nn.Module):
    """The pooled features of a network that has them, otherwise its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forward: Callable[..., Any] = getattr(network, "forward_features", network)


def _lightningdit(settings: AlignmentSettings, device: torch.device, second: bool) -> LightningDitTarget:
    try:
        return LightningDitTarget(
            _load(LightningDiT, settings.checkpoint, device),
            _load(AutoencoderKL, settings.autoencoder, device),
            _load(LatentNormalization, settings.latent_statistics, device),
            t=settings.time,
            blocks=settings.blocks,
            zero_channels=settings.zero_channels,
            label=settings.label,
            random_level=second,
            precision=settings.precision,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise DataError(f"alignment: {error}") from error


def _load(kind: type[Network], name: str | None, device: torch.device) -> Network:
    assert name is not None, "AlignmentSettings"
    if device.type == "meta":
        header = read_header(name)
        with device:
            network = build_entry(header.architecture, **header.arguments)
    else:
        network = rp_models.load(name, device=device)
    if not isinstance(network, kind):
        raise CheckpointError(f"{name}: expected a {kind.__name__}, the checkpoint is a {type(network).__name__}")
    return network


def _check_classes(denoiser: nn.Module, name: str, info: DatasetInfo, *, needed: bool) -> None:
    """Refuse a diffusion model of another number of classes, or none where classes are asked for."""
    if not hasattr(denoiser, "features"):
        raise CheckpointError(f"--edm {name}: expected an EDM network, the checkpoint is a {type(denoiser).__name__}")
    classes = int(getattr(denoiser, "label_dim", 0))
    if classes != info.num_classes and (classes or needed):
        raise DataError(
            f"--edm {name} knows {classes or 'no'} classes, {info.name} has {info.num_classes}; give a diffusion model "
            "of this data set"
        )


def digest_of_weights(name: str) -> str:
    """A digest of a checkpoint's tensors, whatever the file is called."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in sorted(rp_models.load(name).state_dict().items()):
        digest.update(key.encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else str(value).encode())
    return digest.hexdigest()


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible; complete or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
