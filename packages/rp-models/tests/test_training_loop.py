"""The loop and its state: killed anywhere and resumed, the weights are the same bit for bit."""

import itertools
import json
import os
import sys
import threading
import time

import pytest
import torch
from rp_models import CheckpointError
from rp_models.checkpoint import read_tensors, save_tensors
from rp_models.files import complete_file
from rp_models.training import (
    Interrupted,
    Processes,
    RunError,
    RunFolder,
    TensorBoard,
    TrainingState,
    fit,
    seeded,
    train_stage,
)
from safetensors import SafetensorError
from torch import nn

STEPS = 12


class Toy:
    """A trainer whose steps use dropout, momentum and Adam-like state."""

    def __init__(self, optimizer=torch.optim.AdamW):
        with seeded(0, "toy"):
            self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.state = TrainingState({"model": self.model}, optimizer(self.model.parameters(), lr=0.01))

    def step(self, step):
        x = torch.sin(torch.arange(24.0).reshape(6, 4) + step)
        loss = self.model(x).square().mean()
        self.state.optimizer.zero_grad()
        loss.backward()
        self.state.optimizer.step()
        return {"loss": loss.item()}


class Killed(BaseException):
    pass


def train(folder, toy, kill_at=None, **options):
    def step(number):
        if number == kill_at:
            raise Killed
        return toy.step(number)

    trainer = type("T", (), {"state": toy.state, "step": staticmethod(step)})
    train_stage(
        trainer, stage="toy", steps=STEPS, folder=folder, identity={"a": 1}, seed=0, save_seconds=0.0, **options
    )
    return {key: value.clone() for key, value in toy.model.state_dict().items()}


@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.AdamW, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True)],
    ids=["adamw", "sgd"],
)
@pytest.mark.parametrize("kill_at", [0, 1, 7, STEPS - 1])
def test_a_killed_training_ends_with_the_same_weights(tmp_path, optimizer, kill_at):
    whole = train(RunFolder.open(tmp_path / "a", {}, resume=False), Toy(optimizer))
    folder = RunFolder.open(tmp_path / "b", {}, resume=False)
    with pytest.raises(Killed):
        train(folder, Toy(optimizer), kill_at=kill_at)
    resumed = train(RunFolder.open(tmp_path / "b", {}, resume=True), Toy(optimizer))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    steps = [record["step"] for record in folder.metrics("toy")]
    assert steps == list(range(1, STEPS + 1))


