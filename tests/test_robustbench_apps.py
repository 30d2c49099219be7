"""RobustBench's entries in the apps: the standard evaluation, its files, and the figures of a list of models."""

import json

import pytest
import torch
from rp_attacks import PGD, AutoAttack
from rp_experiments.recipes.evaluation import Evaluation
from rp_models.robustbench.entries import entries, find_entry

from .robustbench_classes import stand_in
from .running import app
from .small_zoo import Small, make_zoo

BUILT = [entry for entry in entries() if not entry.missing]


def test_each_of_the_198_entries_resolves_and_nothing_but_its_settings_is_made():
    assert len(BUILT) == 198
    names = set()
    for entry in BUILT:
        config = Evaluation(model=entry.spec, suite="robustbench")
        resolved = config.resolved()
        assert (resolved["model"], resolved["data"], resolved["images"]) == (entry.spec, entry.dataset, None)
        assert resolved["published"]["clean"] == entry.clean
        if entry.norm is not None:
            assert (resolved["norm"], resolved["eps"]) == (entry.norm, entry.radius)
        names.add((entry.dataset, entry.threat, config.name))
    assert len(names) == 198


def test_a_bare_name_means_the_entry_that_data_and_norm_leave(tmp_path):
    dry = ("--suite", "robustbench", "--dry-run")
    found = json.loads(app("evaluate", "--model", "robustbench:Rice2020Overfitting", *dry, cwd=tmp_path).stdout)
    assert (found["model"], found["eps"]) == ("robustbench:cifar10/Linf/Rice2020Overfitting", 8 / 255)
    words = ("--model", "robustbench:Rice2020Overfitting", "--norm", "l2", *dry)
    found = json.loads(app("evaluate", *words, cwd=tmp_path).stdout)
    assert (found["model"], found["eps"]) == ("robustbench:cifar10/L2/Rice2020Overfitting", 0.5)
    found = json.loads(app("evaluate", "--model", "robustbench:Salman2020Do_R18", *dry, cwd=tmp_path).stdout)
    assert (found["data"], found["eps"], found["published"]["preprocessing"]) == ("imagenet", 4 / 255, "Res256Crop224")
    for words, message in {
        ("robustbench:Rice2020Overfiting",): "did you mean Rice2020Overfitting",
        ("robustbench:Kang2021Stable",): "cannot be built: its ODE block",
        ("robustbench:cifar10/Salman2020Do_R18",): "say which one",
        ("robustbench:Standard", "--data", "svhn"): "is judged on cifar10, got --data svhn",
        ("robustbench:Standard", "--defended"): "RobustBench takes no purifiers",
    }.items():
        assert message in app("evaluate", "--model", *words, *dry, cwd=tmp_path, status=2).message


def state_file(path, flags, run=("apgd-ce", "apgd-t", "fab-t", "square")):
    """As AutoAttack writes it: the set of wanted attacks as Python prints it."""
    wanted = "{'square', 'apgd-t', 'fab-t', 'apgd-ce'}"
    content = {"_attacks_to_run": wanted, "path": str(path), "_run_attacks": list(run), "_robust_flags": flags}
    content |= {"_last_saved": "2026-11-28 06:00:00.0", "_SAVE_TIMEOUT": 60, "_clean_accuracy": 0.9}
    path.write_text(json.dumps(content))


@pytest.fixture
def quick(monkeypatch):
    """The first attack of the four alone."""
    import rp_experiments.robustbench as job

    def suite(name, *, eps, norm, random, classes):
        assert (name, random, classes) == ("autoattack", False, 10)
        return {"apgd-ce": AutoAttack(eps=eps, norm=norm, attacks=("apgd-ce",))}

    monkeypatch.setattr(job, "suite", suite)


