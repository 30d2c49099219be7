"""All items, in the papers' order: their words and claims from the TOML files, how they look from the modules here."""

import tomllib
from pathlib import Path
from typing import Any

from rp_experiments.papers.claims import Claim, check_of, everywhere
from rp_experiments.papers.item import Figure, Item, Paper
from rp_experiments.papers.items import (  # noqa: F401  the modules say how items look, and add rules
    dra_ablations,
    dra_features,
    dra_robustness,
    dra_tables,
    mae_pure_attacks,
    mae_pure_attention,
    mae_pure_settings,
    mae_pure_tables,
    theorems,
)
from rp_experiments.papers.items.looks import LOOKS
from rp_experiments.recipes.dra import RECIPES

_PAPERS: dict[str, Paper] = {"mae-pure": "MAE-Pure", "dra": "DRA"}


def _item(key: str, words: dict[str, Any], shared: dict[str, list[Any]]) -> Item:
    """The item of a key, from its table in the TOML file."""
    products, look = LOOKS[key]
    rows = shared.get(words.pop("shared", ""), []) + words.pop("claims", [])
    checks = {text: check_of(rule) for text, *rule in rows}
    if words.pop("everywhere", False):
        checks = {text: everywhere(check) for text, check in checks.items()}
    data = tuple(words.pop("data", ()))
    needs = {text: data or _needs(*rule) for text, *rule in rows}
    claims = tuple(Claim(text, check, needs[text]) for text, check in checks.items())
    words |= {name: tuple(words.get(name, ())) for name in ("printed", "contradictions")}
    figures = tuple(Figure(*figure) for figure in words.pop("figures", ()))
    paper = _PAPERS[key.partition("/")[0]]
    return Item(key=key, paper=paper, products=products, look=look, claims=claims, figures=figures, **words)


def _needs(rule: str, place: Any = "", *_: Any) -> tuple[str, ...]:
    """The data set of a rule's place: one data set, or one recipe of `train_dra.py`."""
    return (place,) if rule == "in_place" else (RECIPES[place]().data,) if rule == "in_run" else ()


def _read(paper: str) -> dict[str, Item]:
    """The items of a paper; a table without a title holds claims that several of them share."""
    tables = tomllib.loads((Path(__file__).parent / f"{paper}.toml").read_text(encoding="utf-8"))
    shared = {name: words["claims"] for name, words in tables.items() if "title" not in words}
    return {f"{paper}/{n}": _item(f"{paper}/{n}", words, shared) for n, words in tables.items() if n not in shared}


ITEMS: dict[str, Item] = _read("mae-pure") | _read("dra")
if LOOKS.keys() - ITEMS.keys():
    raise LookupError(f"no words for {', '.join(sorted(LOOKS.keys() - ITEMS.keys()))}")
