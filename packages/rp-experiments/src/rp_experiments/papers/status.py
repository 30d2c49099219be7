"""What `reproduce.py status` says: which products are there, run, wait or failed, hours spent and hours left."""

from collections.abc import Sequence

from rp_experiments import tables
from rp_experiments.artifacts import DONE, Artifact, Store, in_order
from rp_experiments.jobs import Cluster, Jobs
from rp_experiments.launchers import choose_jobs
from rp_experiments.papers.item import Item
from rp_experiments.papers.plan import Plan


def status(items: Sequence[Item], plan: Plan, store: Store) -> str:
    """A line for each product that items need, in the order of making, and the sums; failures with their reason."""
    needed = in_order(artifact for item in items for artifact in item.needed(plan))
    launchers = [choose_jobs(Cluster(launcher=name), store.path) for name in ("local", "slurm")]
    rows: list[tables.Row] = []
    failures: list[str] = []
    for artifact in needed:
        state, said = _state(artifact, store, launchers)
        rows.append(
            {
                "product": artifact.name,
                "state": state,
                "hours spent": round(spent(artifact, store) / 3600, 2) or None,
                "hours of one core": round(artifact.minutes / 60, 2) or None,
                "for": ", ".join(item.key for item in items if artifact in item.products(plan).values()) or "others",
            }
        )
        failures += [f"{artifact.name}: {said}"] if said else []
    count = {state: sum(row["state"] == state for row in rows) for state in ("done", "running", "waiting", "failed")}
    left = sum(one.minutes for one, row in zip(needed, rows, strict=True) if row["state"] != "done") / 60
    hours = sum(spent(artifact, store) for artifact in needed) / 3600
    sums = ", ".join(f"{number} {state}" for state, number in count.items())
    return "\n".join([tables.text(rows), "", f"{sums}; {hours:.2f} hours spent, about {left:.2f} left", *failures])


def _state(artifact: Artifact, store: Store, launchers: Sequence[Jobs]) -> tuple[str, str]:
    """`done`, `running`, `waiting` or `failed`, and why it failed."""
    if store.has(artifact):
        return "done", ""
    if any(jobs.running(artifact.name) for jobs in launchers):
        return "running", ""
    failure = launchers[0].records / f"{artifact.name}.failed"
    return ("failed", failure.read_text(encoding="utf-8")) if failure.is_file() else ("waiting", "")


def spent(artifact: Artifact, store: Store) -> float:
    """Seconds of work on a product so far, of all calls together."""
    made = store.get(artifact)
    if made.has(DONE):
        return float(made.read(DONE)["seconds"])
    return sum(made.read("stages.json").values()) if made.has("stages.json") else 0.0