@pytest.mark.usefixtures("quick")
def test_the_standard_evaluation_leaves_robustbenchs_files_beside_the_published_figures(tmp_path, monkeypatch):
    zoo = make_zoo(tmp_path, monkeypatch, images=12)
    state_file(tmp_path / "state.json", [True, False, *[True] * 6])
    words = ("--model", "robustbench:Standard", "--suite", "robustbench", "--data-root", zoo.data, "--images", 8)
    words += ("--eps", 8 / 255, "--probes", 0, "--robustbench.state", tmp_path / "state.json")
    folder = tmp_path / "runs" / "evaluate" / "Standard-robustbench"
    done = app("evaluate", *words, cwd=tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert result["images"]["index"] == list(range(8))  # the first ones, in their order
    right = result["per_image"]["linf 8/255"]["worst"]
    assert result["per_image"]["clean"] == [1, 0, *[1] * 6]
    assert result["minus_published"]["clean"]["estimate"] == pytest.approx(7 / 8 - 0.9478)
    assert result["minus_published"]["autoattack"]["estimate"] == pytest.approx(sum(right) / 8)
    broken = [number for number, each in enumerate(right) if not each and number != 1]
    assert broken
    assert result["state"]["only_ours_broke"] == broken
    assert result["state"]["only_theirs_broke"] == []
    assert result["state"]["minus_state"]["estimate"] == pytest.approx(sum(right) / 8 - 7 / 8)
    info = json.loads((folder / "model_info" / "cifar10" / "Linf" / "Standard.json").read_text())
    assert info["clean_acc"] == "87.50"
    assert info["autoattack_acc"] == f"{100 * sum(right) / 8:.2f}"
    assert (info["eps"], info["dataset"], info["number_forward_passes"]) == ("8/255", "cifar10", 1)
    log = (folder / "autoattack.log").read_text()
    assert "initial accuracy: 87.50%" in log
    assert f"robust accuracy after APGD-CE: {sum(right) / 8:.2%} (total time " in log
    assert "published: clean 94.78, AutoAttack 0.00; ours minus published" in done.stdout
    assert f"{len(broken)} only we" in done.stdout
    inputs = json.loads((folder / "config.json").read_text())["inputs"]
    assert {str(tmp_path / "state.json"), str(zoo.models / "cifar10" / "Linf" / "Standard.pt")} <= inputs.keys()


@pytest.mark.usefixtures("quick")
def test_a_state_that_says_nothing_of_these_images_is_refused(tmp_path, monkeypatch):
    zoo = make_zoo(tmp_path, monkeypatch, images=6)
    words = ("--model", "robustbench:Standard", "--suite", "robustbench", "--data-root", zoo.data)
    words += ("--robustbench.state", tmp_path / "state.json")
    for flags, run, message in (
        ([True] * 4, ("apgd-ce", "apgd-t", "fab-t", "square"), "on 4 images, here are 6; set --images 4"),
        ([True] * 6, ("apgd-ce", "apgd-t"), "fab-t, square is still to be run"),
        (None, (), "no verdicts yet"),
    ):
        state_file(tmp_path / "state.json", flags, run)
        assert message in app("evaluate", *words, cwd=tmp_path, status=2).message
    (tmp_path / "state.json").write_text("{}")
    assert "this is no state of AutoAttack" in app("evaluate", *words, cwd=tmp_path, status=2).message
    assert not (tmp_path / "runs" / "evaluate" / "Standard-robustbench" / "result.json").exists()


@pytest.mark.usefixtures("quick")
def test_a_run_in_autoattacks_own_batches_is_autoattacks(tmp_path, monkeypatch):
    """The first part alone, on images in batches of 4 and 3 that are still right."""
    from pyautoattack import AutoAttack as Library

    zoo = make_zoo(tmp_path, monkeypatch, images=8)
    words = ("--model", "robustbench:Standard", "--suite", "robustbench", "--data-root", zoo.data, "--seed", 7)
    words += ("--robustbench.exact", "--robustbench.batch-size", 4, "--probes", 0, "--eps", 1e-3)
    app("evaluate", *words, "--out", tmp_path / "run", cwd=tmp_path)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    model, x = zoo.networks["Standard"], zoo.images / 255
    y = model(x).argmax(dim=1)
    y[1] = (y[1] + 1) % 10
    library = Library(model, eps=1e-3, norm="Linf", version="custom", attacks=["apgd-ce"], seed=7, device="cpu")
    library.apgd.n_restarts = 1
    images, answers = library.run_standard_evaluation(x, y, batch_size=4)
    from rp_attacks.store import load_images

    assert result["per_image"]["linf 0.255/255"]["worst"] == (answers == y).float().tolist()
    assert 1 < (answers == y).sum() < 6
    torch.testing.assert_close(load_images(tmp_path / "run" / "evaluation", "apgd-ce"), images, rtol=0, atol=1e-6)


def test_entries_for_corrupted_images_are_judged_on_all_sets(tmp_path, monkeypatch):
    import numpy as np
    from rp_models.data.shifts import corruptions

    name = "Hendrycks2020AugMix_WRN"
    zoo = make_zoo(
        tmp_path, monkeypatch, images=6, wanted={name: Small({"depth": 10, "width": 1}, threat="corruptions")}
    )
    folder, rng = zoo.data / "CIFAR-10-C", np.random.default_rng(0)
    folder.mkdir()
    labels = rng.integers(0, 10, 6)
    np.save(folder / "labels.npy", labels)
    pixels = {part: rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8) for part in corruptions("cifar10-c")}
    words = (
        "--model",
        f"robustbench:corruptions/{name}",
        "--suite",
        "robustbench",
        "--data-root",
        zoo.data,
        "--images",
        4,
    )
    assert "no gaussian_noise.npy" in app("evaluate", *words, cwd=tmp_path, status=2).message
    for part, images in pixels.items():
        np.save(folder / f"{part}.npy", images)
    done = app("evaluate", *words, cwd=tmp_path)
    run = tmp_path / "runs" / "evaluate" / f"{name}-robustbench"
    result = json.loads((run / "result.json").read_text())
    rights = []
    for part, images in pixels.items():
        for level in range(5):
            x = torch.from_numpy(images[6 * level : 6 * level + 4].transpose(0, 3, 1, 2).copy()) / 255
            with torch.no_grad():
                right = int((zoo.networks[name](x).argmax(dim=1).numpy() == labels[:4]).sum())
            assert result["sets"][f"cifar10-c/{part}/{level + 1}"]["right"] == right
            rights.append(right)
    assert len(result["sets"]) == 75
    mean = sum(rights) / 300
    assert result["mean"]["estimate"] == pytest.approx(mean)
    assert result["minus_published"]["robust"]["estimate"] == pytest.approx(
        mean - find_entry(name, threat="corruptions").robust / 100
    )
    assert result["clean"]["right"] == 3
    place = run / "model_info" / "cifar10" / "corruptions"
    info = json.loads((place / f"{name}.json").read_text())
    assert (info["clean_acc"], info["corruptions_acc"], info["eps"]) == ("75.00", f"{100 * mean:.2f}", None)
    rows = [line.split(",") for line in (place / "unaggregated_results.csv").read_text().splitlines()]
    assert rows[0][:6] == ["", *["gaussian_noise"] * 5]
    assert rows[1][:6] == ["", "1", "2", "3", "4", "5"]
    assert [float(value) for value in rows[2][1:]] == [right / 4 for right in rights]
    assert f"mean over 75 sets {100 * mean:.2f}" in done.stdout
    for more, message in {
        ("--robustbench.corruptions", "3d"): "no 3d corruptions of cifar10; of its corrupted sets there is cifar10-c",
        ("--robustbench.state", "state.json"): "a state file is of attacks, not of corrupted images",
    }.items():
        assert message in app("evaluate", *words, *more, cwd=tmp_path, status=2).message


