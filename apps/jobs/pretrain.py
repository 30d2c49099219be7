"""The work of `pretrain.py`: train, judge on the validation split, draw a sheet."""

from dataclasses import asdict
from pathlib import Path

import rp_models
import torch
from recipes.pretrain import PretrainEdm, PretrainMae, PretrainMaskDit
from rp_analysis import Plot, plot_image_grid
from rp_models import noise
from rp_models.checkpoint import read_header
from rp_models.data import ImageSet, load_images
from rp_models.data.datasets import DataError
from rp_models.edm.loss import EDMLoss
from rp_models.mae import MaskedAutoencoder
from rp_models.mask import random_mask
from rp_models.maskdit import MaskDiT
from rp_models.sampling import conditional, generate
from rp_models.settings import EdmSettings, MaeSettings, MaskDitSettings
from rp_models.training import (
    EdmTrainer,
    MaeTrainer,
    MaskDitTrainer,
    ProgressBar,
    RunFolder,
    build_mae,
    mae_loss,
    maskdit_held_out,
    state_path,
    train_stage,
)
from rp_models.transformer import unpatchify
from torch import Tensor, nn

from jobs.device import choose_device

Config = PretrainMae | PretrainEdm | PretrainMaskDit
COLUMNS = 10  # images in a row of the sheet
DRAWS = 16  # noise levels per validation image, for EDM's loss


def pretrain(config: Config, out: Path, *, resume: bool, device: str) -> None:
    """Train the model, and leave `checkpoints/model.safetensors`, `result.json` and a sheet in the folder.

    Raises:
        RunError: if the folder cannot be used.
        DataError: if the network does not fit the data set, or there is no such device.
        Interrupted: if the loss stops being a number.
    """
    where = choose_device(device)
    train, validation = (load_images(config.data, split).to(where) for split in ("train", "validation"))
    if isinstance(config, PretrainMae):
        _check_network(config, train)
    folder = RunFolder.open(out, asdict(config), resume=resume)
    product = folder.path / "checkpoints" / "model.safetensors"
    if not product.exists():
        model = _trained(config, train, folder).eval()
        if config.half:
            model = model.half().float()  # what the file will hold
        loss = _held_out_loss(config, model, validation)
        notes = {**_notes(config), "validation_loss": round(loss, 5)}
        rp_models.save(model, product, notes=notes, dtype=torch.float16 if config.half else None)
    state_path(folder, "train").unlink(missing_ok=True)
    model = rp_models.load(product, device=where)
    notes = read_header(product).notes
    _sheet(config, model, validation).save(folder.path / "figures" / "samples", formats=("png",))
    folder.write_json(
        "result.json",
        {
            "validation_loss": notes["validation_loss"],
            "validation_images": len(validation),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "seconds": folder.seconds(),
            "config": asdict(config),
            "environment": folder.read_json("environment.json"),
        },
    )
    print(f"loss on {len(validation)} validation images: {notes['validation_loss']}")
    print(f'checkpoint: {product}; load it with rp_models.load("{product}")')
    print(f"samples: {folder.path / 'figures' / 'samples.png'}")


@torch.no_grad()
def _check_network(config: PretrainMae, images: ImageSet) -> None:
    """Try the network on one image, before anything is written."""
    try:
        model = build_mae(config.mae)
        x = images.batch(slice(0, 1))[0].cpu()
        model.loss(x, random_mask(torch.zeros(1, model.tokens), config.mae.mask_rate))
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"mae.network {config.mae.network!r} does not suit {config.data}: {reason}") from error


def _trained(config: Config, train: ImageSet, folder: RunFolder) -> nn.Module:
    """The trained network; of EDM the average, which is what one uses."""
    trainer: MaeTrainer | EdmTrainer | MaskDitTrainer
    if isinstance(config, PretrainMae):
        trainer = MaeTrainer(config.mae, train, seed=config.seed)
    elif isinstance(config, PretrainMaskDit):
        trainer = MaskDitTrainer(config.maskdit, train, seed=config.seed)
    else:
        trainer = EdmTrainer(config.edm, train, seed=config.seed)
    with folder.timed("train"):
        train_stage(
            trainer,
            stage="train",
            steps=trainer.settings.steps,
            folder=folder,
            identity={"config": asdict(config)},
            seed=config.seed,
            progress=ProgressBar(),
            log_every=20,
        )
    return trainer.model if isinstance(trainer, MaeTrainer) else trainer.average


