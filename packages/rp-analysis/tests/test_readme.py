"""The README's example runs."""

import re
from pathlib import Path

from rp_testing.pages import run_python


def test_the_example_runs_and_its_numbers_make_sense() -> None:
    names = run_python(Path(__file__).parents[1] / "README.md")
    assert names["chance"].p_value < 0.05
    assert names["interval"].low < names["score"] < names["interval"].high
    assert names["geometry"][0] < 0 < names["geometry"][1]


def test_every_call_that_the_readme_names_exists() -> None:
    import rp_analysis
    from rp_analysis import dimension, frequency, plots, sae_evaluation, saliency, similarity

    text = (Path(__file__).parents[1] / "README.md").read_text()
    table = text.split("## What there is")[1].split("## What to know")[0]
    named = {name for name in re.findall(r"`(\w+)`", table) if name != "benchmarks"}
    places = (rp_analysis, plots, dimension, frequency, sae_evaluation, saliency, similarity)
    missing = {name for name in named if not any(name in dir(place) for place in places)}
    assert not missing
