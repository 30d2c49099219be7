"""An item: one table, figure or theorem of a paper, what it needs, and what is made of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rp_experiments.artifacts import Made, Product, Shelf, in_order
from rp_experiments.papers.claims import OPEN, Claim, Finding, Limits, Numbers

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

Paper = Literal["MAE-Pure", "DRA"]
Cell = str | float | int | None | Limits  # an interval of a share is shown in percent
Row = Mapping[str, Cell]
Products = Mapping[str, Product]


class Table(NamedTuple):
    """Rows of numbers with a title that says what they are of; every row comes from the folder of `product`."""

    title: str
    rows: Sequence[Row]
    product: str  # role of the product


class Figure(NamedTuple):
    """A picture that a product left."""

    caption: str
    product: str  # role of the product
    file: str  # PNG in its folder


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found: tables and figures to look at, and the numbers that claims are judged by."""

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One table, figure or theorem.

    Attributes:
        key: as on the command line, e.g. "mae-pure/table-1".
        paper: which paper.
        title: what it is about.
        products: for the plan of a scale, what it is made from, by role; empty where the scale has nothing for it.
        look: from the finished products to the outcome; no work of its own.
        claims: what the paper says there.
        printed: the paper's tables, file names in `apps/papers`.
        contradictions: where the paper disagrees with itself, as far as it matters here.
        remark: how the scales here differ from the paper.
    """

    key: str
    paper: Paper
    title: str
    products: Callable[["Plan"], Products]
    look: Callable[[Mapping[str, Made]], Outcome]
    claims: tuple[Claim, ...]
    printed: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    remark: str = ""

    @property
    def slug(self) -> str:
        """The key as a file name."""
        return self.key.replace("/", "-")

    def minutes(self, plan: "Plan") -> float:
        """Estimated minutes of everything that it needs, on one CPU core."""
        return sum(product.minutes for product in in_order(self.products(plan).values()))

    def outcome(self, products: Products, shelf: Shelf) -> Outcome:
        """What the finished products say."""
        return self.look({role: shelf.get(product) for role, product in products.items()})

    def findings(self, outcome: Outcome | None) -> list[Finding]:
        """The verdict on each claim; None for a scale that has nothing to make the item from."""
        if outcome is None:
            return [Finding(OPEN, "data and networks of this item are not part of this scale") for _ in self.claims]
        return [claim.judge(outcome.numbers) for claim in self.claims]

    def record(self, plan: "Plan", shelf: Shelf) -> dict[str, Any]:
        """Outcome, verdicts and where every number comes from, as JSON values."""
        products = self.products(plan)
        outcome = self.outcome(products, shelf) if products else None
        shown = outcome or Outcome()
        return {
            "item": self.key,
            "scale": plan.scale,
            "tables": [table._asdict() for table in shown.tables],
            "figures": [figure._asdict() for figure in shown.figures],
            "numbers": dict(shown.numbers),
            "claims": [
                {"text": claim.text, **finding._asdict()}
                for claim, finding in zip(self.claims, self.findings(outcome), strict=True)
            ],
            "products": {role: setting_of(shelf.get(product)) for role, product in products.items()},
        }


def setting_of(made: Made) -> dict[str, Any]:
    """What a reader must know about a product's numbers: data, budget, images, seed, versions, machine, folder."""
    done = made.read("product.json")
    result = made.read() if made.has("result.json") else {}
    setting = dict(result.get("setting") or {})
    setting.pop("index", None)
    setting.setdefault("data", _data_of(made.product))
    return {
        "folder": f"products/{made.product.name}",
        "job": made.product.job,
        "setting": _portable(setting),
        "seconds": done["seconds"],
        "environment": done["environment"],
        "device": done["device"],
    }


def _portable(value: Any) -> Any:
    """A setting whose paths begin at the run folder: what stands before it belongs to one machine."""
    if isinstance(value, Mapping):
        return {key: _portable(one) for key, one in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return str(Path(*Path(value).parts[-3:]))  # run folder, checkpoints/, file
    return value


def _data_of(product: Product) -> str | None:
    """The data set of a product's settings, or of what it needs."""
    config = asdict(product.config)
    nested = (config, config.get("comparison") or {}, config.get("models") or {})
    found = [part["data"] for part in nested if "data" in part]
    found += [data for need in product.needs.values() if (data := _data_of(need))]
    return found[0] if found else None
