"""What items find in finished products: every number that their claims ask for, at every scale that has products."""

import contextlib
import json

import pytest
from rp_experiments import statistics
from rp_experiments.artifacts import Built, Store
from rp_experiments.papers.claims import Claim, UnknownNumber, everyone, larger
from rp_experiments.papers.item import Item, Made, Measured, NotMade
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.scales import SCALES

from .record_products import RECORDED, products_of
from .running import app


def judged(items, made):
    """Every item that `made` gives finished products for has looked at them and judged its claims by what it found."""
    for item in items:
        products = made(item)
        if products:
            numbers = item.look(products).numbers
            json.dumps(numbers, allow_nan=False)  # what is not defined is null, not an infinity
            assert len(item.judgements(Measured(numbers=numbers))) == len(item.claims)


def test_a_mistyped_key_is_an_error():
    claims = (Claim("", everyone(larger("gap", "x"), larger("gpa", "x"))),)
    found = Measured(numbers={"gap": {"estimate": 0.1, "low": 0.1, "high": 0.1}})
    item = Item(key="dra/table-1", paper="DRA", title="", products=dict, look=lambda made: found, claims=claims)
    with pytest.raises(UnknownNumber, match="'gpa'"):
        judged([item], lambda item: {"role": None})


def test_items_give_every_number_that_their_claims_ask_for_and_part_of_them_from_part_of_the_products(monkeypatch):
    gap = {"estimate": 0.1, "low": 0.05, "high": 0.15, "p": 0.01}
    monkeypatch.setattr(statistics, "paired", lambda first, second: gap)  # names count here
    recorded = json.loads(RECORDED.read_text())
    plan = SCALES["digits"]()
    files = {artifact.name: recorded[place] for place, artifact in products_of(plan).items()}

    class Recorded(Built):
        def read(self, name="result.json"):
            return files[self.artifact.name][name]

        def has(self, name):
            return name in files[self.artifact.name]

    def made(item):
        return {role: Recorded(one, None) for role, one in item.products(plan).items()}

    judged(ITEMS.values(), made)
    for item in ITEMS.values():
        for role in (products := made(item)):
            rest = Made({name: one for name, one in products.items() if name != role}, products)
            with contextlib.suppress(NotMade):  # any other error is one
                item.judgements(item.look(rest))


@pytest.mark.slow
def test_items_give_every_number_from_products_that_are_made_now(tmp_path):
    app("reproduce", "all", "--scale", "smoke", "--out", "made", "--cache", "cache", "--launcher", "here", cwd=tmp_path)
    plan, store = SCALES["smoke"](), Store(tmp_path / "made")
    judged(ITEMS.values(), lambda item: {role: store.get(one) for role, one in item.products(plan).items()})
