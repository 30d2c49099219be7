"""A dozen entries of RobustBench with small networks, their files in the layouts of the real ones, and CIFAR-10."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from rp_experiments import zoo_similarity
from rp_models.robustbench import entries as table
from rp_models.robustbench.entries import Entry, find_entry
from torch import Tensor, nn

State = Mapping[str, Tensor]


def module(state: State) -> dict[str, Any]:
    """As `nn.DataParallel` writes it, in a dictionary of training."""
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}


def wrapped(state: State) -> dict[str, Any]:
    """Behind a layer that normalises."""
    return {f"model.{key}": value for key, value in state.items()}


class Small(NamedTuple):
    """What makes an entry small, and how its file is laid out."""

    arguments: dict[str, Any]
    layout: Callable[[State], Mapping[str, Any]] = dict
    threat: str = "Linf"


_WIDE = {"depth": 10, "width": 1}
SMALL = {
    "Standard": Small(_WIDE),
    "Wang2023Better_WRN-28-10": Small(_WIDE, module),
    "Gowal2021Improving_28_10_ddpm_100m": Small(_WIDE),
    "Carmon2019Unlabeled": Small(_WIDE, module),
    "Rice2020Overfitting": Small(_WIDE, wrapped),
    "Ding2020MMA": Small(_WIDE),
    "Pang2020Boosting": Small(_WIDE),
    "Dai2021Parameterizing": Small(_WIDE, module),
    "Amini2024MeanSparse_S-WRN-94-16": Small(_WIDE),
    "Huang2021Exploring": Small({"channels": [8, 16, 24, 16], "blocks": [2, 1, 2]}, module),
    "Huang2022Revisiting_WRN-A4": Small({"channels": [8, 16, 24, 32], "blocks": [1, 2, 1]}),
    "Peng2023Robust": Small({"blocks": [2, 1, 1], "channels": [16, 24, 32], "stem_channels": 12}, module),
    "Debenedetti2022Light_XCiT-S12": Small({"width": 32, "depth": 2, "heads": 4}, lambda state: {"state_dict": state}),
}


class Zoo(NamedTuple):
    """What was written."""

    models: Path  # RobustBench's folder
    data: Path  # that of the data sets
    networks: dict[str, nn.Module]
    images: Tensor  # uint8


def make_zoo(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, images: int = 24, wanted: Mapping[str, Small] = SMALL
) -> Zoo:
    """Write the files, and let the table hold the small entries in the places of the full-size ones.

    The labels are what the first network says, but for one.
    """
    entries = {name: _small(name, small) for name, small in wanted.items()}
    replaced = {(entry.dataset, entry.threat, entry.name): entry for entry in entries.values()}
    known = tuple(replaced.get((e.dataset, e.threat, e.name), e) for e in table.entries())
    for module in (table, zoo_similarity):
        monkeypatch.setattr(module, "entries", lambda: known)
    monkeypatch.setenv("RP_ROBUSTBENCH", str(folder / "models"))
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3072), dtype=np.uint8)
    x = torch.from_numpy(pixels).reshape(-1, 3, 32, 32) / 255
    networks = {name: _write(entry, wanted[name], folder / "models", x) for name, entry in entries.items()}
    with torch.no_grad():
        labels = next(iter(networks.values()))(x).argmax(dim=1).tolist()
    labels[1] = (labels[1] + 1) % 10  # one mistake
    (folder / "data" / "cifar-10-batches-py").mkdir(parents=True)
    content = pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2)
    (folder / "data" / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    return Zoo(folder / "models", folder / "data", networks, torch.from_numpy(pixels).reshape(-1, 3, 32, 32))


def _small(name: str, small: Small) -> Entry:
    entry = find_entry(name, threat=small.threat)
    return replace(entry, arguments={**entry.arguments, **small.arguments})


def _write(entry: Entry, small: Small, models: Path, x: Tensor) -> nn.Module:
    """The network, of random weights but no favourite among the classes of these images, and its file."""
    with torch.random.fork_rng():
        torch.manual_seed(len(entry.name))
        network = entry.build().eval()
    for module in network.modules():  # statistics that differ from those of a fresh layer
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.mul_(0.5)
    with torch.no_grad():
        if isinstance(network.head, nn.Linear) and network.head.bias is not None:
            network.head.bias -= network(x).mean(dim=0)
    folder = models / entry.dataset / entry.threat
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(small.layout(network.state_dict()), folder / f"{entry.name}.pt")
    return network
