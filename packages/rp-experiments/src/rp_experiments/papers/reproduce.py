"""The work of `reproduce.py`: artifacts that are missing, as jobs; then what the items say about them."""

from collections.abc import Sequence
from pathlib import Path

from rp_experiments.artifacts import Store
from rp_experiments.estimate.cards import CARDS
from rp_experiments.jobs import Cluster
from rp_experiments.papers.arrivals import Arrivals
from rp_experiments.papers.forecast import forecast
from rp_experiments.papers.given import adopt as take_over
from rp_experiments.papers.graph import Graph
from rp_experiments.papers.item import Item
from rp_experiments.papers.plan import Plan
from rp_experiments.run import Run


def reproduce(
    items: Sequence[Item],
    run: Run,
    *,
    plan: Plan,
    cluster: Cluster,
    device: str,
    ranks: int = 1,
    adopt: Sequence[Path] = (),
    page: bool = False,
    tensorboard: bool = False,
    card: str = "H100",
) -> None:
    """Make what the items need and is not there, write what each says, and raise what went wrong.

    At the papers' scale the whole plan is shown and checked before anything starts. With `page` a page of all items is
    written whenever a product is there, with `tensorboard` the metrics of all jobs are drawn in one folder.
    """
    store = Store(run.path.resolve())
    surroundings = {"device": device, "cache": run.cache.resolve(), "root": run.root and run.root.resolve()}
    if tensorboard:
        surroundings["boards"] = store.path / "tensorboard"
    graph = Graph(items=items, plan=plan, store=store, surroundings=surroundings, ranks=ranks)
    take_over(adopt, graph.needed, store)
    missing = graph.missing
    print(f"{len(missing)} products to make, about {sum(one.minutes for one in missing):.0f} minutes of one core")
    if missing and plan.scale == "paper":
        found = forecast(graph, cluster, CARDS[card], adopt)
        print(found, flush=True)
        found.check()
    arrivals = Arrivals(graph, run, page=page)
    failed = graph.launcher(cluster).run(graph.jobs(missing), arrivals.ended)
    records = arrivals.record(items)
    for item, record in zip(items, records, strict=True):
        lacking = [artifact.name for artifact in item.needed(plan) if not store.has(artifact)]
        verdicts = ", ".join(claim["verdict"] for claim in record["claims"]) if record else "not made"
        print(f"{item.key:28} {verdicts}" + (f"; waits for {', '.join(lacking)}" if lacking else ""))
    if failed:
        raise ValueError("; ".join(failed.values()))
