import re
from pathlib import Path

import pytest
from rp_purify import preset
from rp_purify.presets import TABLES_13_AND_14
from rp_testing.pages import blocks, run_python

PAGE = Path(__file__).parents[1] / "README.md"
README = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other_and_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    first = next(block.body for block in blocks(PAGE) if block.language == "python")
    assert len([line for line in first.splitlines() if line]) <= 10
    scope = run_python(PAGE)
    assert capsys.readouterr().out.startswith(first.rstrip().rpartition("# ")[2])
    assert scope["robust"].model is scope["finetuner"].model


def test_the_table_of_settings_is_what_preset_gives() -> None:
    for data in TABLES_13_AND_14:
        cells = re.search(rf"^\| {data} \|(.*)\|$", README, flags=re.MULTILINE)
        assert cells
        for variant, cell in zip(("mae", "rmae", "maskdit", "rmaskdit"), cells[1].split("|"), strict=True):
            row = preset(data, variant)  # type: ignore[arg-type]
            expected = f"{row['mask_rate']:.2f} / {row['steps']}" + (" *" if row["halve"] else "")
            assert cell.strip() == expected