@pytest.mark.parametrize(("kind", "accuracy", "sets"), [("imagenet-c", 21.12, 75), ("imagenet-3dcc", 28.47, 60)])
def test_alexnet_has_the_published_mean_and_an_mce_of_one(kind, accuracy, sets):
    from rp_experiments.beyond_lp import shift_mean
    from rp_experiments.results import LIMITS
    from rp_models.robustbench.corruptions import ALEXNET

    known = find_entry("AlexNet", "imagenet", "corruptions")
    found = {
        f"{kind}/{part}/{level}": dict.fromkeys(LIMITS, 1 - error)
        for part, error in ALEXNET[kind].items()
        for level in range(1, 6)
    }
    mean = shift_mean(kind, found, ALEXNET)
    assert mean["sets"] == sets
    assert mean["mCE"] == pytest.approx(1)
    assert accuracy == (known.robust if kind == "imagenet-c" else known.robust_3d)
    assert 100 * mean["estimate"] == pytest.approx(accuracy, abs=0.005)  # published with two digits
    better = {name: dict.fromkeys(LIMITS, (1 + one["estimate"]) / 2) for name, one in found.items()}
    assert shift_mean(kind, better, ALEXNET)["mCE"] == pytest.approx(0.5)
    assert "mCE" not in shift_mean(kind, dict(list(found.items())[1:]), ALEXNET)


def diffusion_model(path):
    """An EDM model of CIFAR's images, of random weights."""
    import rp_models

    sizes = {"img_resolution": 32, "img_channels": 3, "label_dim": 0, "model_channels": 8, "attn_resolutions": []}
    rp_models.save(rp_models.build("edm-digits", **sizes), path)
    return path


