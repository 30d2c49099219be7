"""What `reproduce.py list` says of the items: state, minutes, data, and where their weights come from."""

import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rp_dra.alignment_settings import LATENT
from rp_models.robustbench.entries import entries, is_spec, resolve
from rp_models.robustbench.places import files_at_hand

from rp_experiments import tables
from rp_experiments.artifacts import Artifact, Store, in_order
from rp_experiments.papers.item import Item, data_sets
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.plan import Plan
from rp_experiments.recipes.analysis import ZooComparison
from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES
from rp_experiments.recipes.dra import TrainDra

Source = Literal["shipped", "made", "downloaded", "at hand", "missing"]
_SHIPPED = Path(__file__).parents[5] / "weights"  # of this repository


def chosen(names: tuple[str, ...]) -> list[Item]:
    """The items of these names, in the papers' order; ValueError for an unknown name, or none."""
    if names == ("all",):
        return list(ITEMS.values())
    unknown = [name for name in names if name not in ITEMS]
    if unknown or not names:
        raise ValueError(f"no item {' '.join(unknown)}; `reproduce.py list` names them all".replace(" ;", ";"))
    return [item for key, item in ITEMS.items() if key in names]


def listing(plan: Plan, store: Store) -> str:
    """One line an item: whether it is made at this scale, minutes of one core, data, what it is about, its weights."""
    rows: list[tables.Row] = []
    missing: set[str] = set()
    for item in ITEMS.values():
        needed, minutes = item.needed(plan), item.minutes(plan)
        weights = ingredients(needed)
        missing |= {name for name, source in weights.items() if source == "missing"}
        about = f"{item.title}; {_by_source(weights)}" if weights else item.title
        row = {"item": item.key, "status": _status(needed, store), "minutes": round(minutes) if minutes else None}
        rows.append({**row, "data": ", ".join(data_of(needed)), "about; weights": about})
    total = sum(one.minutes for one in in_order(one for item in ITEMS.values() for one in item.needed(plan)))
    lines = [tables.text(rows), ""]
    lines.append(f"scale {plan.scale}, folder {store.path}; minutes on one core of everything that an item needs;")
    lines.append(f"items share most of it: all together about {total:.0f}" if total else "unknown at this scale")
    if missing:
        lines.append("not here, and to be given (checkpoints after convert.py, sets of synthetic images):")
        lines += [f"  {name}" for name in sorted(missing)]
    return "\n".join(lines)


def data_of(needed: Iterable[Artifact]) -> list[str]:
    """The data sets that artifacts read."""
    found = (
        [DRA_RECIPES[artifact.config.base]().data] if artifact.job == "sweep" else data_sets(artifact)
        for artifact in needed
    )
    return list(dict.fromkeys(data for several in found for data in several))


def check_files(items: Iterable[Item], plan: Plan, root: Path | None) -> None:
    """Look for the data sets and the weights of items; DataError names all that are not at hand."""
    from rp_models.data import open_images
    from rp_models.data.datasets import DataError

    needed = [artifact for item in items for artifact in item.needed(plan)]
    absent = [name for name, source in ingredients(needed).items() if source == "missing"]
    problems = [f"{name}: {_where_to(name)}" for name in sorted(set(absent))]
    for data in data_of(needed):
        try:
            open_images(data, "test", root=root)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("nothing is started; missing are\n  " + "\n  ".join(problems))


def _where_to(name: str) -> str:
    """What to do about a file that is missing."""
    if is_spec(name) or name.startswith("RobustBench"):
        return "put it into RobustBench's folder of models, DATASET/THREAT/NAME.pt, which RP_ROBUSTBENCH names"
    return f"give it by --weights, or put {name}.safetensors into weights/"


def ingredients(artifacts: Iterable[Artifact]) -> dict[str, Source]:
    """By name every network and file that these artifacts and their needs take, and where it comes from.

    "shipped" comes with this code; "made" is trained by the scale itself; "downloaded" is fetched by timm; what was
    given is "at hand", and "missing" has to be given: a checkpoint after `convert.py`, or a set of images.
    """
    return {name: source for artifact in in_order(artifacts) for name, source in _of(artifact)}


def _status(needed: list[Artifact], store: Store) -> str:
    there = sum(store.has(artifact) for artifact in needed)
    if 0 < there < len(needed):
        return f"{there} of {len(needed)} made"
    return "not at this scale" if not needed else "done" if there else "to do"


def _by_source(weights: Mapping[str, str]) -> str:
    """`shipped: mae-digits; made: classifier, edm`."""
    sources: dict[str, list[str]] = {}
    for name, source in weights.items():
        sources.setdefault(source, []).append(name)
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in sources.items())


def _of(artifact: Artifact) -> Iterator[tuple[str, Source]]:
    """What one artifact takes beyond the data set and beyond other artifacts."""
    config = artifact.config
    if artifact.job == "train_dra":
        yield from _of_run(config)
    elif artifact.job == "sweep":
        yield from _of_run(DRA_RECIPES[config.base]())
    elif artifact.job == "probe":
        yield from _of_run(config.models)
    elif artifact.job == "evaluate":
        yield config.model, _source(config.model)
    elif artifact.job == "zoo":
        yield str(config.models.edm), _source(str(config.models.edm))
        yield from _of_zoo(config.models)
    elif artifact.job == "networks":
        for role in config.roles:
            name = getattr(config.comparison, role, "")
            yield (name, _source(name)) if name else (role, "made")
    elif artifact.job == "attacks":
        yield from ((f"{name} classifier", "made") for name in config.classifiers)


def _of_zoo(models: ZooComparison) -> Iterator[tuple[str, Source]]:
    """The entries of RobustBench; of `all` those that are there, and no less than one."""
    wanted = [e for e in entries() if (e.dataset, e.threat) == (models.data, models.threat)]
    if models.models == ("all",):
        there = any(files_at_hand(entry) for entry in wanted)
        yield f"RobustBench's {models.data} {models.threat} models", "at hand" if there else "missing"
    else:
        yield from ((entry.spec, _source(entry.spec)) for entry in models.named())


def _of_run(config: TrainDra) -> Iterator[tuple[str, Source]]:
    """What a run of `train_dra.py` starts from."""
    if config.needs_diffusion_model:
        name = config.diffusion_model
        yield (name, _source(name)) if name else ("diffusion model", "made")
    alignment = config.alignment
    if config.uses_alignment and alignment.target in LATENT:
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
    if is_spec(name):
        return "at hand" if files_at_hand(resolve(name)) else "missing"
    file = f"{name}.safetensors"
    if (files("rp_models") / "weights" / file).is_file() or (_SHIPPED / file).is_file():
        return "shipped"
    asked = [Path(folder) for folder in os.environ.get("RP_WEIGHTS", "").split(os.pathsep) if folder]
    here = Path(name).exists() or any((folder / file).is_file() for folder in (Path("weights"), *asked))
    return "at hand" if here else "missing"
