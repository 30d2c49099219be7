import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_first_example_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert len(code.splitlines()) <= 11
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out.strip() == code.rstrip().rpartition("# ")[2]
