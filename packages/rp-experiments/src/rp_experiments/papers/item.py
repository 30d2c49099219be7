"""An item: one table, figure or theorem of a paper, what it needs, and what is made of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rp_experiments.artifacts import Artifact, Built, Store, data_sets, in_order
from rp_experiments.papers.claims import OPEN, Claim, Judgement, Numbers
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

Paper = Literal["MAE-Pure", "DRA"]
Products = Mapping[str, Artifact]
_KINDS = {"fig": "Fig.", "table": "Table", "theorem": "Theorem", "section": "Section", "appendix": "Appendix"}


class Table(NamedTuple):
    """Rows of numbers with a title that says what they are of; every row comes from the folder of one product."""

    title: str
    rows: Sequence[Row]
    product: str  # role of the product


class Figure(NamedTuple):
    """A picture that a product left."""

    caption: str
    product: str  # role of the product
    file: str  # PNG in its folder


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found: tables and figures to look at, and the numbers that claims are judged by."""

    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    numbers: Numbers = field(default_factory=dict)


Look = Callable[[Mapping[str, Built]], Measured]


class NotMade(KeyError):
    """A look asks for a product that is not there yet."""


class Made(dict[str, Built]):
    """Finished products by role; those of `roles` that are not there are still to come, any other name is wrong."""

    def __init__(self, products: Mapping[str, Built], roles: Iterable[str]) -> None:
        super().__init__(products)
        self.roles = tuple(roles)  # in the plan's order

    def __missing__(self, role: str) -> Built:
        raise NotMade(role) if role in self.roles else KeyError(role)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One table, figure or theorem."""

    key: str  # as on the command line, e.g. "mae-pure/table-1"
    paper: Paper
    title: str
    products: Callable[["Plan"], Products]  # what it is made from, by role; empty where the scale has nothing for it
    look: Look  # from the finished products to what they say; no work of its own
    claims: tuple[Claim, ...]
    printed: tuple[str, ...] = ()  # the paper's tables, names of files in `tables/`
    contradictions: tuple[str, ...] = ()  # where the paper disagrees with itself, as far as it matters here
    figures: tuple[Figure, ...] = ()  # beside those that the look finds
    remark: str = ""  # how the scales here differ from the paper

    @property
    def slug(self) -> str:
        """The key as a file name."""
        return self.key.replace("/", "-")

    @property
    def name(self) -> str:
        """`Table 1`, from `dra/table-1`; `Fig. 1 and 9`, from `dra/fig-1-9`; `Section 5.6 (target)`."""
        kind, number, *rest = self.key.partition("/")[2].split("-")
        number = number.upper() if kind in ("theorem", "appendix") else number
        return " ".join([_KINDS[kind], number, *(f"and {word}" if kind == "fig" else f"({word})" for word in rest)])

    def parts(self, plan: "Plan") -> dict[str, Artifact]:
        """What it is made from at the plan's tier, by role."""
        return {role: product for role, product in self.products(plan).items() if plan.includes(product)}

    def needed(self, plan: "Plan") -> list[Artifact]:
        """Everything that it needs, each after what that needs."""
        return in_order(self.parts(plan).values())

    def minutes(self, plan: "Plan") -> float:
        """Estimated minutes of everything that it needs, on one CPU core."""
        return sum(product.minutes for product in self.needed(plan))

    def _pictures(self, made: Iterable[str]) -> list[Figure]:
        """The item's own figures in the products that are there; one for each data set of `views, cifar10`."""
        return [
            figure._replace(product=role)
            for figure in self.figures
            for role in made
            if role == figure.product or role.startswith(f"{figure.product}, ")
        ]

    def judgements(self, measured: Measured | None) -> list[Judgement]:
        """The verdict on each claim; None for a scale that has nothing to make the item from."""
        if measured is None:
            return [Judgement(OPEN, "data and networks of this item are not part of this scale") for _ in self.claims]
        return [claim.judge(measured.numbers) for claim in self.claims]

    def record(self, plan: "Plan", store: Store) -> dict[str, Any] | None:
        """Outcome, verdicts and where every number comes from, as JSON values, from the products that are there.

        None where nothing can be said yet; claims about products that are missing stay open.
        """
        products = self.products(plan)
        made = Made({role: store.get(one) for role, one in products.items() if store.has(one)}, products)
        waiting = sorted(product.name for role, product in products.items() if role not in made)
        if waiting and not made:
            return None
        try:
            measured = self.look(made) if made else None
        except NotMade:
            return None
        judgements = self.judgements(measured)
        shown = measured or Measured()
        return {
            "item": self.key,
            "scale": plan.scale,
            "tables": [table._asdict() for table in shown.tables],
            "figures": [figure._asdict() for figure in (*self._pictures(made), *shown.figures)],
            "numbers": dict(shown.numbers),
            "claims": [
                {"text": claim.text, **judgement._asdict()}
                for claim, judgement in zip(self.claims, judgements, strict=True)
            ],
            "products": {role: setting_of(one) for role, one in made.items()},
            "waiting": waiting,
        }


def setting_of(made: Built) -> dict[str, Any]:
    """What a reader must know about a product's numbers: data, budget, images, seed, versions, machine, folder."""
    done = made.read("product.json")
    result = made.read() if made.has("result.json") else {}
    setting = {key: value for key, value in (result.get("setting") or {}).items() if key != "index"}
    setting.setdefault("data", next(iter(data_sets(made.artifact)), None))
    return {
        "folder": f"products/{made.artifact.name}",
        "job": made.artifact.job,
        "setting": _portable(setting),
        **{key: done[key] for key in ("seconds", "environment", "device")},
    }


def _portable(value: Any) -> Any:
    """A setting whose paths begin at the run folder: what stands before it belongs to one machine."""
    if isinstance(value, Mapping):
        return {key: _portable(one) for key, one in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return str(Path(*Path(value).parts[-3:]))  # run folder, checkpoints/, file
    return value
