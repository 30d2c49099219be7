"""What a user brings to a plan of `reproduce.py`: weights for roles, and finished runs."""

import json
from dataclasses import asdict, dataclass

import pytest
from rp_experiments.artifacts import Artifact, Store
from rp_experiments.papers.claims import HELD, OPEN, at_first, everywhere, in_place, larger
from rp_experiments.papers.given import adopt, parse_weights, with_weights
from rp_experiments.papers.item import Item, Made, Measured, NotMade
from rp_experiments.papers.items.looks import by_data
from rp_experiments.papers.scales import SCALES
from rp_experiments.recipes.dra import RECIPES


def test_a_given_network_is_not_trained(tmp_path) -> None:
    mae = tmp_path / "mae.safetensors"
    mae.touch()
    before, plan = SCALES["smoke"](), SCALES["smoke"](weights=(f"mae={mae}", "digits/classifier=robustbench:Standard"))
    comparison = plan.comparisons["digits"].config
    assert (comparison.mae, comparison.classifier) == (str(mae), "robustbench:Standard")
    assert before.comparisons["digits"].config.classifier == ""
    assert before.comparisons["digits"].name != plan.comparisons["digits"].name  # other products
    assert {run.name for run in before.runs.values()} == {run.name for run in plan.runs.values()}


def test_roles_of_runs(tmp_path) -> None:
    files = {role: tmp_path / f"{role}.safetensors" for role in ("edm", "lightningdit", "autoencoder", "synthetic")}
    for file in files.values():
        file.touch()
    runs = {"a": RECIPES["cifar10-wrn-28-10-1m"](), "b": RECIPES["imagenet-vit-b16"]()}
    words = [f"cifar10/edm={files['edm']}", *(f"imagenet/{role}={files[role]}" for role in list(files)[1:])]
    new, _ = with_weights(runs, {}, parse_weights(words))
    assert new["a"].diffusion_model == str(files["edm"])
    assert new["b"].diffusion_model == runs["b"].diffusion_model
    assert new["b"].alignment.checkpoint == str(files["lightningdit"])
    assert new["b"].alignment.autoencoder == str(files["autoencoder"])
    assert new["b"].synthetic.paths == (str(files["synthetic"]),)
    assert new["a"].synthetic.paths == runs["a"].synthetic.paths


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("mae", "ROLE=FILE"),
        ("teacher=x.pt", "with a role of classifier, mae"),
        ("mae=nowhere/mae.safetensors", "no file nowhere/mae"),
        ("svhn/mae=mae-digits", "this scale has no svhn"),
    ],
)
def test_wrong_words_are_told(word, said) -> None:
    with pytest.raises(ValueError, match=said):
        SCALES["smoke"](weights=(word,))


@dataclass(frozen=True)
class Settings:
    data: str = "digits"
    seed: int = 0


def test_a_finished_run_is_adopted_where_its_settings_are_a_products(tmp_path) -> None:
    artifact, store, run = Artifact(job="train_dra", config=Settings()), Store(tmp_path / "store"), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "at.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match="no finished run"):
        adopt([run], [artifact], store)
    (run / "result.json").write_text("{}")
    (run / "config.json").write_text(json.dumps({**asdict(Settings()), "inputs": {"a": "b"}}))
    adopt([run], [artifact], store)
    adopt([run], [artifact], store)
    assert (store.folder(artifact) / "checkpoints" / "at.safetensors").read_bytes() == b"weights"
    (run / "config.json").write_text(json.dumps(asdict(Settings(seed=1))))
    with pytest.raises(ValueError, match="differs in seed"):
        adopt([run], [artifact], store)


def test_an_item_says_what_it_can_and_what_it_waits_for(tmp_path) -> None:
    store = Store(tmp_path)
    products = {"first": Artifact(job="a", config=Settings()), "second": Artifact(job="a", config=Settings(seed=1))}

    def look(made):
        return Measured(numbers={role: one.read()["value"] for role, one in made.items()})

    item = Item(key="dra/table-1", paper="DRA", title="t", products=lambda plan: products, look=look, claims=())
    plan = SCALES["smoke"]()
    assert item.record(plan, store) is None
    folder = store.folder(products["first"])
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"value": 3}))
    done = {"seconds": 1.0, "environment": {}, "device": "cpu"}
    (folder / "product.json").write_text(json.dumps(done))
    record = item.record(plan, store)
    assert record is not None
    assert record["numbers"] == {"first": 3}
    assert record["waiting"] == [products["second"].name]

    def needs_both(made):
        return Measured(numbers={"both": made["first"].read()["value"] + made["second"].read()["value"]})

    whole = Item(key="dra/table-2", paper="DRA", title="t", products=lambda plan: products, look=needs_both, claims=())
    assert whole.record(plan, store) is None

    def mistyped(made):
        return Measured(numbers={"one": made["first"].read()["valeu"]})

    for wrong in (mistyped, lambda made: made["frist"]):
        broken = Item(key="dra/table-3", paper="DRA", title="t", products=lambda plan: products, look=wrong, claims=())
        with pytest.raises(KeyError, match=r"valeu|frist"):  # though the second product is still to come
            broken.record(plan, store)


def test_a_data_set_that_is_still_to_come_keeps_its_place(tmp_path) -> None:
    """Else a claim about the first one would be judged by the second, and one about all by some."""
    there = Store(tmp_path).get(Artifact(job="a", config=Settings()))
    look = by_data(lambda made: Measured(numbers={"gap": made["table"] and {"low": 1, "high": 2, "estimate": 1.5}}))
    measured = look(Made({"table, svhn": there}, ("table, cifar10", "table, svhn")))
    places = measured.numbers["places"]
    assert list(places) == ["cifar10", "svhn"]
    assert places["cifar10"] is None
    gap = larger("gap", "gap")
    assert at_first(gap)(measured.numbers) == (OPEN, "not made yet")
    assert in_place("svhn", gap, "")(measured.numbers).verdict == HELD
    assert everywhere(gap)(measured.numbers).verdict == OPEN
    with pytest.raises(NotMade):
        look(Made({}, ("table, cifar10",)))
