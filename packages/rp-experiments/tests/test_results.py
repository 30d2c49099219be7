"""Accuracies as files hold them and as tables and pages show them."""

import math
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rp_analysis.plots import Plot
from rp_analysis.plots.style import new_figure
from rp_attacks.intervals import wilson_interval
from rp_experiments import tables
from rp_experiments.pages import PER_INCH, Page, pixels, render, vector
from rp_experiments.results import counted, curve, judged, limits, percent, points

NINETEEN = {"right": 19, "of": 20, "estimate": 0.95, "low": 0.7639, "high": 0.9911}  # R: prop.test(19, 20, correct=F)


def test_counted_answers_have_wilsons_interval():
    found = counted(19, 20)
    assert list(found) == ["right", "of", "estimate", "low", "high"]
    assert found == {key: pytest.approx(value, abs=5e-5) for key, value in NINETEEN.items()}


@given(st.integers(1, 10**6).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_an_accuracy_lies_within_its_limits_in_unit_range(count):
    found = counted(*count)
    assert 0 <= found["low"] <= found["estimate"] + 1e-12  # rounding
    assert found["estimate"] - 1e-12 <= found["high"] <= 1
    assert found["estimate"] == count[0] / count[1]


def report(random):
    vote = wilson_interval(1, 2)
    verdict = SimpleNamespace(per_query=wilson_interval(3, 4), majority=vote, all_of_n=wilson_interval(0, 2))
    return SimpleNamespace(random=random, verdict=lambda record: verdict)


def test_a_random_defence_has_the_vote_and_repeated_queries_beside_one_query():
    record = SimpleNamespace(right=np.array([[True, True], [True, False]]))
    found = judged(report(random=True), record)
    assert (found["right"], found["of"], found["estimate"]) == (3, 4, 0.75)
    assert (found["majority"]["estimate"], found["all_of_n"]["estimate"]) == (0.5, 0.0)
    assert limits(found, "majority") == found["majority"]
    alone = judged(report(random=False), record)
    assert "majority" not in alone
    assert limits(alone, "all_of_n") == limits(alone)  # every query has the same answer


def test_files_that_hold_kinds_side_by_side_or_curves_as_columns_are_read():
    old = {"right": 3, "of": 4, "per_query": {"estimate": 0.75, "low": 0.3, "high": 0.95}}
    assert limits(old) == old["per_query"]
    assert limits({"correct": 19, "images": 20, "estimate": 0.95, "low": 0.7, "high": 1.0})["estimate"] == 0.95
    columns = {"eps": [0.0, 0.1], "accuracy": [0.9, 0.5], "low": [0.8, 0.4], "high": [1.0, 0.6], "images": 20}
    assert curve(columns) == [
        {"eps": 0.0, "estimate": 0.9, "low": 0.8, "high": 1.0},
        {"eps": 0.1, "estimate": 0.5, "low": 0.4, "high": 0.6},
    ]
    assert curve(curve(columns)) == curve(columns)
    with pytest.raises(KeyError, match="estimate"):
        limits({"accuracy": 0.5})


def test_accuracies_are_shown_in_percent_and_differences_in_points():
    assert percent(NINETEEN) == "95.0 [76.4, 99.1]"
    assert points({"estimate": 0.03, "low": -0.012, "high": 0.0712}) == "+3.0 [-1.2, +7.1]"


ROWS = [
    {"method": "AT | DRA", "accuracy %": NINETEEN, "seconds": 12.34567},
    {"method": "standard", "seconds": math.nan, "steps": 3},
]


def test_a_table_as_text_and_as_markdown():
    lines = tables.text(ROWS).splitlines()
    assert lines[0].split() == ["method", "accuracy", "%", "seconds", "steps"]
    assert lines[2].split() == ["AT", "|", "DRA", "95.0", "[76.4,", "99.1]", "12.35", "–"]
    assert lines[3].split() == ["standard", "–", "–", "3"]
    head, rule, first, second = tables.markdown(ROWS).splitlines()
    assert [word.strip() for word in head.strip("|").split("|")] == ["method", "accuracy %", "seconds", "steps"]
    assert [word[0] + word[-1] for word in rule.strip("|").split("|")] == [":-", "-:", "-:", "-:"]
    assert "AT \\| DRA" in first
    assert second.count("|") == 5
    with pytest.raises(ValueError, match="at least one row"):
        tables.text([])


def test_words_that_look_like_numbers_stay_as_they_are():
    assert "0010" in tables.text([{"name": "0010"}])
    assert "1e3" in tables.markdown([{"name": "1e3"}])


class Seen(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def drawn():
    figure, (axes,) = new_figure(width=5.0, height=1.0)
    axes.plot([0, 1], [0, 1])
    return Plot(figure, [])


def test_a_page_escapes_what_it_is_given_and_holds_everything(tmp_path):
    evil = '<script>alert("&")</script>'
    page = Page(evil)
    page.section(evil)
    page.text(evil)
    page.table([{evil: evil, "share": NINETEEN}], evil)
    page.section("second")
    page.figure(drawn(), evil)
    text = page.write(tmp_path / "new" / "index.html").read_text()
    seen = Seen(text)
    assert seen.open == []
    assert "<script" not in text
    assert sum(evil in word for word in seen.words) == 9  # title twice, link, section, text, heading, cell, captions
    assert "95.0 [76.4, 99.1]" in seen.words
    links = [attrs["href"] for tag, attrs in seen.tags if tag == "a"]
    assert links == ["#s1", "#s2"]
    assert [attrs["id"] for tag, attrs in seen.tags if tag == "h2"] == ["s1", "s2"]
    assert "http" not in text.replace("data:image/svg+xml", "")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["index.html"]
    with pytest.raises(ValueError, match="at least one row"):
        page.table([])


def test_the_text_of_figures_is_readable_on_a_phone(tmp_path):
    """A figure's smallest type is 7 points: on a screen 390 pixels wide it keeps 11 pixels and scrolls."""
    plot = drawn()
    plot.save(tmp_path / "figure", formats=("png",))
    for picture in (vector(plot, "a"), pixels(tmp_path / "figure.png", "a")):
        assert picture.least == pytest.approx(5.0 * PER_INCH, abs=1)
        assert 7 / 72 * PER_INCH >= 11
    page = Page("x")
    page.figure(plot, "a")
    (image,) = (attrs for tag, attrs in Seen(page.write(tmp_path / "x.html").read_text()).tags if tag == "img")
    assert image["style"] == "min-width: 600px"


def test_a_template_with_a_missing_name_is_an_error():
    with pytest.raises(Exception, match="'parts' is undefined"):
        render("page.html", title="x")