def _notes(config: Config) -> dict[str, object]:
    """What the checkpoint's header says of its training."""
    settings = _settings(config)
    notes = {
        "data": config.data,
        "split": "train",
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "lr": settings.lr,
        "seed": config.seed,
    }
    return {**notes, "mask_rate": settings.mask_rate} if not isinstance(settings, EdmSettings) else notes


def _settings(config: Config) -> MaeSettings | EdmSettings | MaskDitSettings:
    """The settings of the network and its training."""
    if isinstance(config, PretrainMae):
        return config.mae
    return config.maskdit if isinstance(config, PretrainMaskDit) else config.edm


def _held_out_loss(config: Config, model: nn.Module, images: ImageSet) -> float:
    """The model's own training loss on the validation images, a mean over values."""
    if isinstance(config, PretrainMae):
        assert isinstance(model, MaskedAutoencoder)
        return mae_loss(model, images, mask_rate=config.mae.mask_rate, seed=config.seed)
    if isinstance(config, PretrainMaskDit):
        assert isinstance(model, MaskDiT)
        rate, weight = config.maskdit.mask_rate, config.maskdit.mae_weight
        return maskdit_held_out(model, images, mask_rate=rate, mae_weight=weight, seed=config.seed)
    return _edm_loss(model, images, seed=config.seed)


@torch.no_grad()
def _edm_loss(model: nn.Module, images: ImageSet, *, seed: int) -> float:
    """EDM's loss of each image at several noise levels, a mean over values, levels and images."""
    loss, total = EDMLoss(), 0.0
    x, labels = images.batch(slice(None))
    for draw in range(DRAWS):
        index = torch.arange(len(x), device=x.device)
        rnd, unit = loss.draw(x.shape[1:], seed=noise.derive_seed(seed, "validation", draw), index=index)
        total += float(loss(model, 2 * x - 1, labels if conditional(model) else None, rnd=rnd, noise=unit).mean())
    return total / DRAWS


def _sheet(config: Config, model: nn.Module, validation: ImageSet) -> Plot:
    """What the model makes: reconstructions of held-out images, or samples of each class."""
    if isinstance(config, PretrainMae):
        assert isinstance(model, MaskedAutoencoder)
        x, _ = validation.batch(slice(0, COLUMNS))
        return _reconstructions(model, x, config)
    info = validation.info
    labels = torch.arange(info.num_classes).repeat_interleave(COLUMNS)
    images = generate(
        model,
        labels if conditional(model) else None,
        count=len(labels),
        channels=info.channels,
        image_size=info.image_size,
        steps=config.sampler_steps,
        seed=noise.derive_seed(config.seed, "sheet"),
        batch_size=100,
    )
    rows = (images / 255).split(COLUMNS)
    names = info.class_names if conditional(model) else [f"{n + 1}" for n in range(info.num_classes)]
    return plot_image_grid(dict(zip(names, rows, strict=True)), title=f"samples, {config.data}")


@torch.no_grad()
def _reconstructions(model: MaskedAutoencoder, x: Tensor, config: PretrainMae) -> Plot:
    """Images, what the encoder sees of them, and what the model makes of that."""
    index = torch.arange(len(x), device=x.device)
    values = noise.uniform((model.tokens,), seed=config.seed, purpose="sheet", index=index)
    mask = random_mask(values, config.mae.mask_rate)
    size = model.patch_size**2 * x.shape[1]
    hidden = unpatchify(mask.mask[:, :, None].expand(-1, -1, size), model.patch_size) > 0
    rows = {"original": x, "masked": x.masked_fill(hidden, torch.nan), "reconstruction": model.reconstruct(x, mask)}
    return plot_image_grid(rows, title=f"{config.data}, validation split, {config.mae.mask_rate:.0%} hidden")
