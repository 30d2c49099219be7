"""Options of `reproduce.py`; importing this does not import torch."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rp_models.settings import at_least

from rp_experiments import cli
from rp_experiments.artifacts import Store
from rp_experiments.estimate.cards import CARDS
from rp_experiments.jobs import Cluster
from rp_experiments.papers.graph import Graph
from rp_experiments.papers.item import Item
from rp_experiments.papers.listing import chosen, listing
from rp_experiments.papers.plan import Plan
from rp_experiments.papers.scales import SCALES
from rp_experiments.papers.status import status
from rp_experiments.papers.tiers import tier_of


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions(cli.Options):
    """The tables, figures and theorems of both papers, measured."""

    items: Annotated[tuple[str, ...], tyro.conf.Positional]  # items such as dra/table-1, or: list, all, status
    scale: Literal["digits", "fashion-mnist", "fashion-mnist-gpu", "paper", "smoke"] = "digits"  # data and budgets
    tier: int | None = None  # only a part of the scale: of paper 1 (the headline rows), 2 or 3 (all)
    processes: int = 1  # that share one artifact where its work can be shared; by default one for each of its GPUs
    # networks that are given and not trained, as [DATA/]ROLE=FILE: classifier, mae, maskdit, edm, lightningdit,
    # autoencoder, latent-statistics, synthetic; a file or a name, such as cifar10/classifier=robustbench:NAME
    weights: tuple[str, ...] = ()
    adopt: tuple[Path, ...] = ()  # folders of finished runs of train_dra.py with a product's settings
    page: bool = False  # also write the page of report.py to report/ in the folder whenever a product is there
    tensorboard: bool = False  # also draw the metrics of all jobs in tensorboard/ in the folder
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = field(default_factory=lambda: Cluster(launcher="local"))

    passed = ("plan", "cluster", "device", "ranks", "adopt", "page", "tensorboard", "card")
    ranks = property(lambda self: self.cluster.gpus_per_node or self.processes)
    name = property(lambda self: self.scale)  # of the folder

    @cached_property
    def config(self) -> list[Item]:
        """The items."""
        return chosen(self.items, tier_of(self.scale, self.tier))

    @cached_property
    def plan(self) -> Plan:
        """What the scale's items are made from."""
        return SCALES[self.scale](weights=self.weights, tier=self.tier)

    @property
    def settings(self) -> Any:
        """The resolved configurations of everything that each item needs."""
        return {item.key: {one.name: asdict(one.config) for one in item.needed(self.plan)} for item in self.config}

    def check(self) -> None:
        """Refuse unknown items, weights that are not there, and no processes."""
        at_least(self, processes=1)
        assert self.config
        assert self.plan


def start(options: ReproduceOptions) -> None:
    """Say what there is, or make the items."""
    store, first = Store(cli.folder(options)), next(iter(options.items), "list")
    if first in ("list", "status"):
        tier = tier_of(options.scale, options.tier)
        known = chosen(options.items[1:] or ("all",), tier)
        print(listing(known, options.plan, store) if first == "list" else status(known, options.plan, store))
    elif options.dry_run and not options.estimate:
        _dry_run(options, store)
    else:
        cli.start(options, "papers.reproduce:reproduce")


def _dry_run(options: ReproduceOptions, store: Store) -> None:
    """Print what the products that are missing take, and write scripts and settings; nothing starts."""
    from rp_experiments.papers.forecast import forecast

    options.check()
    surroundings = {"device": options.device, "cache": options.cache.resolve(), "root": options.data_root}
    store = Store(store.path.resolve())
    graph = Graph(items=options.config, plan=options.plan, store=store, surroundings=surroundings, ranks=options.ranks)
    if not graph.missing:
        print("everything is there")
        return
    found = forecast(graph, options.cluster, CARDS[options.card], options.adopt)
    print(found, found.problems, sep="\n")
    print(f"scripts, settings and this table: {found.write()}/")
