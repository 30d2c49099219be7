"""Write what the items read from finished products to `tests/recorded/`, for the test that no claim asks in vain.

    uv run python tests/record_products.py runs/reproduce/digits

Lists of images are cut to a few and numbers rounded: nothing is concluded from them. To be run again when a job writes
something else, or when an item reads more.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "tests" / "recorded" / "digits.json"
IMAGES = 8  # kept of each list over images
_LONG = {"right", "clean_right", "clean", "worst", "autoattack", "noise"}  # names of lists over images
_UNREAD = {
    *("config", "environment", "findings", "chosen", "distance", "networks", "purifier", "majority", "all_of_n"),
    *("problem", "table", "tables", "claims", "layers", "never_fired", "per_sample_loss"),
}


def products_of(plan: Any) -> dict[str, Any]:
    """The products of a plan, each once, by where they first stand in it: `sweep`, `runs/digits`."""
    found: dict[str, Any] = {}
    for field in plan.__dataclass_fields__:
        value = getattr(plan, field)
        several = value if isinstance(value, Mapping) else {"": value} if hasattr(value, "job") else {}
        for name, product in several.items():
            if product.name not in {one.name for one in found.values()}:
                found[f"{field}/{name}".rstrip("/")] = product
    return found


def shortened(value: Any, name: str = "") -> Any:
    """The same with short lists, rounded numbers and relative names, and without what no item reads."""
    if isinstance(value, Mapping):
        return {key: shortened(one, key) for key, one in value.items() if key not in _UNREAD}
    if isinstance(value, list):
        return [shortened(one) for one in (value[:IMAGES] if name in _LONG else value)]
    if isinstance(value, str) and Path(value).is_absolute():
        return "/".join(Path(value).parts[-3:])  # where it lay on this machine is nobody's business
    return round(value, 5) if isinstance(value, float) else value


def main(folder: Path) -> None:
    """Look at every item and keep what it opened."""
    from rp_experiments.artifacts import Built
    from rp_experiments.papers.items import ITEMS
    from rp_experiments.papers.scales import SCALES

    opened: dict[str, set[str]] = {}

    class Watched(Built):
        """A product that remembers which of its files were read."""

        def read(self, name: str = "result.json") -> Any:
            opened.setdefault(self.artifact.name, set()).add(name)
            return super().read(name)

    plan = SCALES["digits"]()
    for item in ITEMS.values():
        products = item.products(plan)
        if products:
            item.look({role: Watched(one, folder / "products" / one.name) for role, one in products.items()})
    found = {
        place: {
            name: shortened(json.loads((folder / "products" / product.name / name).read_text(encoding="utf-8")))
            for name in sorted(opened.get(product.name, ()))
        }
        for place, product in products_of(plan).items()
    }
    RECORDED.parent.mkdir(exist_ok=True)
    RECORDED.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
