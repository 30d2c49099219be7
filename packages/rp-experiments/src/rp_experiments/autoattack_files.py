"""Files as AutoAttack and RobustBench leave them: the log of an evaluation, its state, and `model_info/*.json`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rp_attacks.record import Record
from rp_models.files import complete_file
from torch import Tensor

_STATE = ("_robust_flags", "_run_attacks", "_attacks_to_run", "_clean_accuracy")
_WHO = {"linf": "Linf", "l2": "L2"}


class State(NamedTuple):
    """What an `aa_state` file says of the first images of a test set."""

    right: npt.NDArray[np.bool_]  # (n,) whether the image still stands after all attacks
    attacks: tuple[str, ...]  # that have been run
    clean: float  # accuracy in [0, 1]


def read_state(path: str | Path, images: int) -> State:
    """The state that AutoAttack's `state_path`, RobustBench's `aa_state_path`, left, of the first so many images.

    Raises ValueError if the file is no such state, its evaluation is not finished, or it is of fewer images.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        flags, *named = (found[key] for key in _STATE)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: this is no state of AutoAttack, which holds {', '.join(_STATE)}: {error}") from error
    if not isinstance(flags, list) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"{path}: no verdicts yet; finish the evaluation with the same state file first")
    # a set of names, which JSON has as a list or as Python prints it
    run, wanted = (set(re.findall(r"[\w-]+", each) if isinstance(each, str) else each) for each in named[:2])
    if missing := sorted(wanted - run) if any(flags) else []:
        raise ValueError(f"{path}: {', '.join(missing)} is still to be run; finish that evaluation first")
    if len(flags) < images:
        raise ValueError(f"{path}: has verdicts on {len(flags)} images, here are {images}; set --images {len(flags)}")
    return State(np.array(flags[:images], dtype=np.bool_), tuple(sorted(run)), float(named[2]))


def log_text(clean: Record, parts: Mapping[str, Record], images: Tensor, norm: str) -> str:
    """The log of an evaluation, in AutoAttack's words where it has them, with each part's passes beside.

    `parts` are its attacks in their order; `images` (n, c, h, w) are the worst candidates.
    """
    left, seconds = float(clean.right.mean()), 0.0
    lines = [f"{len(clean)} images; attacks in order: {', '.join(parts)}", f"initial accuracy: {left:.2%}"]
    for name, record in parts.items():
        seconds += float(record.seconds.sum())
        broken, left = left - float(record.right.mean()), float(record.right.mean())
        passes = f"{record.forward.sum():.0f} forward and {record.backward.sum():.0f} backward passes"
        lines.append(f"{name} - {broken * len(clean):.0f} of {record.tried.sum()} images perturbed; {passes}")
        lines.append(f"robust accuracy after {name.upper()}: {left:.2%} (total time {seconds:.1f} s)")
    largest = max((float(record.distance.max()) for record in parts.values()), default=0.0)
    low, high = (float(value) for value in torch.aminmax(images))
    lines.append(
        f"max {_WHO.get(norm, norm)} perturbation: {largest:.5f}, nan in tensor: {int(images.isnan().sum())}, "
        f"max: {high:.5f}, min: {low:.5f}"
    )
    return "\n".join([*lines, f"robust accuracy: {left:.2%}", ""])


def write_model_info(path: Path, **fields: Any) -> Path:
    """Write what is known of a model to a file of RobustBench's `model_info`; what stands there and is not known stays.

    `fields` are RobustBench's: link, name, authors, dataset, venue, architecture, additional_data,
    number_forward_passes, eps, clean_acc, autoattack_acc, ...; accuracies in per cent become texts of two digits.
    """
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key, value in fields.items():
        if value is not None or key not in known:
            known[key] = f"{value:.2f}" if isinstance(value, float) else value
    with complete_file(path) as temporary:
        temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return path


def radius_text(eps: float) -> str:
    """A radius as RobustBench writes it: in 255ths where it is so many of them."""
    steps = eps * 255
    return f"{round(steps)}/255" if abs(steps - round(steps)) < 1e-6 else f"{eps:g}"
