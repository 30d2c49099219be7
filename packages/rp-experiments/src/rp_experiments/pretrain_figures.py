"""Figures of a pre-training: its loss curve, reconstructions of held-out images, samples, mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rp_analysis.plots import Plot, plot_image_grid
from rp_analysis.plots.style import COLOURS, new_figure, style
from rp_models import noise
from rp_models.data import DatasetInfo, Images
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.sampling import conditional, generate
from rp_models.mask import Mask, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.transformer import patchify, unpatchify
from rp_purify.nim import NIMReconstruction, visible
from torch import Tensor, nn

COLUMNS = 10  # images in a row of a sheet
ROWS = 10  # rows of samples, where there are more classes
_SMOOTHING = 25  # logged losses that the thick line averages
_SIGMA = 0.3  # noise on the images that a MaskDiT reconstructs, in [-1, 1] units


def loss_curve(records: Sequence[Mapping[str, Any]]) -> Plot:
    """The training loss of `metrics.jsonl`, as it was and smoothed, with the held-out losses where there are some."""
    steps = [record["step"] for record in records]
    losses = [record["loss"] for record in records]
    judged = [record for record in records if "validation_loss" in record]
    with style():
        figure, (axes,) = new_figure(width=4.0, height=2.6)
        axes.plot(steps, losses, color=COLOURS[5], linewidth=0.5, label="training")
        width = max(1, min(_SMOOTHING, len(losses) // 4))
        smooth = torch.tensor(losses, dtype=torch.float64).unfold(0, width, 1).mean(dim=1).tolist()
        axes.plot(steps[width // 2 :][: len(smooth)], smooth, color=COLOURS[0], label=f"mean of {width} lines")
        if judged:
            held_out = [record["validation_loss"] for record in judged]
            axes.plot([record["step"] for record in judged], held_out, "s-", color=COLOURS[1], label="validation")
        if min(losses) > 0:
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend()
        rows = [{key: record.get(key) for key in ("step", "loss", "validation_loss")} for record in records]
        return Plot(figure, rows)


@torch.no_grad()
def mae_reconstructions(model: MaskedAutoencoder, images: Images, *, mask_rate: float, seed: int) -> Plot:
    """Images, what the encoder sees of them, and what the model makes of that."""
    x, _ = images.batch(slice(0, COLUMNS))
    mask, hidden = _masked(model.tokens, model.patch_size, x, mask_rate, seed)
    rows = {"original": x, "masked": x.masked_fill(hidden, torch.nan), "reconstruction": model.reconstruct(x, mask)}
    return plot_image_grid(rows, title=f"{images.info.name}, validation split, {mask_rate:.0%} hidden")


@torch.no_grad()
def denoised(model: MaskedAutoencoder, images: Images, *, std: float, seed: int) -> Plot:
    """Images, their noisy versions, and what the model makes of these."""
    x, _ = images.batch(slice(0, COLUMNS))
    index = torch.arange(len(x), device=x.device)
    noisy = x + std * noise.normal(x.shape[1:], seed=seed, purpose="sheet noise", index=index)
    rows = {
        "original": x,
        "noisy": noisy,
        "reconstruction": NIMReconstruction(model, std=std).reconstruct(x, noisy, visible(len(x), model.tokens, x)),
    }
    return plot_image_grid(rows, title=f"{images.info.name}, validation split, noise of std {std:.2g}")


@torch.no_grad()
def maskdit_reconstructions(model: MaskDiT, images: Images, *, mask_rate: float, seed: int) -> Plot:
    """Images, their noisy and masked versions, and what the model makes of these.

    Visible patches are shown denoised. Of masked ones the model predicts the standardised noisy patch; they are shown
    with the mean and deviation of the true noisy patch, hence see a little of what was hidden.
    """
    x, labels = images.batch(slice(0, COLUMNS))
    mask, hidden = _masked(model.tokens, model.patch_size, x, mask_rate, seed)
    index = torch.arange(len(x), device=x.device)
    unit = noise.normal(x.shape[1:], seed=seed, purpose="sheet noise", index=index)
    noisy = 2 * x - 1 + _SIGMA * unit
    denoised = model(noisy, _SIGMA, labels if model.num_classes else None, mask=mask)
    patches = patchify(noisy, model.patch_size)
    mean, deviation = patches.mean(dim=-1, keepdim=True), (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    predicted = unpatchify(patchify(denoised, model.patch_size) * deviation + mean, model.patch_size)
    shown = (noisy + 1) / 2
    rows = {
        "original": x,
        "noisy": shown,
        "masked": shown.masked_fill(hidden, torch.nan),
        "reconstruction": (torch.where(hidden, predicted, denoised) + 1) / 2,
    }
    title = f"{images.info.name}, validation split, {mask_rate:.0%} hidden, noise of std {_SIGMA}"
    return plot_image_grid(rows, title=title)


def samples(model: nn.Module, info: DatasetInfo, *, steps: int, seed: int) -> Plot:
    """Samples of the first ten classes, a class a row; of an unconditional model as many rows."""
    classes = min(info.num_classes, ROWS)
    labels = torch.arange(classes).repeat_interleave(COLUMNS)
    images = generate(
        model,
        labels if conditional(model) else None,
        count=len(labels),
        channels=info.channels,
        image_size=info.image_size,
        steps=steps,
        seed=noise.derive_seed(seed, "sheet"),
        batch_size=100,
    )
    rows = (images / 255).split(COLUMNS)
    names = info.class_names[:classes] if conditional(model) else [f"{n + 1}" for n in range(classes)]
    return plot_image_grid(dict(zip(names, rows, strict=True)), title=f"samples, {info.name}")


@torch.no_grad()
def mistakes(model: nn.Module, images: Images) -> Plot:
    """The first held-out images that a classifier gets wrong, under the class that it sees; any, if there are none."""
    x, labels = images.batch(slice(0, 1000))
    seen = model(x).argmax(dim=1)
    wrong = (seen != labels).nonzero().flatten()[:COLUMNS]
    shown = wrong if len(wrong) else torch.arange(min(COLUMNS, len(x)))
    names = [images.info.class_names[int(label)] for label in seen[shown]]
    title = f"{images.info.name}, validation split, seen as"
    return plot_image_grid({"mistakes" if len(wrong) else "all right": x[shown]}, title=title, columns=names)


def _masked(tokens: int, patch_size: int, x: Tensor, mask_rate: float, seed: int) -> tuple[Mask, Tensor]:
    """A mask for each image, and the pixels (b, c, h, w) that it hides."""
    index = torch.arange(len(x), device=x.device)
    mask = random_mask(noise.uniform((tokens,), seed=seed, purpose="sheet", index=index), mask_rate)
    size = patch_size**2 * x.shape[1]
    return mask, unpatchify(mask.mask[:, :, None].expand(-1, -1, size), patch_size) > 0
