"""All items, in the papers' order."""

from rp_experiments.papers import (
    dra_ablations,
    dra_dimensions,
    dra_features,
    dra_figures,
    dra_tables,
    mae_pure_attacks,
    mae_pure_costs,
    mae_pure_figures,
    mae_pure_tables,
    theorems,
)
from rp_experiments.papers.item import Item

_ALL = (
    *mae_pure_figures.FIGURES,
    *mae_pure_tables.TABLES,
    *mae_pure_attacks.TABLES,
    *mae_pure_costs.TABLES,
    *theorems.THEOREMS,
    *dra_figures.FIGURES,
    *dra_features.FIGURES,
    *dra_tables.TABLES,
    dra_dimensions.TABLE_3,
    *dra_ablations.ABLATIONS,
)
ITEMS: dict[str, Item] = {item.key: item for item in _ALL}
