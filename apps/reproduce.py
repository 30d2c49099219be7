"""The tables, figures and theorems of both papers, measured: from an item's name to numbers beside the paper's.

    uv run apps/reproduce.py mae-pure/table-1 dra/fig-3b --launcher here
    uv run apps/reproduce.py all --scale paper --launcher slurm --gpus-per-node 8 --slurm.account=lab
    uv run apps/reproduce.py status --scale paper
    uv run apps/reproduce.py list

What several items need is made once; an interrupted call goes on. `report.py` makes a page of it.
"""

import sys
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import tyro
from rp_experiments import cli
from rp_experiments.artifacts import Store
from rp_experiments.jobs import Cluster
from rp_experiments.papers.listing import chosen, listing
from rp_experiments.papers.scales import SCALES
from rp_experiments.papers.status import status
from rp_models.settings import at_least


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The tables, figures and theorems of both papers, measured."""

    items: Annotated[tuple[str, ...], tyro.conf.Positional]  # items such as dra/table-1, or: list, all, status
    scale: Literal["digits", "fashion-mnist", "fashion-mnist-gpu", "paper", "smoke"] = "digits"  # data and budgets
    processes: int = 1  # that share one artifact where its work can be shared; by default one for each of its GPUs
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=lambda: Cluster(launcher="local"))
    passed = ("plan", "cluster", "device", "ranks")
    ranks = property(lambda self: self.cluster.gpus_per_node or self.processes)
    name = property(lambda self: self.scale)  # of the folder
    config = property(lambda self: chosen(self.items))
    plan = property(lambda self: SCALES[self.scale]())

    @property
    def settings(self) -> Any:
        """The resolved configurations of everything that each item needs."""
        return {item.key: {one.name: asdict(one.config) for one in item.needed(self.plan)} for item in self.config}

    def check(self) -> None:
        """Refuse unknown items, and no processes."""
        at_least(self, processes=1)
        assert self.config


def start(options: Options) -> None:
    """Say what there is, or make the items."""
    store, first = Store(cli.folder(options)), next(iter(options.items), "list")
    if first not in ("list", "status"):
        cli.start(options, "papers.reproduce:reproduce")
    else:
        print(listing(options.plan, store) if first == "list" else status(options.items[1:], options.plan, store))


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: start(cli.parse(Options))))
