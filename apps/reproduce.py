"""The tables, figures and theorems of both papers, measured: from an item's name to numbers beside the paper's.

    uv run apps/reproduce.py list
    uv run apps/reproduce.py mae-pure/table-1 dra/fig-3b
    uv run apps/reproduce.py all --scale digits
    uv run apps/reproduce.py dra/table-2 --scale paper --dry-run

What several items need is made once and found again by everything that determines it; an interrupted call goes on where
it stopped, a finished one does nothing. `report.py` makes one page of it.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rp_experiments import cli
from rp_experiments.artifacts import Shelf, in_order
from rp_experiments.papers.ingredients import ingredients
from rp_experiments.papers.item import Item
from rp_experiments.papers.plan import Plan
from rp_experiments.papers.registry import ITEMS
from rp_experiments.papers.scales import SCALES
from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES


@dataclass(frozen=True, kw_only=True)
class Options:
    """The tables, figures and theorems of both papers, measured."""

    items: Annotated[tuple[str, ...], tyro.conf.Positional]  # items such as dra/table-1, or: list, all
    scale: Literal["digits", "fashion-mnist", "fashion-mnist-gpu", "paper", "smoke"] = (
        "digits"  # data, networks and budgets
    )
    out: Path | None = None  # folder of products and items; by default runs/reproduce/SCALE
    cache: Path = Path("runs/cache")  # networks that other runs made
    processes: int = 2  # products made side by side; 1 on a GPU
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    dry_run: bool = False  # print the resolved configuration of everything as JSON and stop


def main() -> int:
    """Parse, then list, print or make; torch is imported only for the last."""
    options = cli.parse_plain(Options)
    plan = SCALES[options.scale]()
    out = options.out or Path("runs") / "reproduce" / options.scale
    if options.items == ("list",):
        print(listing(plan, Shelf(out)))
        return 0
    items = chosen(options.items)
    if options.dry_run:
        cli.print_json({item.key: settings(item, plan) for item in items})
        return 0
    if options.processes < 1:
        cli.fail(f"processes must be at least 1, got {options.processes}")
    if options.processes > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two products side by side, one core each
    print(f"folder: {out}", file=sys.stderr, flush=True)
    return cli.guarded(lambda: work(items, plan, out, options))


def work(items: list[Item], plan: Plan, out: Path, options: Options) -> None:
    """Make the items; an error in one product is told at the end."""
    if plan.scale == "paper":
        tell_what_is_missing(items, plan, options.data_root)
    from rp_experiments.papers.makers import Where
    from rp_experiments.papers.reproduce import reproduce

    where = Where(options.device, options.cache.resolve(), options.data_root)
    try:
        problems = reproduce(items, plan, out, where=where, processes=options.processes)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    if problems:
        cli.fail("; ".join(problems))


def chosen(names: tuple[str, ...]) -> list[Item]:
    """The items of these names, in the papers' order.

    Raises:
        SystemExit: with status 2 for an unknown name.
    """
    if names == ("all",):
        return list(ITEMS.values())
    unknown = [name for name in names if name not in ITEMS]
    if unknown or not names:
        cli.fail(f"no item {' '.join(unknown)}; `reproduce.py list` names them all".replace("  ", " "))
    return [item for key, item in ITEMS.items() if key in names]


def listing(plan: Plan, shelf: Shelf) -> str:
    """One line an item: whether it is made at this scale, minutes of one core, data, what it is about, its weights."""
    lines = [f"{'item':28} {'status':17} {'minutes':>7}  {'data':40} about; weights"]
    missing: set[str] = set()
    for item in ITEMS.values():
        products = in_order(item.products(plan).values())
        there = sum(shelf.has(product) for product in products)
        status = "not at this scale" if not products else "done" if there == len(products) else "to do"
        if 0 < there < len(products):
            status = f"{there} of {len(products)} made"
        minutes = f"{item.minutes(plan):.0f}" if item.minutes(plan) else "-"
        weights = ingredients(products)
        missing |= {name for name, source in weights.items() if source == "missing"}
        about = f"{item.title}; {by_source(weights)}" if weights else item.title
        lines.append(f"{item.key:28} {status:17} {minutes:>7}  {', '.join(data_of(item, plan)):40} {about}")
    total = sum(p.minutes for p in in_order(p for i in ITEMS.values() for p in i.products(plan).values()))
    lines.append(f"\nscale {plan.scale}, folder {shelf.path}; minutes on one core of everything that an item needs;")
    lines.append(f"items share most of it: all together about {total:.0f}" if total else "unknown at this scale")
    if missing:
        lines.append("not here, and to be given (checkpoints after convert.py, sets of synthetic images):")
        lines += [f"  {name}" for name in sorted(missing)]
    return "\n".join(lines)


def by_source(weights: Mapping[str, str]) -> str:
    """`shipped: mae-digits; made: classifier, edm`."""
    sources: dict[str, list[str]] = {}
    for name, source in weights.items():
        sources.setdefault(source, []).append(name)
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in sources.items())


def data_of(item: Item, plan: Plan) -> list[str]:
    """The data sets that an item's products read."""
    found: dict[str, None] = {}
    for product in in_order(item.products(plan).values()):
        config: Any = DRA_RECIPES[product.config.base]() if product.job == "sweep" else product.config
        parts: list[Any] = [config, getattr(config, "comparison", None), getattr(config, "models", None)]
        found |= dict.fromkeys(part.data for part in parts if hasattr(part, "data"))
    return list(found)


def settings(item: Item, plan: Plan) -> dict[str, object]:
    """The resolved configurations of everything that an item needs."""
    return {product.name: asdict(product.config) for product in in_order(item.products(plan).values())}


def tell_what_is_missing(items: list[Item], plan: Plan, root: Path | None) -> None:
    """Stop with one sentence if a data set of the paper is not at hand.

    Raises:
        DataError: naming the data set and where it was looked for.
    """
    from rp_models.data import open_images

    for data in dict.fromkeys(name for item in items for name in data_of(item, plan)):
        open_images(data, "test", root=root)


if __name__ == "__main__":
    sys.exit(main())
