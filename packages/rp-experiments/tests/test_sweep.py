"""`sweep.py`: grids from the command line, statistics, and a whole small sweep that is stopped and goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rp_attacks import PGD
from rp_experiments.recipes.sweep import SWEEPS, Sweep, configuration, grid_of, name_of, sweep_options
from rp_experiments.run import Run
from rp_experiments.sweep import run_sweep
from rp_experiments.train_dra import TrainDraJob
from rp_models.training import RunError, RunFolder


def test_fig8_varies_the_alignments_weight_alone():
    sweep = SWEEPS["fig8"]()
    configs = [configuration(sweep, point, 0) for point in sweep.points().values()]
    assert [config.alignment.weight for config in configs] == [0.0, 0.3, 0.6, 1.2, 2.4]
    assert len({replace(config, alignment=configs[0].alignment).__repr__() for config in configs}) == 1


def test_the_seeds_recipe_has_five_seeds_of_four_methods():
    sweep = SWEEPS["seeds"]()
    assert sweep.seeds == (0, 1, 2, 3, 4)
    assert sweep.method == ("at", "at+dra", "dm-at", "dm-at+dra")
    assert [configuration(sweep, {}, seed).seed for seed in sweep.seeds] == [0, 1, 2, 3, 4]


def test_a_grid_is_all_combinations():
    grid = grid_of(["--training.beta", "3", "5", "--alignment.random-level", "no"])
    assert grid == {"training.beta": ("3", "5"), "alignment.random_level": ("no",)}
    points = list(Sweep(grid=grid).points().values())
    assert points == [
        {"training.beta": "3", "alignment.random_level": "no"},
        {"training.beta": "5", "alignment.random_level": "no"},
    ]
    assert name_of(points[0]) == "training.beta=3,alignment.random_level=no"
    config = configuration(Sweep(grid=grid), points[1], 4)
    assert (config.training.beta, config.alignment.random_level, config.seed) == (5.0, "no", 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["3", "5"], "belongs to no setting"),
        (["--a", "1", "--a", "2"], "stands twice"),
    ],
)
def test_words_that_are_no_grid_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        grid_of(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base": "digts"}, "base must be a recipe"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "names one twice"),
        ({"grid": {"training.beta": ()}}, "--training.beta needs at least one value"),
        ({"grid": {"training.beta": ("1", "1")}}, "names a value twice"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sweep(**arguments)


@pytest.mark.parametrize(
    ("point", "message"),
    [({"training.betta": "3"}, "training.betta"), ({"training.beta": "much"}, "training.beta")],
)
def test_unknown_settings_and_values_end_before_any_run(point, message, capsys):
    with pytest.raises(SystemExit) as end:
        configuration(Sweep(), point, 0)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_controls_are_named_points_that_differ_in_the_alignment_alone():
    sweep = SWEEPS["controls"]()
    points = sweep.points()
    assert list(points) == [
        *("none", "edm", "untrained-edm", "untrained-network", "noisy-encoder", "supervised"),
        *("shuffled", "shuffled-in-class", "own-natural-features"),
    ]
    assert (len(sweep.seeds), sweep.against) == (10, "edm")
    configs = {name: configuration(sweep, point, 0) for name, point in points.items()}
    assert len({replace(config, alignment=configs["none"].alignment).__repr__() for config in configs.values()}) == 1
    assert [name for name, config in configs.items() if not config.alignment.aligns] == ["none", "own-natural-features"]
    assert [name for name, config in configs.items() if config.makes_target] == ["noisy-encoder", "supervised"]
    assert {name for name, config in configs.items() if config.needs_diffusion_model} == (
        set(points) - {"none", "own-natural-features", "untrained-network", "supervised"}
    )


def test_some_of_the_cases_can_be_named():
    options = sweep_options(["--recipe", "controls", "--only", "edm", "none"])
    assert list(options.config.cases) == ["none", "edm"]
    assert len(sweep_options(["--recipe", "controls"]).config.cases) == 9
    with pytest.raises(ValueError, match="--only edn: the cases of controls are none, edm, untrained-edm"):
        _ = sweep_options(["--recipe", "controls", "--only", "edn"]).config
    with pytest.raises(ValueError, match="against must be a point of none: 'edm'"):
        _ = sweep_options(["--recipe", "controls", "--only", "none"]).config


def test_cases_and_a_grid_multiply_and_a_value_may_hold_several():
    sweep = Sweep(
        cases={"a": {}, "b": {"alignment.shuffle": "all"}}, grid={"alignment.sigma": ("0.1", "0.05 0.2")}, against=""
    )
    assert list(sweep.points()) == [f"{case},alignment.sigma={value}" for case in "ab" for value in ("0.1", "0.05+0.2")]
    config = configuration(sweep, sweep.points()["b,alignment.sigma=0.05+0.2"], 0)
    assert (config.alignment.sigma, config.alignment.shuffle) == ((0.05, 0.2), "all")
    with pytest.raises(ValueError, match="against must be a point of a, b"):
        Sweep(cases={"a": {}, "b": {}}, against="c")


def test_targets_that_a_run_trains_itself_are_found_again(weak, tmp_path, monkeypatch, capsys):
    from rp_experiments import alignment_networks

    monkeypatch.setattr("rp_experiments.reports.dra_report.plot_training", lambda curves: None)
    monkeypatch.setattr("rp_experiments.reports.dra_report.write", lambda *arguments, **options: None)
    standard = alignment_networks.STANDARD["digits"]()
    tiny = replace(standard, standard=replace(standard.standard, steps=2, batch_size=8))
    monkeypatch.setitem(alignment_networks.STANDARD, "digits", lambda: tiny)
    quick = {"encoder.epochs": ("1",), "encoder.batch_size": ("512",), "training.epochs": ("1",)}
    cases = {"encoder": {"alignment.target": "encoder"}, "network": {"alignment.target": "network"}}
    sweep = Sweep(base="smoke", method=("at+dra",), grid=quick, cases=cases)
    run = Run(folder=RunFolder(tmp_path / "out"), cache=tmp_path / "cache")
    run_sweep(replace(sweep, against=list(sweep.points())[1]), run)
    made = [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert (made.count("classifier"), made.count("encoder")) == (1, 1)
    rows = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    assert rows[0]["clean_other_difference"] is not None
    assert rows[1]["clean_other_difference"] is None
    assert ", from network" in capsys.readouterr().out


@pytest.fixture
def weak(monkeypatch):
    """One weak attack, no figures of single runs."""
    monkeypatch.setattr(TrainDraJob, "attacks", lambda job: {"pgd": PGD(eps=0.1, step_size=0.05, steps=1)})


def test_a_sweep_shares_what_it_can_goes_on_where_it_stopped_and_reports(weak, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rp_experiments.reports.dra_report.plot_training", lambda curves: None)
    monkeypatch.setattr("rp_experiments.reports.dra_report.write", lambda *arguments, **options: None)
    sweep = replace(SWEEPS["smoke"](), seeds=(0, 1))
    run = Run(folder=RunFolder(tmp_path / "out"), cache=tmp_path / "cache")
    train, calls = TrainDraJob.classifier, []

    def stopping(job, *arguments):
        calls.append(arguments[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        train(job, *arguments)

    monkeypatch.setattr(TrainDraJob, "classifier", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, run)
    with pytest.raises(RunError, match="already holds a run"):
        run_sweep(sweep, run)
    run_sweep(sweep, replace(run, resume=True))
    table = capsys.readouterr().out
    assert table.count("alignment.weight=1.2") == 1
    assert len(list((tmp_path / "cache").glob("edm-*.safetensors"))) == 2  # one for each seed, shared by the points
    assert len(list((tmp_path / "cache").glob("synthetic-*.npz"))) == 2
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    first, second = result["rows"]
    assert first["clean_difference"] is None
    assert len(second["autoattack_per_seed"]) == 2
    gains = np.subtract(second["clean_per_seed"], first["clean_per_seed"])
    assert second["clean_difference"]["over_seeds"]["estimate"] == pytest.approx(gains.mean())
    assert second["clean_difference"]["p_corrected"] == second["clean_difference"]["p"]  # of one comparison
    assert (tmp_path / "out" / "figures" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "table.txt").read_text().strip() in table
