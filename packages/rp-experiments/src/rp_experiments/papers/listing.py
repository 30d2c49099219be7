"""What `reproduce.py list` says of the items: state, minutes, data, and where their weights come from."""

from collections.abc import Iterable, Sequence

from rp_experiments import tables
from rp_experiments.artifacts import Artifact, Store, in_order
from rp_experiments.papers.ingredients import Ingredient, data_of, ingredients
from rp_experiments.papers.item import Item
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.plan import Plan
from rp_experiments.papers.tiers import Tier


def chosen(names: tuple[str, ...], tier: Tier | None = None) -> list[Item]:
    """The items of these names, in the papers' order; ValueError for an unknown name, or none, or one of no tier."""
    known = tier.items if tier and tier.items else tuple(ITEMS)
    if names == ("all",):
        return [ITEMS[key] for key in ITEMS if key in known]
    if beyond := [name for name in names if name in ITEMS and name not in known]:
        raise ValueError(f"{', '.join(beyond)}: not in this tier, which has {', '.join(known)}; take a higher --tier")
    unknown = [name for name in names if name not in ITEMS]
    if unknown or not names:
        raise ValueError(f"no item {' '.join(unknown)}; `reproduce.py list` names them all".replace(" ;", ";"))
    return [item for key, item in ITEMS.items() if key in names]


def listing(items: Sequence[Item], plan: Plan, store: Store) -> str:
    """One line an item: whether it is made at this scale, minutes of one core, data, what it is about, its weights."""
    rows: list[tables.Row] = []
    missing: set[str] = set()
    for item in items:
        needed, minutes = item.needed(plan), item.minutes(plan)
        weights = ingredients(needed)
        missing |= {one.advice for one in weights if one.source == "missing"}
        about = f"{item.title}; {_by_source(weights)}" if weights else item.title
        row = {"item": item.key, "status": _status(needed, store), "minutes": round(minutes) if minutes else None}
        rows.append({**row, "data": ", ".join(data_of(needed)), "about; weights": about})
    total = sum(one.minutes for one in in_order(one for item in items for one in item.needed(plan)))
    lines = [tables.text(rows), ""]
    lines.append(f"scale {plan.scale}, folder {store.path}; minutes on one core of everything that an item needs;")
    lines.append(f"items share most of it: all together about {total:.0f}" if total else "unknown at this scale")
    if missing:
        lines.append("not here, and to be given:")
        lines += [f"  {name}" for name in sorted(missing)]
    return "\n".join(lines)


def _status(needed: list[Artifact], store: Store) -> str:
    there = sum(store.has(artifact) for artifact in needed)
    if 0 < there < len(needed):
        return f"{there} of {len(needed)} made"
    return "not at this scale" if not needed else "done" if there else "to do"


def _by_source(weights: Iterable[Ingredient]) -> str:
    """`shipped: mae-digits; made: classifier, edm`."""
    sources: dict[str, list[str]] = {}
    for one in weights:
        sources.setdefault(one.source, []).append(one.name)
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in sources.items())