def test_a_kill_between_two_saves_repeats_the_steps_since_and_their_lines_once(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    toy = Toy()
    fit(
        toy.step,
        toy.state,
        steps=3,
        path=tmp_path / "checkpoints" / "toy.state.safetensors",
        identity={"stage": "toy", "identity": {"a": 1}},
        log=lambda step, m: folder.log("toy", step, m),
    )
    for step in (4, 5):  # logged, but killed before the next save
        folder.log("toy", step, {"loss": 9.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "toy", "st')
    train(folder, Toy())
    records = folder.metrics("toy")
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    assert all(record["loss"] != 9.0 for record in records)


def test_the_state_of_another_training_is_refused(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    train(folder, Toy())
    with pytest.raises(CheckpointError, match="the training state of something else"):
        train_stage(Toy(), stage="toy", steps=STEPS, folder=folder, identity={"a": 2}, seed=0)


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_state(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    toy = Toy()

    class Bad:
        state = toy.state

        def step(self, step):
            return toy.step(step) if step < 3 else {"loss": float("nan")}

    with pytest.raises(Interrupted, match="the loss is nan at step 4 of 12"):
        train_stage(Bad(), stage="toy", steps=STEPS, folder=folder, identity={}, seed=0, save_seconds=0.0)
    assert toy.state.restore(tmp_path / "checkpoints" / "toy.state.safetensors", {"stage": "toy", "identity": {}}) == 3


def test_the_batch_of_a_loss_that_is_no_number_is_kept(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    toy = Toy()

    class Bad:
        state = toy.state

        def step(self, step):
            return {"loss": float("inf")}

        def evidence(self, step):
            return {"x": torch.full((2,), float(step))}

    with pytest.raises(Interrupted, match=r"the batch is in .*failed/toy-step-1\.safetensors"):
        train_stage(Bad(), stage="toy", steps=STEPS, folder=folder, identity={}, seed=0)
    assert torch.equal(read_tensors(tmp_path / "failed" / "toy-step-1.safetensors")["x"], torch.zeros(2))


def test_lines_are_written_now_and_then_and_for_each_validation(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    heard = []
    folder.listeners.append(lambda stage, step, values: heard.append((stage, step, sorted(values))))
    train(folder, Toy(), log_every=5, after_step=lambda done: {"validation_loss": 1.0} if done == 7 else {})
    assert [record["step"] for record in folder.metrics("toy")] == [5, 7, 10, 12]
    assert heard[1] == ("toy", 7, ["loss", "validation_loss"])


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder.open(tmp_path, {}, resume=False)
    board = TensorBoard(folder)
    with pytest.raises(Killed):
        train(folder, Toy(), kill_at=7)
    board.close()
    folder = RunFolder.open(tmp_path, {}, resume=True)
    board = TensorBoard(folder)
    train(folder, Toy())
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    drawn = events.Scalars("toy/loss")
    assert [event.step for event in drawn] == list(range(1, STEPS + 1))
    assert drawn[3].value == pytest.approx(folder.metrics("toy")[3]["loss"])
    assert folder.listeners == []


def test_missing_tensorboard_is_named_before_anything_is_trained(tmp_path, monkeypatch):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'rp-models\[tensorboard\]'"):
        TensorBoard(folder)


def test_training_leaves_the_global_generator_alone(tmp_path):
    before = torch.random.get_rng_state()
    train(RunFolder.open(tmp_path, {}, resume=False), Toy())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_write_error_leaves_the_last_good_state(tmp_path, monkeypatch):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    toy = Toy()
    path = tmp_path / "state.safetensors"
    toy.state.save(path, 5, {})

    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("rp_models.checkpoint.save_file", full)
    with pytest.raises(OSError, match=r"state\.safetensors could not be written .*No space left on device"):
        toy.state.save(path, 6, {})
    assert toy.state.restore(path, {}) == 5
    assert sorted(p.name for p in folder.path.glob("[!.]*")) == ["config.json", "environment.json", "state.safetensors"]
    assert not list(folder.path.glob(".*.tmp"))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    RunFolder.open(tmp_path, {"lr": 1.0, "deep": {"steps": 3}}, resume=False)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError, match="already holds a run; go on with --resume"):
        RunFolder.open(tmp_path, {"lr": 1.0, "deep": {"steps": 3}}, resume=False)
    with pytest.raises(RunError, match=r"deep\.steps: 3 there, 4 asked for"):
        RunFolder.open(tmp_path, {"lr": 1.0, "deep": {"steps": 4}}, resume=True)
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty and holds no run"):
        RunFolder.open(tmp_path, {}, resume=True)
    with pytest.raises(RunError, match="is not a folder"):
        RunFolder.open(tmp_path / "thesis.tex", {}, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_nothing_starts(tmp_path):
    folder = RunFolder.open(tmp_path / "new", {"sizes": (1, 2)}, resume=True)
    assert folder.read_json("config.json") == {"sizes": [1, 2]}
    RunFolder.open(tmp_path / "new", {"sizes": (1, 2)}, resume=True)
    environment = json.loads((tmp_path / "new" / "environment.json").read_text())
    assert {"python", "platform", "versions", "commit"} <= environment.keys()


def test_stage_seconds_add_up(tmp_path):
    folder = RunFolder.open(tmp_path, {}, resume=False)
    for _ in range(2):
        with folder.timed("edm"):
            pass
    assert list(folder.seconds()) == ["edm"]
    assert folder.seconds()["edm"] >= 0.0


def test_a_damaged_config_is_named(tmp_path):
    RunFolder.open(tmp_path, {}, resume=False)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        RunFolder.open(tmp_path, {}, resume=True)


def test_the_state_is_written_at_the_end_and_now_and_then_by_one_process(tmp_path, monkeypatch):
    clock, length, written = [0.0], [1.0], []
    monkeypatch.setattr("rp_models.training.loop.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(
        "rp_models.training.loop.save_tensors", lambda tensors, path, header: written.append(header["step"])
    )
    toy = Toy()

    def step(number):
        clock[0] += length[0]
        return toy.step(number)

    options = {"path": tmp_path / "state", "identity": {}, "log": lambda *_: None}
    for length[0], often, expected in (
        (1.0, 1e9, [10]),
        (1.0, 3.0, [3, 6, 9, 10]),
        (1.0, 0.0, [*range(1, 11), 10]),
        (30.0, 20.0, [*range(1, 11), 10]),
        (1000.0, 20.0, [*range(1, 11), 10]),  # ten minutes at most
    ):
        written.clear()
        fit(step, toy.state, steps=10, save_seconds=often, **options)
        assert written == expected
    written.clear()
    length[0] = 10.0
    fit(step, toy.state, steps=60, save_seconds=20.0, **options)
    gaps = [later - earlier for earlier, later in itertools.pairwise(written)][:-1]
    assert gaps == sorted(gaps)  # later and later
    assert gaps[0] == 2
    assert gaps[-1] == 6  # a tenth of the time so far
    written.clear()
    fit(step, toy.state, steps=10, save_seconds=0.0, save_every=4, **options)
    assert written == [4, 8, 10]  # whatever time it took
    written.clear()

    class Second(Processes):
        main, everywhere = False, staticmethod(lambda work: work())

    fit(step, toy.state, steps=10, save_seconds=0.0, processes=Second(1, 2), **options)
    assert written == []


def test_a_resumed_run_removes_what_killed_processes_of_its_own_machine_left(tmp_path):
    RunFolder.open(tmp_path, {}, resume=False)
    with complete_file(tmp_path / "checkpoints" / "state.safetensors") as alive:  # by this process
        alive.write_bytes(b"")
        gone = alive.with_name(alive.name.replace(f"-{os.getpid()}.", "-4194305."))  # beyond the largest process number
        elsewhere = alive.with_name(".state.safetensors.another_machine-4194305.tmp")
        for file in (gone, elsewhere):
            file.touch()
        RunFolder.open(tmp_path, {}, resume=True)
        assert not gone.exists()
        assert alive.exists()
        assert elsewhere.exists()


def test_the_thread_writes_the_state_of_its_step_and_its_error_stops_the_training(tmp_path, monkeypatch):
    toy, path = Toy(), tmp_path / "state.safetensors"
    begun, seen = threading.Event(), []
    real = save_tensors

    def slowly(tensors, path, header):
        begun.set()
        time.sleep(0.05)  # the training goes on meanwhile
        real(tensors, path, header)

    def step(number):
        metrics = toy.step(number)
        seen.append({key: value.clone() for key, value in toy.model.state_dict().items()})
        return metrics

    monkeypatch.setattr("rp_models.training.loop.save_tensors", slowly)
    fit(step, toy.state, steps=4, path=path, identity={}, log=lambda *_: None, save_seconds=0.0)
    assert begun.is_set()
    assert toy.state.restore(path, {}) == 4
    stored = read_tensors(path)
    assert all(torch.equal(stored[f"module.model.{key}"], value) for key, value in seen[-1].items())

    def full(tensors, path, header):
        raise OSError("No space left on device")

    monkeypatch.setattr("rp_models.training.loop.save_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        fit(step, Toy().state, steps=4, path=tmp_path / "other", identity={}, log=lambda *_: None, save_seconds=0.0)
