"""What a user brings to a plan: weights for roles, and finished runs of `train_dra.py`; does not import torch."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rp_models.files import link_file
from rp_models.robustbench.entries import is_spec

from rp_experiments.artifacts import Artifact, Store
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.table import changed

_OF_COMPARISONS = ("classifier", "mae", "maskdit", "edm")
ALIGNMENT_ROLES = {"lightningdit": "checkpoint", "autoencoder": "autoencoder", "latent-statistics": "latent_statistics"}
ROLES = (*_OF_COMPARISONS, *ALIGNMENT_ROLES, "synthetic")


def parse_weights(words: Iterable[str]) -> dict[tuple[str, str], str]:
    """Files or names by data set ("" for all) and role, from `ROLE=FILE` or `DATA/ROLE=FILE`.

    Raises ValueError for another form, an unknown role, or a file that is not there.
    """
    given = {}
    for word in words:
        place, equals, name = word.partition("=")
        data, _, role = place.rpartition("/")
        if not equals or not name or role not in ROLES:
            raise ValueError(f"--weights expects [DATA/]ROLE=FILE with a role of {', '.join(ROLES)}, got {word!r}")
        if _is_path(name) and not Path(name).exists():
            raise ValueError(f"--weights {place}: there is no file {name}")
        given[data, role] = str(Path(name).resolve()) if _is_path(name) else name
    return given


def with_weights(
    runs: Mapping[str, TrainDra], comparisons: Mapping[str, Comparison], given: Mapping[tuple[str, str], str]
) -> tuple[dict[str, TrainDra], dict[str, Comparison]]:
    """The settings with what was given in its roles; a network that is given is not trained.

    Raises ValueError for a data set that no setting has.
    """
    known = {run.data for run in runs.values()} | set(comparisons)
    for data, role in given:
        if data and data not in known:
            raise ValueError(f"--weights {data}/{role}: this scale has no {data}; it has {', '.join(sorted(known))}")
    new_runs = {name: _run(run, _roles(given, run.data)) for name, run in runs.items()}
    new_comparisons = {
        data: changed(of, {role: name for role, name in _roles(given, data).items() if role in _OF_COMPARISONS})
        for data, of in comparisons.items()
    }
    return new_runs, new_comparisons


def adopt(folders: Iterable[Path], artifacts: Iterable[Artifact], store: Store) -> None:
    """Take finished runs as the products that `adopted` finds, by links, nothing copied."""
    wanted = {one.name: one for one in artifacts}
    for name, folder in adopted(folders, wanted.values()).items():
        target = store.folder(wanted[name])
        if not target.exists():
            unfinished = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copytree(folder, unfinished, copy_function=lambda one, other: link_file(Path(one), Path(other)))
            unfinished.rename(target)


def adopted(folders: Iterable[Path], artifacts: Iterable[Artifact]) -> dict[str, Path]:
    """Finished runs of `train_dra.py` by the name of the product that has the same settings.

    Raises ValueError for a folder that holds no finished run, or one with settings that no product has.
    """
    wanted, found = {_text(asdict(one.config)): one for one in artifacts if one.job == "train_dra"}, {}
    for folder in folders:
        if not (folder / "result.json").is_file():
            raise ValueError(f"--adopt {folder}: no finished run of train_dra.py is there")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.pop("inputs", None)  # the hashes of files
        artifact = wanted.get(_text(config))
        if artifact is None:
            raise ValueError(f"--adopt {folder}: {_nearest(config, wanted.values())}")
        found[artifact.name] = folder
    return found


def _run(run: TrainDra, roles: Mapping[str, str]) -> TrainDra:
    alignment: dict[str, Any] = {ALIGNMENT_ROLES[role]: name for role, name in roles.items() if role in ALIGNMENT_ROLES}
    if alignment and run.alignment.target == "lightningdit":
        run = replace(run, alignment=replace(run.alignment, **alignment))
    if "edm" in roles:
        run = replace(run, diffusion_model=roles["edm"])
    if "synthetic" in roles:
        run = replace(run, synthetic=replace(run.synthetic, paths=(roles["synthetic"],)))
    return run


def _roles(given: Mapping[tuple[str, str], str], data: str) -> dict[str, str]:
    """What is given for a data set, before what is given for all."""
    return {role: given.get((data, role), name) for (of, role), name in given.items() if of in ("", data)}


def _is_path(name: str) -> bool:
    """Whether it is a file; other words are names of networks, such as `robustbench:...`."""
    return not is_spec(name) and ("/" in name or name.endswith((".safetensors", ".npz", ".pt", ".pkl")))


def _text(config: object) -> str:
    return json.dumps(config, sort_keys=True, default=str)


def _nearest(config: dict[str, object], artifacts: Iterable[Artifact]) -> str:
    """Which settings differ from those of the product that has the fewest other ones."""
    each: list[list[str]] = [
        sorted(key for key, value in json.loads(_text(asdict(one.config))).items() if config.get(key) != value)
        for one in artifacts
    ]
    if not each:
        return "no product of these items is a run"
    nearest = sorted(each, key=len)[0]
    return f"its settings are those of no product; the nearest one differs in {', '.join(nearest)}"
