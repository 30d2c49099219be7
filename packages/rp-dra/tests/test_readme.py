"""The README's example runs as it stands."""

from pathlib import Path

from rp_testing.pages import run_python


def test_the_example_of_the_readme_runs(capsys):
    run_python(Path(__file__).parent.parent / "README.md")
    assert capsys.readouterr().out.count("'loss'") == 5
