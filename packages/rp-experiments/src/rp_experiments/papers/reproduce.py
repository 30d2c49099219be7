"""The work of `reproduce.py`: artifacts that are missing, as jobs; then what the items say about them."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rp_experiments.artifacts import Artifact, Store, build, in_order
from rp_experiments.jobs import Cluster, Job, Jobs, choose_jobs
from rp_experiments.papers.item import Item
from rp_experiments.papers.listing import check_data
from rp_experiments.papers.makers import MAKERS, SHARED
from rp_experiments.papers.plan import Plan
from rp_experiments.run import Run, open_run


def reproduce(items: Sequence[Item], run: Run, *, plan: Plan, cluster: Cluster, device: str, ranks: int = 1) -> None:
    """Make what the items need and is not there, write what each says, and raise what went wrong."""
    if plan.scale == "paper":
        check_data(items, plan, run.root)
    store = Store(run.path.resolve())
    needed = in_order(artifact for item in items for artifact in item.needed(plan))
    missing = [artifact for artifact in needed if not store.has(artifact)]
    print(f"{len(missing)} products to make, about {sum(one.minutes for one in missing):.0f} minutes of one core")
    names = {artifact.name: artifact for artifact in needed}
    jobs = choose_jobs(cluster, store.path, lambda name: store.has(names[name]))
    surroundings = {"device": device, "cache": run.cache.resolve(), "root": run.root and run.root.resolve()}
    failed = make_all(missing, store, jobs, surroundings, ranks)
    for item in items:
        if all(store.has(artifact) for artifact in item.needed(plan)):
            record = item.record(plan, store)
            run.folder.write_json(f"items/{item.slug}.json", record)
            said = ", ".join(claim["verdict"] for claim in record["claims"])
        else:
            lacking = [artifact.name for artifact in item.needed(plan) if artifact.name in failed]
            said = f"not made: {', '.join(lacking) or 'something that it needs is missing'}"
        print(f"{item.key:28} {said}")
    if failed:
        raise ValueError("; ".join(failed.values()))


def make_all(
    artifacts: Sequence[Artifact], store: Store, jobs: Jobs, surroundings: dict[str, Any], ranks: int = 1
) -> dict[str, str]:
    """Make artifacts as jobs, each after what it needs; one that fails does not stop those that do not need it.

    Gives, by the artifact's name, what went wrong. Jobs of an earlier call that still run are waited for.
    """
    failed: dict[str, str] = {}
    running = {artifact.name: artifact for artifact in artifacts if jobs.running(artifact.name)}
    waiting = [artifact for artifact in artifacts if artifact.name not in running]
    while waiting or running:
        able = _ready(waiting, store, failed)
        if ready := able[: jobs.room]:
            waiting = [artifact for artifact in waiting if artifact not in ready]
            running |= {artifact.name: artifact for artifact in ready}
            for artifact in ready:
                _say(f"{artifact.name} ...")
            jobs.start([_job(artifact, store, surroundings, ranks) for artifact in ready])
        if not (running or able):  # the rest needs something that failed
            break
        ended = {name: problem for name in running if (problem := jobs.problem(name)) is not None}
        for name, problem in ended.items():
            del running[name]
            _say(f"{name} {problem or 'is there'}")
            if problem:
                failed[name] = f"{name}: {problem}"
        if not ended:
            time.sleep(0.5)
    return failed


def _job(artifact: Artifact, store: Store, surroundings: dict[str, Any], ranks: int) -> Job:
    """An artifact's job; several processes share it where its maker can."""
    shared = ranks if artifact.job in SHARED else 1
    return Job(name=artifact.name, work=make, arguments=(artifact, store.path, surroundings), ranks=shared)


def make(artifact: Artifact, path: Path, surroundings: dict[str, Any]) -> None:
    """What a job does: make one artifact, alone or with the other processes of the job."""
    with open_run(path, resume=True, quiet=True, **surroundings) as run:
        build(artifact, Store(path), MAKERS[artifact.job], run)


def _ready(waiting: Sequence[Artifact], store: Store, failed: dict[str, str]) -> list[Artifact]:
    """Those whose needs are finished, the longest first."""
    ready = [one for one in waiting if all(store.has(need) for need in one.needs.values()) and one.name not in failed]
    return sorted(ready, key=lambda artifact: -_chain(artifact, waiting))


def _chain(artifact: Artifact, waiting: Sequence[Artifact]) -> float:
    """Minutes of an artifact and of the longest chain of others that wait for it."""
    after = (_chain(one, waiting) for one in waiting if artifact.name in {need.name for need in one.needs.values()})
    return artifact.minutes + max(after, default=0.0)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
