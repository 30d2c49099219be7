"""The tables, figures and theorems of both papers, measured: from an item's name to numbers beside the paper's.

    uv run apps/reproduce.py list
    uv run apps/reproduce.py mae-pure/table-1 dra/fig-3b
    uv run apps/reproduce.py all --scale digits

What several items need is made once and found again; an interrupted call goes on. `report.py` makes one page of it.
"""

import os
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import tyro
from rp_experiments import cli
from rp_experiments.artifacts import Store
from rp_experiments.papers.listing import chosen, listing
from rp_experiments.papers.scales import SCALES
from rp_models.settings import require


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The tables, figures and theorems of both papers, measured."""

    items: Annotated[tuple[str, ...], tyro.conf.Positional]  # items such as dra/table-1, or: list, all
    scale: Literal["digits", "fashion-mnist", "fashion-mnist-gpu", "paper", "smoke"] = "digits"  # data and budgets
    processes: int = 2  # artifacts that are made side by side; 1 on a GPU
    passed = ("plan", "processes")
    name = property(lambda self: self.scale)  # of the folder
    config = property(lambda self: chosen(self.items))
    plan = property(lambda self: SCALES[self.scale]())

    @property
    def settings(self) -> Any:
        """The resolved configurations of everything that each item needs."""
        return {item.key: {one.name: asdict(one.config) for one in item.needed(self.plan)} for item in self.config}

    def check(self) -> None:
        """Refuse unknown items, and no processes; several have a core each."""
        require(bool(self.config) and self.processes >= 1, f"processes must be at least 1, got {self.processes}")
        os.environ |= {"OMP_NUM_THREADS": "1"} if self.processes > 1 else {}  # before torch


def start(options: Options) -> None:
    """List the items, or make them."""
    if options.items != ("list",):
        cli.start(options, "papers.reproduce:reproduce")
    else:
        print(listing(options.plan, Store(cli.folder(options))))


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: start(cli.parse(Options))))
