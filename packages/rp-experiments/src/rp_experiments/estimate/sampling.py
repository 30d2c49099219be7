"""What sampling from a diffusion model takes."""

import gc
from dataclasses import replace
from typing import Any

import torch
from rp_models.data import DatasetInfo
from rp_models.diffusion.sampler_settings import FlowSettings, HeunSettings
from rp_models.diffusion.samplers import FlowSampler, HeunSampler
from torch import nn

from rp_experiments.estimate.counting import counted, faked, weights
from rp_experiments.estimate.stages import Stage

FEW = 2  # images whose operations are counted
_LENGTHS = (2, 3)  # sampler steps that are counted; each further one takes the same


def sampling_stage(sampler: HeunSampler | FlowSampler, *, images: int, batch: int, precision: str) -> Stage:
    """So many images of a sampler, whose networks have no values afterwards."""
    modules = _networks(sampler)
    whole = sampler.settings.steps if isinstance(sampler, HeunSampler) else sampler.settings.points
    flop, memory = [], 0.0
    with faked(modules):
        for length in _LENGTHS:
            flop.append(_run(_of_length(sampler, length), FEW, precision).total / FEW)
        memory = _run(_of_length(sampler, _LENGTHS[0]), batch, precision).peak + weights(modules)
    gc.collect()
    each = flop[0] + (whole - _LENGTHS[0]) * (flop[1] - flop[0])
    values = 1
    for side in sampler.image_shape:
        values *= side
    return Stage(
        name="synthetic images", flop=images * each, memory=memory, precision=precision, batch=batch,
        disk=images * (values + 8), note=f"{images:,} images, {whole} steps",
    )  # fmt: skip


def heun_stage(denoiser: nn.Module, info: DatasetInfo, *, images: int, steps: int, batch: int) -> Stage:
    """Images of a class-conditional EDM network."""
    shape = (info.channels, info.image_size, info.image_size)
    sampler = HeunSampler(denoiser.eval(), shape, info.num_classes, HeunSettings(steps=steps))
    return sampling_stage(sampler, images=images, batch=batch, precision="fp32")


def _networks(sampler: Any) -> list[nn.Module]:
    network = sampler.denoiser if isinstance(sampler, HeunSampler) else sampler.model
    return [network.eval(), *([] if sampler.decoder is None else [sampler.decoder.eval()])]


def _of_length(sampler: Any, length: int) -> Any:
    settings: HeunSettings | FlowSettings = sampler.settings
    name = "steps" if isinstance(settings, HeunSettings) else "points"
    return replace(sampler, settings=replace(settings, **{name: length}))  # type: ignore[arg-type]


def _run(sampler: Any, count: int, precision: str) -> Any:
    index = torch.arange(count)
    labels = torch.zeros(count, dtype=torch.int64) if sampler.num_classes else None
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return counted(lambda: sampler(index, labels, seed=0))
