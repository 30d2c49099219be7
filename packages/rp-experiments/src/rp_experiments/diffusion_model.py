"""What `train_dra.py` takes from a diffusion model: the EDM network, and the synthetic images drawn from it.

What other runs made is taken from the cache: a diffusion model and its images depend on few of a run's settings.
"""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_dra.targets.build import alignment_target
from rp_models import noise
from rp_models.checkpoint import CheckpointError
from rp_models.data import DatasetInfo, Images, open_synthetic, read_synthetic, write_synthetic
from rp_models.data.datasets import DataError
from rp_models.diffusion.sampler_settings import HeunSettings
from rp_models.diffusion.samplers import HeunSampler
from rp_models.diffusion.sampling import balanced_labels, sample_images
from rp_models.files import link_file
from rp_models.loading import load_denoiser, load_network
from rp_models.shards import ShardPlan
from rp_models.training import state_path
from torch import nn

from rp_experiments import alignment_networks
from rp_experiments.content import address, digest
from rp_experiments.estimate import fitted
from rp_experiments.networks import held
from rp_experiments.pretrain import LOG_EVERY
from rp_experiments.pretrain_kinds import trainer_of
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.pretrain_settings import PretrainEdm
from rp_experiments.run import Run

PART = 10_000  # synthetic images that one process makes at a time


class Diffusion:
    """The diffusion model of one run, and what comes from it."""

    def __init__(self, config: TrainDra, run: Run, images: Images) -> None:
        self.config, self.run, self.images = config, run, images

    def check(self) -> None:
        """Open every file that the run will need, before anything is computed."""
        config, info = self.config, self.images.info
        if config.needs_diffusion_model and config.diffusion_model is not None:
            denoiser = load_denoiser(config.diffusion_model, info)
            _check_classes(denoiser, config.diffusion_model, info, needed=self._condition_needed)
        if config.uses_synthetic and config.synthetic.paths:
            self._given_images()
        alignment_networks.check(config)
        if (
            config.uses_alignment
            and config.alignment.target not in ("edm", "untrained-edm")
            and not config.makes_target
        ):
            target = alignment_target(config.alignment, None, torch.device("meta"), info=info)
            target.width(info.channels, info.image_size)  # one pass: whether it takes such images

    def model(self) -> nn.Module:
        """The EDM network: the given one, that of the run's folder or of the cache, or trained now."""
        if self.config.diffusion_model is None:
            self.run.once("checkpoints/edm.safetensors", self._make, together=True, stage="")
        if self.run.main:
            state_path(self.run.folder, "edm").unlink(missing_ok=True)
        return self.load()

    def load(self) -> nn.Module:
        """The EDM network of a run that has made it."""
        name = self.config.diffusion_model or str(self.run.path / "checkpoints" / "edm.safetensors")
        return load_network(name).to(self.run.device)

    def synthetic_images(self, denoiser: nn.Module | None) -> Images:
        """The synthetic images: from the given files, or drawn from the EDM network, now or in another run."""
        if self.config.synthetic.paths:
            return self._given_images()
        assert denoiser is not None, "TrainDra.needs_diffusion_model"
        product = self.run.once("synthetic.npz", lambda: self._draw(denoiser), together=True, stage="")
        return read_synthetic(product, self.images.info).load().to(self.run.device)

    def _given_images(self) -> Images:
        """The images of the given files, which stay there; batches come out on the run's device."""
        settings, info = self.config.synthetic, self.images.info
        images = open_synthetic(settings.paths, replace(info, image_size=settings.image_size or info.image_size))
        return images.to(self.run.device)

    @property
    def _condition_needed(self) -> bool:
        aligned = self.config.uses_alignment and self.config.alignment.label == "class"
        return aligned or (self.config.uses_synthetic and not self.config.synthetic.paths)

    def _make(self) -> None:
        """Train the network, or take what another run trained."""
        run, identity = self.run, self._identity()
        cached = run.cache / f"edm-{self._name(identity)}.safetensors"
        if not run.everywhere(cached.exists):
            with held(cached.with_suffix("")) if run.main else nullcontext():  # runs side by side train it once
                self._train(cached, identity)
        product, notes = run.path / "checkpoints" / "edm.safetensors", {**identity, "cached": cached.name}
        run.first(lambda: rp_models.save(rp_models.load(cached), product, notes=notes))

    def _train(self, cached: Path, identity: dict[str, Any]) -> None:
        """Train the network, unless another run did so while this one waited."""
        run, config = self.run, self.config
        if not run.everywhere(cached.exists):
            settings = fitted.pretraining(PretrainEdm(data=config.data, seed=config.seed, edm=config.edm), run, "edm")
            trainer = trainer_of(settings, self.images, run)
            options: dict[str, Any] = {"identity": identity, "log_every": LOG_EVERY}
            run.train(trainer, stage="edm", steps=config.edm.steps, seed=config.seed, **options)
            run.first(lambda: rp_models.save(trainer.average, cached, notes=identity))

    def _draw(self, denoiser: nn.Module) -> None:
        """Sample the images, or take those that another run sampled."""
        settings, run = self.config.synthetic, self.run
        identity = {**self._identity(), "synthetic": [settings.images, settings.steps, settings.batch_size]}
        cached = run.cache / f"synthetic-{self._name(identity)}.npz"
        if not run.everywhere(cached.exists):
            with held(cached.with_suffix("")) if run.main else nullcontext():  # runs side by side draw them once
                if not run.everywhere(cached.exists):
                    self._sample(denoiser, cached)
        run.first(lambda: link_file(cached, run.path / "synthetic.npz"))

    def _sample(self, denoiser: nn.Module, cached: Path) -> None:
        """Sample the images in parts, which processes share and a run that was killed finds again."""
        settings, info, run = self.config.synthetic, self.images.info, self.run
        labels = balanced_labels(settings.images, info.num_classes)
        shape = (info.channels, info.image_size, info.image_size)
        sampler = HeunSampler(denoiser, shape, settings=HeunSettings(steps=settings.steps))
        plan = ShardPlan.of_batches(settings.images, PART, settings.batch_size, cached.with_suffix(""), "part")
        seed, done = noise.derive_seed(self.config.seed, "synthetic"), 0
        with run.timed("synthetic"):
            run.progress.start("synthetic", settings.images // run.processes.count)
            for number in run.share(range(len(plan))):
                rows = plan.numbers(number)
                if not plan.path(number).exists():
                    own = labels[rows.start : rows.stop]
                    images = sample_images(
                        sampler,
                        rows,
                        own,
                        seed=seed,
                        batch_size=settings.batch_size,
                        device=run.device,
                        done=lambda images, before=done: run.progress.advance(before + images),  # type: ignore[misc]
                    )
                    write_synthetic(images, own, plan.path(number))
                done += len(rows)
            run.progress.finish()
            run.first(lambda: _join(plan, info, cached))

    def _identity(self) -> dict[str, Any]:
        """What the diffusion model depends on."""
        config = self.config
        if config.diffusion_model is not None:
            return {"weights": digest(load_network(config.diffusion_model)), "seed": config.seed}
        return {
            "data": config.data,
            "train": len(self.images),
            "seed": config.seed,
            "settings": asdict(config.edm),
        }

    def _name(self, identity: dict[str, Any]) -> str:
        return f"{self.images.info.name}-{address(identity)}"


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


def _join(plan: ShardPlan, info: DatasetInfo, target: Path) -> None:
    """Put the parts of a set into one file, and remove them."""
    whole = read_synthetic(plan.paths, info)
    write_synthetic(whole.images, whole.labels, target)
    for part in plan.paths:
        part.unlink()
