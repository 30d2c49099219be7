"""The work of `convert.py`: official files to our checkpoints, and a classifier of ours to RobustBench's layout."""

import inspect
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_dra import export_robustbench
from rp_models import importers
from rp_models.checkpoint import CheckpointError, read_header


def convert(kind: str, source: Path, target: Path, *, options: dict[str, Any], half: bool) -> None:
    """Convert one file and print a summary."""
    reader = getattr(importers, f"read_{kind.replace('-', '_')}")
    known = [name for name, p in inspect.signature(reader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise CheckpointError(f"the {kind} reader has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    imported = reader(source, **options)
    model = imported.build()
    rp_models.save(
        model, target, notes={"converted_from": source.name, "kind": kind}, dtype=torch.float16 if half else None
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{source.name}: {imported.architecture}, {parameters:,} parameters, {len(imported.state)} tensors")
    for name, value in imported.arguments.items():
        print(f"  {name}: {value}")
    print(f'written to {target}; load it with rp_models.load("{target}")')


def to_robustbench(source: Path, target: Path) -> None:
    """Write a classifier's weights as RobustBench loads them, and print what its class has to be built with."""
    model = rp_models.load(source)
    try:
        export_robustbench(model, target)
    except TypeError as error:
        raise CheckpointError(f"{source}: {error}") from error
    header = read_header(source)
    print(f"{source.name}: {header.architecture}")
    for name, value in header.arguments.items():
        print(f"  {name}: {value}")
    print(f"written to {target}: a dictionary of tensors under the network's bare keys")
