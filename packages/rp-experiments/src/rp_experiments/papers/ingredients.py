"""What products start from beyond each other: data sets, networks and files, and where these come from.

Importing this does not import torch.
"""

import os
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from rp_dra.alignment_settings import LATENT
from rp_models.robustbench.entries import PREFIX, entries, is_spec, resolve
from rp_models.robustbench.places import files_at_hand

from rp_experiments.artifacts import Artifact, data_sets, in_order
from rp_experiments.papers.given import ALIGNMENT_ROLES
from rp_experiments.recipes.analysis import ZooComparison
from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES
from rp_experiments.recipes.dra import TrainDra

Source = Literal["shipped", "made", "downloaded", "at hand", "missing"]
_SHIPPED = Path(__file__).parents[5] / "weights"  # of this repository
_WEIGHTS = "put {name}.safetensors into weights/ or a folder of RP_WEIGHTS"
_WAYS = {  # by role: where a missing one comes from
    "edm": "the official EDM network after `convert.py nvlabs`",
    "mae": "the official network after `convert.py mae`",
    "maskdit": "the official network after `convert.py maskdit`",
    "classifier": "a classifier's checkpoint; of DM-AT or RobustBench after `convert.py robust`",
    "lightningdit": "the official network after `convert.py lightningdit`",
    "autoencoder": "the official VA-VAE after `convert.py vae`",
    "latent-statistics": "the official file after `convert.py latent-statistics`",
    "synthetic": "synthetic images: a released set, or one by `generate.py`",
}


class Ingredient(NamedTuple):
    """A network or a file that a product starts from."""

    name: str
    source: Source
    role: str = ""  # in which `--weights` takes another one; "" if it cannot
    data: str = ""

    @property
    def advice(self) -> str:
        """What it is, and where to put it."""
        if is_spec(self.name):
            place = "put it into RobustBench's folder of models, DATASET/THREAT/NAME.pt, which RP_ROBUSTBENCH names"
        elif self.role == "synthetic":
            place = "put it there"
        elif self.name.endswith((".safetensors", ".pt", ".npz")):
            place = "put it into the folder of the call"
        else:
            place = _WEIGHTS.format(name=self.name)
        named = self.role and self.role != "synthetic"  # of which a data set has several
        other = f", or name it by --weights {self.data}/{self.role}=FILE" if named else ""
        return f"{self.name}: {_WAYS.get(self.role, 'a checkpoint')}; {place}{other}"


def data_of(needed: Iterable[Artifact]) -> list[str]:
    """The data sets that artifacts read."""
    found = (
        [DRA_RECIPES[artifact.config.base]().data] if artifact.job == "sweep" else data_sets(artifact)
        for artifact in needed
    )
    return list(dict.fromkeys(data for several in found for data in several))


def missing_files(artifacts: Iterable[Artifact], root: Path | None) -> list[str]:
    """What has to be at hand before artifacts and their needs can be made, and is not: what to put where."""
    from rp_models.data import open_images
    from rp_models.data.datasets import DataError

    needed = in_order(artifacts)
    absent = {one.name: one.advice for one in ingredients(needed) if one.source == "missing"}
    problems = [absent[name] for name in sorted(absent)]
    for data in data_of(needed):
        try:
            for split in ("train", "test"):
                open_images(data, split, root=root)
        except DataError as error:
            problems.append(str(error))
    return problems


def ingredients(artifacts: Iterable[Artifact]) -> list[Ingredient]:
    """Every network and file that these artifacts and their needs take, each once, and where it comes from.

    "shipped" comes with this code; "made" is trained by the scale itself; "downloaded" is fetched by timm; what was
    given is "at hand", and "missing" has to be given: a checkpoint after `convert.py`, or a set of images.
    """
    found = (one for artifact in in_order(artifacts) for one in _of(artifact))
    return list({one.name: one for one in found}.values())


def _of(artifact: Artifact) -> Iterator[Ingredient]:
    """What one artifact takes beyond the data set and beyond other artifacts."""
    config = artifact.config
    if artifact.job == "train_dra":
        yield from _of_run(config)
    elif artifact.job == "sweep":
        yield from _of_run(DRA_RECIPES[config.base]())
    elif artifact.job == "probe":
        yield from _of_run(config.models)
    elif artifact.job == "evaluate":
        yield _given(config.model, "", config.data)
    elif artifact.job == "zoo":
        yield _given(str(config.models.edm), "edm", config.models.data)
        yield from _of_zoo(config.models)
    elif artifact.job == "networks":
        for role in config.roles:
            name = getattr(config.comparison, role, "")
            yield _given(name, role, config.comparison.data) if name else Ingredient(role, "made")
    elif artifact.job == "attacks":
        yield from (Ingredient(f"{name} classifier", "made") for name in config.classifiers)


def _of_zoo(models: ZooComparison) -> Iterator[Ingredient]:
    """The entries of RobustBench; of `all` those that are there, and no less than one."""
    wanted = [entry for entry in entries() if (entry.dataset, entry.threat) == (models.data, models.threat)]
    if models.models == ("all",):
        there = any(files_at_hand(entry) for entry in wanted)
        name = f"{PREFIX}{models.data}/{models.threat}/*"
        yield Ingredient(name, "at hand" if there else "missing", "", models.data)
    else:
        yield from (_given(entry.spec, "", models.data) for entry in models.named())


def _of_run(config: TrainDra) -> Iterator[Ingredient]:
    """What a run of `train_dra.py` starts from."""
    data, alignment = config.data, config.alignment
    if config.needs_diffusion_model:
        name = config.diffusion_model
        yield _given(name, "edm", data) if name else Ingredient("diffusion model", "made")
    if config.uses_alignment and alignment.target in LATENT:
        for role, field in ALIGNMENT_ROLES.items():
            if name := getattr(alignment, field):
                yield _given(name, role, data)
    if given := config.classifier.pretrained:
        network = str(config.classifier.arguments.get("model", config.classifier.network))
        yield Ingredient(network, "downloaded") if given == "timm" else _given(given, "", data)
    if config.uses_synthetic:
        yield from (_given(path, "synthetic", data) for path in config.synthetic.paths)


def _given(name: str, role: str, data: str) -> Ingredient:
    return Ingredient(name, _source(name, data), role, data)


def _source(name: str, data: str) -> Source:
    """Where a named checkpoint or file, or a pattern of files, is."""
    if is_spec(name):
        return "at hand" if files_at_hand(resolve(name, data)) else "missing"
    file = f"{name}.safetensors"
    if (files("rp_models") / "weights" / file).is_file() or (_SHIPPED / file).is_file():
        return "shipped"
    asked = [Path(folder) for folder in os.environ.get("RP_WEIGHTS", "").split(os.pathsep) if folder]
    path = Path(name)
    here = (
        path.exists()
        or any(path.parent.glob(path.name))
        or any((folder / file).is_file() for folder in (Path("weights"), *asked))
    )
    return "at hand" if here else "missing"
