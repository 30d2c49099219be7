"""What the papers' runs take: the committed table has their settings, every run fits its card, and the page says so."""

import pytest
from rp_experiments.artifacts import Artifact
from rp_experiments.estimate import costs
from rp_experiments.estimate.cards import CARDS
from rp_experiments.estimate.pieces import Piece, of_comparison, of_networks, of_run, pieces_of
from rp_experiments.estimate.products import cost_of, read, stages_in, total
from rp_experiments.papers.settings import Networks
from rp_experiments.recipes.compare_purifiers import RECIPES as COMPARISONS
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.table import changed

from .running import ROOT

AGAIN = "run `uv run python -m rp_experiments.estimate.costs docs/costs.md`, which counts what is new"


def test_every_training_of_the_papers_is_in_the_table_with_its_settings():
    absent = {f"{command}: {piece.name}" for command, piece in costs.recipes() if piece.key not in read()}
    assert not absent, AGAIN


def test_every_stage_fits_a_card_of_80_gb_with_the_micro_batch_that_it_chooses():
    table, limit = read(), 72 * 2**30
    stages = [stage for entry in table.values() for stage in entry["stages"]]
    assert len(stages) > 100
    assert {(stage["name"], stage["memory"] / 2**30) for stage in stages if stage["memory"] > limit} == set()
    assert all(stage.get("micro_batch") != 0 for stage in stages)
    divided = [stage for stage in stages if stage.get("whole", 0) > limit]
    assert divided  # some would not fit as a whole
    assert all(stage["micro_batch"] < stage["batch"] or stage["checkpointing"] for stage in divided)


def test_the_page_says_what_the_table_says():
    assert costs.trainings(read()) in (ROOT / "docs" / "costs.md").read_text(encoding="utf-8"), AGAIN


def test_a_key_depends_on_what_costs_and_on_nothing_else():
    config = RECIPES["digits"]()

    def keys(**changes):
        return [piece.key for piece in of_run(changed(config, changes))]

    assert keys(seed=3, threads=1) == keys()
    assert keys(**{"training": {"attack_steps": 7}}) != keys()
    assert keys(alignment={"weight": 0.5}) == keys()  # another weight costs the same
    names = [piece.name for piece in of_run(config)]
    assert names == ["edm", "synthetic", *config.method]


def test_networks_are_counted_one_by_one_and_rows_by_the_networks_that_they_have():
    comparison = COMPARISONS["smoke"]()
    (alone,) = of_networks(comparison, ("rmae",))
    assert (alone.name, alone.kind) == ("rmae", "finetuned")
    assert not list(of_networks(changed(comparison, {"mae": "mae-digits"}), ("mae",)))  # given
    pieces = {piece.name: piece for piece in of_comparison(comparison)}
    assert {"classifier", "rmae", "mae_pure", "none"} <= pieces.keys()
    longer = changed(comparison, {"pretrain_mae": {"mae": {"batch_size": 7}}})
    other = {piece.name: piece for piece in of_comparison(longer)}
    assert other["mae_pure"].key == pieces["mae_pure"].key  # the same network


def test_costs_add_up_and_what_is_not_in_the_table_is_named():
    piece, other = Piece("a", "pretrain", RECIPES["digits"]()), Piece("b", "pretrain", RECIPES["smoke"]())
    stage = {"name": "part", "flop": 989e12 * 0.4 * 3600, "memory": 5.0, "precision": "bf16", "disk": 7.0}
    table = {piece.key: {"name": "a", "stages": [stage, {**stage, "memory": 9.0}]}}
    cost = total([piece, other], table, cards=2)
    assert (cost.hours, cost.memory, cost.disk) == (pytest.approx(1.0), 9.0, 14.0)
    assert cost.missing == ("b",)
    (first, _) = stages_in(table, piece)
    assert first.name == "a: part"
    unknown = Artifact(job="nobody", config=Networks(comparison=COMPARISONS["smoke"](), roles=()))
    assert cost_of(unknown).missing == ("nobody",)
    assert pieces_of(unknown)[0].kind == "unknown"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["method", "pretrain", "finetuned", "row", "case"])
def test_counting_again_gives_what_the_table_says(kind):
    pieces = [piece for piece in costs.wanted().values() if piece.kind == kind and piece.key in read()]
    for piece in pieces[:2]:
        entry = costs.count(piece)
        for found, kept in zip(entry["stages"], read()[piece.key]["stages"], strict=True):
            assert found["flop"] == pytest.approx(kept["flop"], rel=1e-3)  # shared counts leave the classes aside
            assert found["memory"] == pytest.approx(kept["memory"], rel=1e-2)
            assert found.get("micro_batch") == kept.get("micro_batch")


def test_the_cards_have_what_the_page_says():
    assert CARDS[costs.CARD].usable == 72 * 2**30
