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
    name = property(lambda self: self.scale)  # of the folder

    @property
    def settings(self) -> Any:
        """The resolved configurations of everything that each item needs."""
        plan = SCALES[self.scale]()
        return {item.key: {one.name: asdict(one.config) for one in item.needed(plan)} for item in chosen(self.items)}

    def check(self) -> None:
        """Refuse unknown items, and no processes; several have a core each."""
        require(bool(chosen(self.items)) and self.processes >= 1, f"processes must be at least 1, got {self.processes}")
        os.environ |= {"OMP_NUM_THREADS": "1"} if self.processes > 1 else {}  # before torch


def make(options: Options, run: Any) -> None:
    """Make the items in a run; torch is imported here."""
    from rp_experiments.papers.reproduce import reproduce

    reproduce(chosen(options.items), SCALES[options.scale](), run, processes=options.processes)


def start(options: Options) -> None:
    """List the items, or make them."""
    if options.items != ("list",):
        cli.start(options, make)
    else:
        print(listing(SCALES[options.scale](), Store(cli.folder(options))))


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: start(cli.parse(Options))))
