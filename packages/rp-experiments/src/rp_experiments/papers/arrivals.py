"""What items say, written anew whenever one of their products is there."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rp_experiments.papers import report
from rp_experiments.papers.graph import Graph
from rp_experiments.papers.item import Item
from rp_experiments.run import Run


@dataclass(frozen=True)
class Arrivals:
    """The records of a graph's items, in `items/` of a run's folder, and a page of them in `report/`."""

    graph: Graph
    run: Run
    page: bool = False

    def ended(self, name: str) -> None:
        """A product is there: its items are written anew; a fault of one does not stop what is still made."""
        plan = self.graph.plan
        items = [one for one in self.graph.items if name in {made.name for made in one.products(plan).values()}]
        try:
            self.record(items)
        except Exception as error:  # it is raised at the end, when nothing is left to be made
            print(f"what {name} says could not be written yet: {error!r}", file=sys.stderr, flush=True)

    def record(self, items: Sequence[Item]) -> list[dict[str, Any] | None]:
        """Write what items say, and the page; None for those of which nothing can be said yet."""
        records = [item.record(self.graph.plan, self.graph.store) for item in items]
        for item, record in zip(items, records, strict=True):
            if record is not None:
                self.run.folder.write_json(f"items/{item.slug}.json", record)
        if self.page and any(records):
            out = self.run.path / "report"
            report.write([report.Run.read(self.run.path)], out, out)
        return records
