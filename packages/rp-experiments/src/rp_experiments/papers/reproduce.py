"""The work of `reproduce.py`: artifacts that are missing, as jobs; then what the items say about them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rp_experiments.artifacts import Artifact, Store, build, in_order
from rp_experiments.jobs import Cluster, Job
from rp_experiments.launchers import choose_jobs
from rp_experiments.papers.given import adopt as take_over
from rp_experiments.papers.item import Item
from rp_experiments.papers.listing import check_files
from rp_experiments.papers.makers import MAKERS, SHARED
from rp_experiments.papers.plan import Plan
from rp_experiments.run import Run, open_run


def reproduce(
    items: Sequence[Item],
    run: Run,
    *,
    plan: Plan,
    cluster: Cluster,
    device: str,
    ranks: int = 1,
    adopt: Sequence[Path] = (),
) -> None:
    """Make what the items need and is not there, write what each says, and raise what went wrong."""
    if plan.scale == "paper":
        check_files(items, plan, run.root)
    store = Store(run.path.resolve())
    needed = in_order(artifact for item in items for artifact in item.needed(plan))
    take_over(adopt, needed, store)
    missing = [artifact for artifact in needed if not store.has(artifact)]
    print(f"{len(missing)} products to make, about {sum(one.minutes for one in missing):.0f} minutes of one core")
    names = {artifact.name: artifact for artifact in needed}
    jobs = choose_jobs(cluster, store.path, lambda name: store.has(names[name]))
    surroundings = {"device": device, "cache": run.cache.resolve(), "root": run.root and run.root.resolve()}
    failed = jobs.run(jobs_of(missing, store, surroundings, ranks))
    for item in items:
        lacking = [artifact.name for artifact in item.needed(plan) if not store.has(artifact)]
        record = item.record(plan, store)
        if record is not None:
            run.folder.write_json(f"items/{item.slug}.json", record)
        verdicts = ", ".join(claim["verdict"] for claim in record["claims"]) if record else "not made"
        print(f"{item.key:28} {verdicts}" + (f"; waits for {', '.join(lacking)}" if lacking else ""))
    if failed:
        raise ValueError("; ".join(failed.values()))


def jobs_of(artifacts: Sequence[Artifact], store: Store, surroundings: dict[str, Any], ranks: int = 1) -> list[Job]:
    """The jobs that make artifacts, first those for which most others wait; several processes share where they can."""
    return [
        Job(
            name=artifact.name,
            work=partial(make, artifact, store.path, surroundings),
            needs=frozenset(need.name for need in artifact.needs.values()),
            ranks=ranks if artifact.job in SHARED else 1,
        )
        for artifact in sorted(artifacts, key=lambda one: -_chain(one, artifacts))
    ]


def make(artifact: Artifact, path: Path, surroundings: dict[str, Any]) -> None:
    """What a job does: make one artifact, alone or with the other processes of the job."""
    with open_run(path, resume=True, quiet=True, **surroundings) as run:
        build(artifact, Store(path), MAKERS[artifact.job], run)


def _chain(artifact: Artifact, waiting: Sequence[Artifact]) -> float:
    """Minutes of an artifact and of the longest chain of others that wait for it."""
    after = (_chain(one, waiting) for one in waiting if artifact.name in {need.name for need in one.needs.values()})
    return artifact.minutes + max(after, default=0.0)