def test_a_dozen_models_of_the_zoo_are_compared_with_a_diffusion_model(tmp_path, monkeypatch):
    from rp_analysis import cknna
    from rp_experiments.artifacts import Built
    from rp_experiments.papers.items import ITEMS
    from rp_models.robustbench import entries as table

    monkeypatch.setattr("rp_experiments.zoo_similarity.ZooJob.formats", ("png",))
    zoo = make_zoo(tmp_path, monkeypatch, images=40)
    words = ("--edm", diffusion_model(tmp_path / "edm.safetensors"), "--data-root", zoo.data, "--neighbours", 5)
    words += ("--batch-size", 16, "--images", 40)
    done = app("analyze", "--models", "all", *words, cwd=tmp_path)
    assert "12 of 71 models of cifar10 Linf are there" in done.stderr
    folder = tmp_path / "runs" / "analyze" / "robustbench-cifar10-Linf"
    result = json.loads((folder / "result.json").read_text())
    rows = {row["model"]: row for row in result["models"]}
    assert rows.keys() == zoo.networks.keys() - {"Standard"}
    with torch.no_grad():
        features = {name: model.forward_features(zoo.images / 255) for name, model in zoo.networks.items()}
    for name, row in rows.items():
        entry = table.find_entry(name)
        assert (row["robust %"], row["clean %"]) == (entry.robust, entry.clean)
        # batches of another size round differently, which may change a neighbour
        assert row["CKNNA, standard"] == pytest.approx(cknna(features[name], features["Standard"], k=5), abs=0.05)
    assert {"diffusion", "standard"} == result["correlation"].keys()
    assert result["correlation"]["diffusion"]["points"] == 12
    for figure in ("cknna", "cknna-standard"):
        assert (folder / "figures" / f"{figure}.png").exists()
    assert "Rank correlation of robust accuracy with CKNNA, standard" in (folder / "index.html").read_text()
    item = ITEMS["dra/fig-1-9"]  # of `reproduce.py`, where the scale has RobustBench's models
    found = item.look({"zoo, cifar10": Built(None, folder)})
    assert [figure.file for figure in found.figures] == ["figures/cknna.png", "figures/cknna-standard.png"]
    assert found.numbers["others, standard"] == result["correlation"]["standard"]
    assert all("12 " in judgement.evidence for judgement in item.judgements(found))
    (folder / "similarity" / "cifar10-Linf-Peng2023Robust.json").unlink()
    app("analyze", "--models", "all", *words, "--resume", cwd=tmp_path)
    assert json.loads((folder / "result.json").read_text())["models"] == result["models"]


def test_models_that_cannot_be_compared_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RP_ROBUSTBENCH", str(tmp_path / "nothing"))
    edm = ("--edm", "edm.safetensors")
    for words, message in {
        ("Carmon2019Unlabeled",): "--models needs a diffusion model",
        ("Carmon2019Unlabelled", *edm): "did you mean Carmon2019Unlabeled",
        ("Kang2021Stable", *edm): "cannot be built: its ODE block",
        ("robustbench:cifar100/Linf/Wang2023Better_WRN-28-10", *edm): "is no model of cifar10",
        ("all", *edm): "no file of RobustBench's 71 models for cifar10 Linf is there",
    }.items():
        assert message in app("analyze", "--models", *words, cwd=tmp_path, status=2).message
    found = app("analyze", "--models", "Carmon2019Unlabeled", *edm, "--dry-run", cwd=tmp_path)
    assert json.loads(found.stdout)["models"] == ["Carmon2019Unlabeled"]


def fake_run(folder, network, data="cifar10", **arguments):
    """A finished run of `train_dra.py`, of a network of random weights, judged on four images."""
    import rp_models
    from rp_attacks import evaluate

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = rp_models.build(network, **arguments).eval()
    for module in model.modules():  # statistics that differ from those of a fresh layer
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.mul_(0.5)
    rp_models.save(model, folder / "checkpoints" / "dm-at+dra.safetensors")
    x = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    attacks = {"apgd-ce": PGD(eps=8 / 255, step_size=8 / 255, steps=1)}  # that there is a record is enough
    kept = folder / "evaluation" / "dm-at+dra"
    evaluate(model, x, model(x).argmax(dim=1), attacks, seed=0, folder=kept, probes=0)
    setting = {"data": data, "attack": "AutoAttack standard (APGD-CE, ...)", "norm": "linf", "eps": 8 / 255}
    setting |= {"classifier": "a network", "seed": 0}
    rows = {"standard": {}, "dm-at+dra": {"clean": {"estimate": 0.9}, "autoattack": {"estimate": 0.12345}}}
    result = {"setting": setting, "methods": rows, "config": {"evaluation": {"attacks": ["apgd-ce"]}}}
    (folder / "result.json").write_text(json.dumps(result))
    return model, x


