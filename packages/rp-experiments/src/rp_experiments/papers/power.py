"""How many images or seeds decide a claim: a power calculation from the runs so far."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

from rp_experiments import tables
from rp_experiments.papers.claims import LEVEL
from rp_experiments.papers.effects import Effect
from rp_experiments.papers.items.dra_tables import KINDS, NAMES
from rp_experiments.papers.printed import paper_table
from rp_experiments.statistics import student_interval

POWER = 0.8  # chance of deciding a difference of the assumed size
_PAIRS = (("at+dra", "at"), ("dm-at+dra", "dm-at"), ("dm-at", "at"))
_CELLS = ("AutoAttack", "L1", "L2", "BPDA", "clean", "Linf")  # words of a claim that name a column, the rarest first
_COLUMNS = {"AutoAttack": ("AA", "AutoAttack"), "clean": ("Clean", "Std"), "BPDA": ("Robust",)}


class Needed(NamedTuple):
    """What one difference needs."""

    effect: Effect
    size: float  # points that should be told from the limit
    printed: bool  # the size is the paper's; else the measured one
    images: int  # that the run had
    needed: int  # that decide with the power above
    seconds: float  # of one core, at the run's rate


def share_needed(effect: Effect, size: float, tests: int) -> float:
    """How many times as many images tell a difference of this size from none.

    The level is that of Holm's first step among `tests` claims. The error falls with the root of the number of images:
    those of a run are a random draw, and pairs stay pairs.
    """
    if not size:
        return math.inf
    quantile = NormalDist().inv_cdf
    reach = quantile(1 - LEVEL / (2 * tests)) + quantile(POWER)
    return (reach * effect.error / size) ** 2


def seeds_needed(gaps: Sequence[float], size: float, tests: int) -> int:
    """How many pairs of runs tell a mean difference of this size from none, given the differences of some seeds.

    Student's test with the noncentral t distribution; the spread is that of the seeds at hand.
    """
    import numpy as np
    from scipy.stats import nct, t

    spread, level = float(np.std(gaps, ddof=1)), LEVEL / tests
    for seeds in range(2, 10_001):
        shift = abs(size) / spread * math.sqrt(seeds)
        edge = float(t.ppf(1 - level / 2, seeds - 1))
        if float(nct.sf(edge, seeds - 1, shift)) >= POWER:
            return seeds
    raise ValueError(f"more than 10,000 seeds for a difference of {size:g} with a spread of {spread:g}")


def seed_rows(file: Path, printed: Iterable[str]) -> list[tables.Row]:
    """How many seeds decide the claims about DRA and synthetic images, from a file with one run a seed."""
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    pairs = [(pair, kind) for pair in _PAIRS for kind in KINDS]
    return [_seed_row(runs, *pair, kind, printed, len(pairs)) for pair, kind in pairs]


def _seed_row(runs: Any, better: str, worse: str, kind: str, printed: Iterable[str], tests: int) -> tables.Row:
    gaps = [100 * (run[better][kind]["estimate"] - run[worse][kind]["estimate"]) for run in runs]
    found = student_interval(gaps)
    size = printed_size("", f"{better} minus {worse}, {KINDS[kind]}", printed)
    return {
        "difference": f"{NAMES[better]} minus {NAMES[worse]}, {KINDS[kind]}",
        "seeds now": len(gaps),
        "measured, points": f"{found.estimate:+.2f} [{found.low:+.2f}, {found.high:+.2f}]",
        "size, points": f"{abs(size or found.estimate):.2f}, {'paper' if size else 'measured'}",
        "seeds needed": seeds_needed(gaps, size or found.estimate, tests),
    }


def needed(text: str, effect: Effect, printed: Iterable[str], record: Mapping[str, Any], tests: int) -> Needed | None:
    """What a difference needs, given the item's record; None where no product has images, or no size is known."""
    product = _product(effect.what, record["products"])
    size = printed_size(text, effect.what, printed)
    measured = effect.limit if effect.rule == "within" else abs(effect.estimate - effect.limit)
    chosen = measured if size is None or effect.limit else abs(size)
    if product is None or not chosen:
        return None
    images = int(product["setting"]["images"])
    count = max(math.ceil(images * share_needed(effect, chosen, tests)), fewest(chosen, tests))
    return Needed(effect, chosen, chosen != measured, images, count, product["seconds"] * count / images)


def fewest(size: float, tests: int) -> int:
    """Images with which an exact test can decide at all: all of `size` points of them are on one side."""
    discordant = math.ceil(math.log2(2 * tests / LEVEL))
    return math.ceil(100 * discordant / size)


def _product(what: str, products: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The product that a difference was read from: of attacks in other norms, or the first one with images."""
    there = {role: one for role, one in products.items() if one["setting"].get("images")}
    norms = [
        one
        for role, one in there.items()
        if role.startswith("norms") and ("l2" in what.lower() or "l1" in what.lower())
    ]
    return next(iter([*norms, *there.values()]), None)


def printed_size(text: str, what: str, names: Iterable[str]) -> float | None:
    """The difference of `A minus B` in the paper's tables, in points; None where they do not have both.

    Rows of the same network and data are compared, or the only row of each.
    """
    first, minus, rest = what.partition(" minus ")
    if not minus:
        return None
    systems = [_plain(name.rpartition(": ")[2].partition(",")[0]) for name in (first, rest)]
    words = f"{what} {text}"
    for name in names:
        rows = paper_table(name).rows
        column = _column(words, list(rows[0]))
        found = [[row for row in rows if _plain(next(iter(_names(row)))) == system] for system in systems]
        pair = _pair(*found)
        if column and pair and "-" not in (pair[0][column], pair[1][column]):
            return float(str(pair[0][column])) - float(str(pair[1][column]))
    return None


def _names(row: tables.Row) -> list[str]:
    """The cell that names the system: that of the first column with this heading, or the first one."""
    headings = ("Method", "Defense model")
    return [str(row[heading]) for heading in headings if heading in row] or [str(next(iter(row.values())))]


def _plain(name: str) -> str:
    """`dm-at+dra`, from `DM-AT + DRA` or `DM-AT+DRA (Ours)`."""
    return name.partition(" (")[0].replace(" ", "").lower()


def _column(words: str, headings: Sequence[str]) -> str | None:
    """The column that words such as `clean images` or `worst case in L2` mean; None where they could mean several."""
    for word in _CELLS:
        if word.lower() in words.lower():
            known = _COLUMNS.get(word, (word,))
            found = [heading for heading in headings if any(part in heading for part in known)]
            if found:
                return found[1 if ", other " in words and len(found) > 1 else 0]
    return next((heading for heading in headings if heading in ("PGD+EOT",)), None)


def _pair(first: Sequence[tables.Row], second: Sequence[tables.Row]) -> tuple[tables.Row, tables.Row] | None:
    """Two rows that agree in every cell that is no result, or the only two."""
    same = ("Dataset", "Model", "Architecture", "Synthetic", "Batch", "Epoch")
    for one in first:
        for other in second:
            if all(one[name] == other[name] for name in same if name in one):
                return one, other
    return (first[0], second[0]) if len(first) == len(second) == 1 else None
