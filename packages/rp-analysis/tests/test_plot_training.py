"""Figures of training runs: every number that is drawn is saved."""

import json

import pytest
from rp_analysis.plots import plot_comparison, plot_training


def test_training_curves_are_saved_with_their_numbers(tmp_path):
    records = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.0, "validation_accuracy": 0.5, "validation_robust_accuracy": 0.25},
    ]
    files = plot_training({"at": records, "dm-at": records[:1]}).save(tmp_path / "training")
    assert {path.suffix for path in files} == {".pdf", ".svg", ".png", ".json", ".csv"}
    rows = json.loads((tmp_path / "training.json").read_text())
    assert [row["loss"] for row in rows] == [2.0, 1.0, 2.0]
    assert rows[1]["validation_robust_accuracy"] == 0.25
    assert rows[0]["validation_accuracy"] is None


def test_the_comparison_shows_each_interval(tmp_path):
    value = {"estimate": 0.9, "low": 0.8, "high": 0.95}
    plot = plot_comparison({"at": {"clean": value, "autoattack": {"estimate": 0.5, "low": 0.4, "high": 0.6}}}, "digits")
    (axes,) = plot.figure.axes
    assert axes.get_title() == "digits"
    assert [text.get_text() for text in axes.texts] == ["90.0", "50.0"]
    assert [row["estimate"] for row in plot.rows] == [0.9, 0.5]


@pytest.mark.parametrize("names", [("at",), ("standard", "at", "dm-at", "dm-at+dra", "dm-at+dra, no synthetic images")])
def test_numbers_and_names_of_the_comparison_do_not_cover_each_other(names):
    value = {"estimate": 1.0, "low": 0.999, "high": 1.0}
    plot = plot_comparison({name: {"clean": value, "autoattack": value} for name in names}, "digits")
    plot.figure.draw_without_rendering()
    (axes,) = plot.figure.axes
    for texts in ([*axes.texts, axes.get_legend()], axes.get_xticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_training({})
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_comparison({})
