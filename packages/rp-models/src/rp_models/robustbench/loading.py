"""RobustBench's entries from their files: `load_robustbench("Wang2023Better_WRN-28-10")`. Nothing in a file is run."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rp_models import checkpoint, zoo
from rp_models.checkpoint import CheckpointError
from rp_models.importers.imported import Imported
from rp_models.importers.torch_file import read_torch_file
from rp_models.importers.weights import find_weights
from rp_models.networks.normalization import Statistics
from rp_models.robustbench.entries import CLASSES, Entry, EntryError, find_entry, resolve
from rp_models.robustbench.files import entry_files
from rp_models.robustbench.layouts import State, adapted, complete, digest, split_constants
from rp_models.robustbench.likeness import fitting_entries

_PLACES = ("state_dict", "model", "model_state_dict", "net")


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def load_robustbench(
    name: str,
    dataset: str = "cifar10",
    threat: str = "Linf",
    *,
    root: str | Path | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """An entry of RobustBench from its file, as a classifier of images in [0, 1], in eval mode.

    It normalises as the entry does. Ensembles give probabilities, as in RobustBench; all others logits.

    Args:
        name: RobustBench's, e.g. "Wang2023Better_WRN-28-10".
        dataset: "cifar10", "cifar100" or "imagenet".
        threat: "Linf", "L2" or "corruptions".
        root: RobustBench's folder of models; None for `$RP_ROBUSTBENCH` and `./models`. Entries that RobustBench takes
            from timm or torchvision are looked for in torch.hub's cache as well.
        device: where the network shall be.

    Raises:
        EntryError: for a name that RobustBench does not have there, or whose network is not built here.
        CheckpointError: if the file is missing, damaged, or not this entry's.
    """
    return load_entry(find_entry(name, dataset, threat), root=root).to(device)


def load_spec(spec: str, dataset: str | None = None) -> nn.Module:
    """The entry that `robustbench:[DATASET/][THREAT/]NAME` means, in eval mode.

    `dataset`: of the images at hand, where the name does not tell. Raises CheckpointError: as `load_robustbench`, and
    for a name that means no entry.
    """
    try:
        return load_entry(resolve(spec, dataset if dataset in CLASSES else None))
    except EntryError as error:
        raise CheckpointError(str(error)) from error


@torch.inference_mode(False)
def load_entry(entry: Entry, *, root: str | Path | None = None) -> nn.Module:
    """An entry's network with the weights of its files, in eval mode; errors as of `load_robustbench`."""
    entry.check_built()
    imported = read_entry(entry, entry_files(entry, root))
    model = zoo.build_entry(imported.architecture, **imported.arguments)
    checkpoint.load_state(model, imported.state, origin=entry.title)
    return model.eval()


def read_entry(entry: Entry, files: Sequence[str | Path]) -> Imported:
    """The network, its arguments and the weights of an entry, from files of whatever names, in their order.

    Raises EntryError if the network is not built here; CheckpointError if a file cannot be read or is not this entry's.
    """
    entry.check_built()
    ensemble = entry.parts > 1
    network = entry.arguments["member"] if ensemble else entry.network
    given = entry.arguments.get("arguments", {}) if ensemble else entry.arguments
    arguments = {"num_classes": entry.num_classes, **entry.arguments}
    with torch.device("meta"):
        expected = zoo.build_entry(network, num_classes=entry.num_classes, **given).state_dict()
    state: State = {}
    for number, file in enumerate(files):
        weights, constants = _weights(entry, network, next(iter(expected)), file)
        _check(entry, weights, expected, file)
        arguments |= _statistics(entry, constants, file)
        state |= {f"models.{number}.{key}" if ensemble else key: value for key, value in weights.items()}
    return Imported(entry.network, arguments, state)


def _weights(entry: Entry, network: str, anchor: str, file: str | Path) -> tuple[State, Statistics | None]:
    """The state dict in a file, under the network's keys, and the normalisation constants beside it."""
    content: Any = read_torch_file(file, allow_namespace=True)
    if entry.key is not None and isinstance(content.get(entry.key), dict):
        content = content[entry.key]
    found = find_weights(content, (anchor,), entry.title, file, places=_PLACES)
    weights, constants = split_constants(found.state)
    return adapted(complete(weights), network), constants


def _check(entry: Entry, weights: State, expected: State, file: str | Path) -> None:
    """Refuse weights that do not fit the entry's network; the message names entries that they do fit."""
    if digest(weights) == digest(expected):
        return
    missing, unexpected = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    other = sorted(key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape)
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    problems = "; ".join(f"{len(keys)} {kind} (e.g. {keys[0]})" for kind, keys in kinds if keys)
    fitting = [known.title for known in fitting_entries(weights)]
    more = f" and {len(fitting) - 3} more" if len(fitting) > 3 else ""
    hint = f"; they fit {', '.join(fitting[:3])}{more}" if fitting else ""
    raise CheckpointError(f"{file}: these are not the weights of {entry.title}: {problems}{hint}")


def _statistics(entry: Entry, found: Statistics | None, file: str | Path) -> dict[str, Any]:
    """The mean and std to use, where they are not the table's."""
    known = entry.arguments.get("mean")
    if found is None:
        if entry.constants == "file":
            raise CheckpointError(f"{file}: {entry.title} has its normalisation constants in its file; there are none")
        return {}
    if known is None and entry.constants != "file":
        raise CheckpointError(
            f"{file}: holds normalisation constants {found}, but {entry.title} takes images as they are; it is a file "
            "of another entry"
        )
    if known is not None:
        table = Statistics(tuple(known), tuple(entry.arguments["std"]))
        if torch.allclose(torch.tensor(found), torch.tensor(table), rtol=0, atol=1e-4):
            return {}
        warnings.warn(
            f"{file}: normalises with {found}, RobustBench's code with {table}; the file's count", stacklevel=5
        )
    return found._asdict()
