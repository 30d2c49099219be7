"""The micro-batch that a training takes on the GPU that it meets, chosen from the counted memory of a step."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rp_attacks.memory import free_memory
from rp_models.settings import ComputeSettings

from rp_experiments.estimate.cards import USABLE
from rp_experiments.estimate.training import Step, StepCost, normed, step_cost
from rp_experiments.run import Run


def fitting(compute: ComputeSettings, run: Run, stage: str, batch: int, step: Callable[[], Step]) -> ComputeSettings:
    """The settings of a training with a micro-batch that fits into the free memory of a GPU, where they name none.

    The largest divisor of a process's part of the batch; where none fits, with activation checkpointing. On a CPU, and
    where a micro-batch is named, the settings as they are. What was chosen is in `memory/STAGE.json` of the run's
    folder, from where a resumed run takes it. ValueError if nothing fits.
    """
    if compute.micro_batch is not None or free_memory(run.device) is None:
        return compute
    found = run.everywhere(lambda: _recorded(run, stage) or _counted(compute, run, stage, batch, step))
    run.memory[stage] = found
    size = found["micro_batch"]
    if run.main and size < found["batch"]:
        ghosts = "; batch norms take their statistics from so many (ghost batches)" if found["ghost_batches"] else ""
        print(
            f"{stage}: {size} of {found['batch']} images at a time fit into the GPU's memory{ghosts}", file=sys.stderr
        )
    return replace(compute, micro_batch=size if size < found["batch"] else None, checkpointing=found["checkpointing"])


def _recorded(run: Run, stage: str) -> dict[str, Any] | None:
    """What an earlier session of the run chose, if as many processes share the batch now."""
    if not (run.path / f"memory/{stage}.json").exists():
        return None
    found: dict[str, Any] = run.folder.read_json(f"memory/{stage}.json")
    return found if found["processes"] == run.processes.count else None


def _counted(compute: ComputeSettings, run: Run, stage: str, batch: int, step: Callable[[], Step]) -> dict[str, Any]:
    limit, count = USABLE * (free_memory(run.device) or 0.0), run.processes.count
    print(f"{stage}: counting the memory of a step ...", file=sys.stderr, flush=True)
    counted = step()
    cost = step_cost(counted, batch // count, limit=limit, compute=compute, processes=count)
    record = record_of(cost, limit, count, normed=normed(counted))
    if not cost.fits:
        raise ValueError(
            f"{stage}: the smallest micro-batch needs {record['counted_mib']} MiB"
            f"{' with activation checkpointing' if cost.checkpointing else ''}, but the GPU has room for "
            f"{record['limit_mib']} MiB ({USABLE:.0%} of what is free); share the batch among more processes, take a "
            "smaller network, or name compute.micro_batch to try it all the same"
        )
    return record


def record_of(cost: StepCost, limit: float, processes: int, *, normed: bool) -> dict[str, Any]:
    """What is kept of a choice, as JSON values."""
    return {
        "batch": cost.batch,
        "micro_batch": cost.micro_batch,
        "checkpointing": cost.checkpointing,
        "ghost_batches": normed and cost.micro_batch < cost.batch,  # batch norms see each micro-batch for itself
        "counted_mib": round(cost.memory / 2**20, 2),
        "whole_mib": round(cost.whole / 2**20, 2),
        "limit_mib": round(limit / 2**20, 2),
        "processes": processes,
    }
