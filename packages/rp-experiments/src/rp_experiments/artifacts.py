"""What jobs make for the items: each product once, found again by everything that determines it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

DONE = "product.json"  # written last


@dataclass(frozen=True, kw_only=True)
class Product:
    """The folder that one job makes from one configuration.

    A product is found again by its settings, not by the contents of files that they name: a checkpoint or data file
    that is replaced by another one of the same name does not make a new product.

    Attributes:
        job: name of the job, see `rp_experiments.papers.reproduce.MAKERS`.
        config: dataclass of its settings; paths of what `needs` names are filled in when it is made.
        minutes: estimated time on one CPU core; changes nothing.
        needs: other products, by the role in which the job takes them.
    """

    job: str
    config: Any
    minutes: float = 0.0
    needs: Mapping[str, "Product"] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """Job and a hash of all that determines the product: settings, and the names of what it needs."""
        identity = [self.job, asdict(self.config), {role: need.name for role, need in self.needs.items()}]
        text = json.dumps(identity, sort_keys=True)
        return f"{self.job}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def in_order(products: Iterable[Product]) -> list[Product]:
    """The products and all that they need, each once and after what it needs."""
    ordered: dict[str, Product] = {}

    def add(product: Product) -> None:
        for need in product.needs.values():
            add(need)
        ordered.setdefault(product.name, product)

    for product in products:
        add(product)
    return list(ordered.values())


@dataclass(frozen=True)
class Shelf:
    """The folder in which products are kept.

    Attributes:
        path: of the folder; `products/` lies in it.
    """

    path: Path

    def folder(self, product: Product) -> Path:
        """Where a product lies, or will."""
        return self.path / "products" / product.name

    def has(self, product: Product) -> bool:
        """Whether it is finished."""
        return (self.folder(product) / DONE).is_file()

    def get(self, product: Product) -> "Made":
        """The finished product."""
        return Made(product, self.folder(product))


@dataclass(frozen=True)
class Made:
    """A finished product."""

    product: Product
    folder: Path

    def read(self, name: str = "result.json") -> Any:
        """One of its JSON files."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether it has a file."""
        return (self.folder / name).is_file()
