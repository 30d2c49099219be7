import re
from pathlib import Path
from typing import Any

import pytest
from rp_purify import preset
from rp_purify.presets import TABLES_13_AND_14

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_examples_run_one_after_the_other_and_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert len([line for line in EXAMPLES[0].splitlines() if line]) <= 10
    scope: dict[str, Any] = {}
    exec(EXAMPLES[0], scope)
    assert capsys.readouterr().out.strip() == EXAMPLES[0].rstrip().rpartition("# ")[2]
    for example in EXAMPLES[1:]:
        exec(example, scope)
    assert scope["robust"].model is scope["finetuner"].model


def test_the_table_of_settings_is_what_preset_gives() -> None:
    for data in TABLES_13_AND_14:
        cells = re.search(rf"^\| {data} \|(.*)\|$", README, flags=re.MULTILINE)
        assert cells
        for variant, cell in zip(("mae", "rmae", "maskdit", "rmaskdit"), cells[1].split("|"), strict=True):
            row = preset(data, variant)  # type: ignore[arg-type]
            expected = f"{row['mask_rate']:.2f} / {row['steps']}" + (" *" if row["halve"] else "")
            assert cell.strip() == expected
