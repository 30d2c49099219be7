"""One command line: recipes, errors in one sentence, exit statuses."""

import errno
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro
from rp_experiments import cli
from rp_models.checkpoint import CheckpointError
from rp_models.training.distributed import Stopped
from rp_models.training.loop import Interrupted


@dataclass(frozen=True)
class Setting:
    value: int = 0


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    recipe: Literal["small", "large"] = "small"
    config: Annotated[Setting, tyro.conf.arg(name="")] = field(default_factory=Setting)


RECIPES = {"small": lambda: Setting(1), "large": lambda: Setting(10)}


@pytest.mark.parametrize(
    ("words", "recipe", "value"),
    [
        ([], "small", 1),
        (["--recipe", "large"], "large", 10),
        (["--recipe=large", "--value", "7"], "large", 7),
        (["--value", "7", "--recipe", "large"], "large", 7),
    ],
)
def test_a_recipe_is_where_the_settings_start_from(words, recipe, value):
    options = cli.parse(Options, RECIPES, words)
    assert (options.recipe, options.config.value) == (recipe, value)
    assert options.settings == {"value": value}


@pytest.mark.parametrize("words", [["--recipe"], ["--recipe", "huge"], ["--value"], ["--bogus"]])
def test_words_that_make_no_sense_end_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.parse(Options, RECIPES, words)
    assert end.value.code == 2
    assert words[0] in capsys.readouterr().err


def failing(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    "error",
    [ValueError("eps 8 is too large"), CheckpointError("no file"), Interrupted("nan", step=3), OSError(2, "no file")],
)
def test_what_a_user_can_cause_is_one_sentence(error, capsys):
    with pytest.raises(SystemExit) as end:
        cli.guarded(failing(error))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert str(error) in said
    assert len(said.splitlines()) == 1


def test_a_full_disk_says_how_to_go_on(capsys):
    with pytest.raises(SystemExit):
        cli.guarded(failing(OSError(errno.ENOSPC, "No space left on device")))
    assert "go on with --resume" in capsys.readouterr().err


def test_statuses(capsys, monkeypatch):
    assert cli.guarded(lambda: None) == 0
    assert cli.guarded(failing(KeyboardInterrupt())) == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert cli.guarded(failing(Stopped("the first process stopped"))) == 2
    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.guarded(failing(RuntimeError("a fault of ours")))
    monkeypatch.setenv("RP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="seen whole"):
        cli.guarded(failing(ValueError("seen whole")))


def test_values_are_json_or_text():
    found = cli.named_values(["heads=16", "averaged=false", "name=a=b"])
    assert found == {
        "heads": 16,
        "averaged": False,
        "name": "a=b",
    }
    with pytest.raises(ValueError, match="NAME=VALUE"):
        cli.named_values(["heads"])
