"""Which weights and files the products of an item take, and where they come from; importing this imports no torch."""

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rp_experiments.artifacts import Product, in_order
from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES
from rp_experiments.recipes.dra_settings import TrainDra

Source = Literal["shipped", "made", "downloaded", "at hand", "missing"]
_SHIPPED = Path(__file__).parents[5] / "weights"  # of this repository


def ingredients(products: list[Product]) -> dict[str, Source]:
    """By name every network and file that these products and their needs take, and where it comes from.

    "shipped" comes with this code; "made" is trained by the scale itself; "downloaded" is fetched by timm; what was
    given is "at hand", and "missing" has to be given: a checkpoint after `convert.py`, or a set of images.
    """
    found: dict[str, Source] = {}
    for product in in_order(products):
        found |= dict(_of(product))
    return found


def _of(product: Product) -> Iterator[tuple[str, Source]]:
    """What one product takes beyond the data set and beyond other products."""
    config = product.config
    if product.job == "train_dra":
        yield from _of_run(config)
    elif product.job == "sweep":
        yield from _of_run(DRA_RECIPES[config.base]())
    elif product.job == "probe":
        yield from _of_run(config.models)
    elif product.job == "networks":
        for role in config.roles:
            name = getattr(config.comparison, role, "")
            yield (name, _source(name)) if name else (role, "made")
    elif product.job == "attacks":
        yield from ((f"{name} classifier", "made") for name in config.classifiers)


def _of_run(config: TrainDra) -> Iterator[tuple[str, Source]]:
    """What a run of `train_dra.py` starts from."""
    if config.needs_diffusion_model:
        name = config.diffusion_model
        yield (name, _source(name)) if name else ("diffusion model", "made")
    alignment = config.alignment
    if config.uses_alignment and alignment.target == "lightningdit":
        for name in (alignment.checkpoint, alignment.autoencoder, alignment.latent_statistics):
            if name:
                yield name, _source(name)
    if config.classifier.pretrained:
        network = str(config.classifier.arguments.get("model", config.classifier.network))
        yield network, "downloaded" if config.classifier.pretrained == "timm" else _source(config.classifier.pretrained)
    if config.uses_synthetic:
        yield from ((path, _source(path)) for path in config.synthetic.paths)


def _source(name: str) -> Source:
    """Where a named checkpoint or file is."""
    file = f"{name}.safetensors"
    if (files("rp_models") / "weights" / file).is_file() or (_SHIPPED / file).is_file():
        return "shipped"
    asked = [Path(folder) for folder in os.environ.get("RP_WEIGHTS", "").split(os.pathsep) if folder]
    here = Path(name).exists() or any((folder / file).is_file() for folder in (Path("weights"), *asked))
    return "at hand" if here else "missing"