NORMALISED = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
SMALL_SWIN = {"image_size": 32, "width": 16, "depths": [1, 1], "heads": [2, 4], "window": 4, "num_classes": 10}
CONVNEXT = {"model": "convnext_atto", "options": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, "num_classes": 10}
RAWRN = {"blocks": [1, 1, 1], "channels": [16, 24, 32], "stem_channels": 12}


@pytest.mark.parametrize(
    ("network", "data", "arguments"),
    [
        ("vit-b2-32", "cifar10", {"width": 16, "depth": 2, "heads": 2}),
        ("wrn-28-10-swish", "cifar10", {"depth": 10, "width": 1}),
        ("dm-wide-resnet", "cifar10", {"depth": 10, "width": 1}),
        ("wide-resnet", "cifar10", {"depth": 10, "width": 1, **NORMALISED}),
        ("preact-resnet18-swish", "cifar10", {}),
        ("preact-resnet", "cifar10", {"depth": 18, **NORMALISED}),
        ("preact-resnet", "cifar10", {"depth": 18, "final_norm": False, "raw_shortcut": True}),
        ("cifar-resnet", "cifar10", {"depth": 18, **NORMALISED}),
        ("ra-wide-resnet", "cifar10", {**RAWRN, **NORMALISED}),
        ("ra-wide-resnet", "cifar10", {**RAWRN, "se_ratio": None, "activation": "relu"}),
        ("timm", "imagenet", {**CONVNEXT, **NORMALISED}),
        ("timm", "cifar10", {**CONVNEXT, **NORMALISED}),
        ("swin", "imagenet", {**SMALL_SWIN, "norm_eps": 1e-6}),
        ("swin", "cifar10", {**SMALL_SWIN, **NORMALISED}),
    ],
)
def test_a_submission_is_what_robustbench_loads(tmp_path, monkeypatch, network, data, arguments):
    """Its code is run with classes of RobustBench's signatures, and its file read as RobustBench's loader does."""
    model, x = fake_run(tmp_path / "run", network, data, **arguments)
    names = ("--option", "authors=A. B.", "--option", "name=Ours2026_Small")
    app("convert", "submission", "run", "out", *names, cwd=tmp_path)
    info = json.loads((tmp_path / "out" / "model_info" / data / "Linf" / "Ours2026_Small.json").read_text())
    assert (info["authors"], info["autoattack_acc"], info["eps"], info["link"]) == ("A. B.", "12.35", "8/255", None)
    assert "initial accuracy: 100.00%" in (tmp_path / "out" / "evaluation.log").read_text()
    stand_in(monkeypatch)
    space: dict[str, object] = {}
    exec((tmp_path / "out" / "model.py").read_text(), space)
    name, entry = space["ENTRY"]
    assert name == "Ours2026_Small"
    assert entry.get("preprocessing") == ("Res256Crop224" if data == "imagenet" else None)
    theirs = entry["model"]().eval()
    state = torch.load(tmp_path / "out" / "Ours2026_Small.pt", weights_only=True)
    state = {key.removeprefix("module.").removeprefix("model."): value for key, value in state.items()}
    theirs.load_state_dict({f"model.{key}": value for key, value in state.items()} if data == "imagenet" else state)
    # timm's attention and patches sum in another order
    torch.testing.assert_close(theirs(x), model(x), rtol=0, atol=1e-5)


def test_what_is_no_submission_is_refused(tmp_path):
    assert "no finished run" in app("convert", "submission", tmp_path, "out", cwd=tmp_path, status=2).message
    fake_run(tmp_path / "run", "cifar-resnet", width=4)
    assert "no code for this CifarResNet" in app("convert", "submission", "run", "out", cwd=tmp_path, status=2).message
    for option, message in {
        "method=at": "has standard, dm-at+dra; name one",
        "titel=x": "no option 'titel'",
    }.items():
        assert message in app("convert", "submission", "run", "o", "--option", option, cwd=tmp_path, status=2).message
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    result["setting"]["data"] = "digits"
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    refused = app("convert", "submission", "run", "out", cwd=tmp_path, status=2).message
    assert "RobustBench has no data set digits; it has cifar10, cifar100, imagenet" in refused
    assert not (tmp_path / "out").exists()
