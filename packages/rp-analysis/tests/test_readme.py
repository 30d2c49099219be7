"""The README's example runs."""

import re
from pathlib import Path


def test_the_example_runs_and_its_numbers_make_sense() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["chance"].p_value < 0.05
    assert names["interval"].low < names["score"] < names["interval"].high
    assert names["geometry"][0] < 0 < names["geometry"][1]


def test_every_call_that_the_readme_names_exists() -> None:
    import rp_analysis

    text = (Path(__file__).parents[1] / "README.md").read_text()
    table = text.split("## What there is")[1].split("## What to know")[0]
    named = {name for name in re.findall(r"`(\w+)`", table) if name != "benchmarks"}
    assert named <= set(rp_analysis.__all__), named - set(rp_analysis.__all__)
