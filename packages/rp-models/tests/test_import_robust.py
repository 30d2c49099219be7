import re
import warnings
from pathlib import Path

import pytest
import torch
from rp_models import CheckpointError, build, load, save
from rp_models.importers.robust import read_robust
from rp_models.networks.normalization import CIFAR10, CIFAR100, IMAGENET
from rp_testing import Golden
from torch import Tensor, nn

DM = {"depth": 10, "width": 1, **CIFAR10._asdict()}


def images() -> Tensor:
    return torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))


def written(path: Path, model: nn.Module, prefix: str = "", name: str | None = None, **extra: object) -> Path:
    """A file with the model's weights as public code lays them out."""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({name: state, **extra} if name else {**state, **extra}, path)
    return path


def test_a_released_file_of_dm_at_has_averaged_and_other_weights(tmp_path: Path) -> None:
    averaged, other = build("dm-wide-resnet", **DM).eval(), build("dm-wide-resnet", **DM).eval()
    path = tmp_path / "weights-best.pt"
    torch.save(
        {
            "model_state_dict": {f"module.0.{k}": v for k, v in averaged.state_dict().items()},
            "unaveraged_model_state_dict": {f"module.0.{k}": v for k, v in other.state_dict().items()},
        },
        path,
    )
    assert torch.equal(read_robust(path).build()(images()), averaged(images()))
    assert torch.equal(read_robust(path, averaged=False).build()(images()), other(images()))


def test_the_released_layout_at_full_size_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = Golden("keys_wrn_dmat_28_10_released_layout").shapes
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    monkeypatch.setattr("rp_models.importers.robust.read_torch_file", lambda path, **_: {"model_state_dict": state})
    imported = read_robust(tmp_path / "weights-best.pt")
    assert imported.architecture == "dm-wide-resnet"
    expected = {"depth": 28, "width": 10, "num_classes": 10, "in_channels": 3, "activation": "silu"}
    assert imported.arguments == {**expected, **CIFAR10._asdict()}
    with torch.device("meta"):
        model = build(imported.architecture, **imported.arguments)
    assert list(model.state_dict()) == [key.removeprefix("module.0.") for key in shapes]


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("wide-resnet", {"depth": 10, "width": 1}),
        ("wide-resnet", {"depth": 16, "width": 2, "num_classes": 7, "sub_block": True}),
        ("wide-resnet", {"depth": 10, "width": 1, "head_bias": False}),
        ("wide-resnet", {"depth": 10, "width": 1, "activation": "pssilu"}),
        ("preact-resnet", {"depth": 18, "num_classes": 7, "final_norm": False, "raw_shortcut": True}),
        ("dm-wide-resnet", {"depth": 16, "width": 2, "num_classes": 100, **CIFAR100._asdict()}),
        ("preact-resnet", {"depth": 18}),
        ("preact-resnet", {"depth": 50, "num_classes": 7}),
        ("dm-preact-resnet", {"depth": 34, **CIFAR10._asdict()}),
        ("cifar-resnet", {"depth": 18, "num_classes": 7}),
    ],
)
def test_the_network_is_read_off_keys_and_shapes(tmp_path: Path, architecture: str, arguments: dict) -> None:
    model = build(architecture, **arguments).eval()
    with warnings.catch_warnings(action="ignore"):  # a plain preact-resnet18 may be another network
        imported = read_robust(written(tmp_path / "file.pt", model))
    assert imported.architecture == architecture
    assert arguments.items() <= imported.arguments.items()
    assert torch.equal(imported.build()(images()), model(images()))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "module.0.", "_orig_mod.", "net."])
@pytest.mark.parametrize("name", [None, "state_dict", "last", "net", "model"])
def test_every_prefix_and_place_of_the_weights_is_understood(tmp_path: Path, prefix: str, name: str | None) -> None:
    model = build("wide-resnet", depth=10, width=1).eval()
    extra = {"epoch": 3, "optimizer_state_dict": {}} if name else {}
    imported = read_robust(written(tmp_path / "file.pt", model, prefix, name, **extra))
    assert torch.equal(imported.build()(images()), model(images()))


@pytest.mark.parametrize("names", [("mu", "sigma"), ("normalize.mean", "normalize.std"), ("mean", "std")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_stray_normalisation_buffers_become_the_networks_own(
    tmp_path: Path, names: tuple[str, str], prefix: str
) -> None:
    model = build("wide-resnet", depth=10, width=1, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3)).eval()
    constants = {
        f"{prefix}{names[0]}": torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1),
        f"{prefix}{names[1]}": torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1),
    }
    place = prefix + "model." if names[0].startswith("normalize") else prefix
    imported = read_robust(written(tmp_path / "file.pt", model, place, **constants))
    assert torch.equal(imported.build()(images()), model(images()))


def test_given_constants_and_activation_count_more_than_those_of_the_data_set(tmp_path: Path) -> None:
    model = build("dm-wide-resnet", depth=10, width=1, activation="relu", **IMAGENET._asdict()).eval()
    imported = read_robust(written(tmp_path / "file.pt", model), activation="relu", **IMAGENET._asdict())
    assert torch.equal(imported.build()(images()), model(images()))


def test_weights_behind_a_normalisation_layer_need_its_constants(tmp_path: Path) -> None:
    model = build("wide-resnet", depth=10, width=1, **CIFAR10._asdict()).eval()
    path = written(tmp_path / "file.pt", model, "module.1.", "model_state_dict")
    with pytest.raises(CheckpointError, match=r"behind a normalisation layer.* give mean= and std="):
        read_robust(path)
    assert torch.equal(read_robust(path, **CIFAR10._asdict()).build()(images()), model(images()))


WRN = "wide-resnet"
AMBIGUOUS = [  # the 24 entries of RobustBench of which neither keys nor shapes tell how they normalise
    (WRN, {"depth": 28, "width": 10}, ["Hendrycks2019Using", "Rony2019Decoupling"]),
    (WRN, {"depth": 28, "width": 10, "num_classes": 100}, ["Hendrycks2019Using"]),
    (WRN, {"depth": 28, "width": 4}, ["Ding2020MMA (cifar10, Linf)", "Ding2020MMA (cifar10, L2)"]),
    (
        WRN,
        {"depth": 34, "width": 10},
        ["Augustin2020Adversarial_34_10 (cifar10, L2)", "Augustin2020Adversarial_34_10_extra"],
    ),
    (WRN, {"depth": 34, "width": 10, "num_classes": 100}, ["Wu2020Adversarial"]),
    (WRN, {"depth": 34, "width": 10, "sub_block": True}, ["Chen2020Efficient"]),
    (WRN, {"depth": 34, "width": 10, "sub_block": True, "num_classes": 100}, ["Chen2020Efficient"]),
    (WRN, {"depth": 34, "width": 20}, ["Rice2020Overfitting (cifar10, Linf)"]),
    (WRN, {"depth": 34, "width": 20, "sub_block": True, "head_bias": False}, ["Pang2020Boosting"]),
    (WRN, {"depth": 40, "width": 2}, ["Hendrycks2020AugMix_WRN"]),
    (WRN, {"depth": 40, "width": 2, "num_classes": 100}, ["Hendrycks2020AugMix_WRN"]),
    ("preact-resnet", {"depth": 18}, ["Rice2020Overfitting (cifar10, L2)", "Kireev2021Effectiveness_RLATAugMixNoJSD"]),
    ("preact-resnet", {"depth": 18, "num_classes": 100}, ["Rice2020Overfitting (cifar100, Linf)"]),
    ("cifar-resnet", {"depth": 50}, ["Engstrom2019Robustness (cifar10, L2)", "Augustin2020Adversarial (cifar10, L2)"]),
]


@pytest.mark.parametrize(("architecture", "arguments", "entries"), AMBIGUOUS)
def test_a_network_whose_normalisation_may_lie_in_code_is_named(
    monkeypatch: pytest.MonkeyPatch, architecture: str, arguments: dict, entries: list[str]
) -> None:
    with torch.device("meta"):
        state = build(architecture, **arguments).state_dict()
    monkeypatch.setattr("rp_models.importers.robust.read_torch_file", lambda path, **_: {"state_dict": state})
    with pytest.warns(UserWarning, match="no normalisation constants") as caught:
        read_robust("file.pt")
    (message,) = (str(warning.message) for warning in caught)
    for entry in entries:
        assert entry in message
    none = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    for given in (CIFAR10._asdict(), none):  # whoever says what it is hears nothing: warnings are errors here
        assert read_robust("file.pt", **given).arguments["mean"] == given["mean"]
    constants = {"mu": torch.zeros(3), "sigma": torch.ones(3)}
    monkeypatch.setattr("rp_models.importers.robust.read_torch_file", lambda path, **_: {**state, **constants})
    assert read_robust("file.pt").arguments["mean"] == (0, 0, 0)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        (WRN, {"depth": 28, "width": 10, "sub_block": True}),
        (WRN, {"depth": 70, "width": 16}),
        ("cifar-resnet", {"depth": 18}),
    ],
)
def test_networks_of_entries_that_do_not_normalise_are_read_in_silence(
    monkeypatch: pytest.MonkeyPatch, architecture: str, arguments: dict
) -> None:
    with torch.device("meta"):
        state = build(architecture, **arguments).state_dict()
    monkeypatch.setattr("rp_models.importers.robust.read_torch_file", lambda path, **_: {"state_dict": state})
    assert "mean" not in read_robust("file.pt").arguments


@pytest.mark.parametrize(
    ("architecture", "arguments", "entry"),
    [
        ("swin", {}, "Liu2023Comprehensive_Swin-B (imagenet, Linf), Mo2022When"),
        ("ra-wide-resnet", {}, "Peng2023Robust (cifar10, Linf)"),
        ("wide-resnet-r", {}, "Huang2021Exploring (cifar10, Linf), Huang2021Exploring_ema"),
        ("resnext-cifar", {}, "Hendrycks2020AugMix_ResNeXt (cifar10, corruptions)"),
        ("timm", {"model": "resnet18"}, "Salman2020Do_R18 (imagenet, Linf)"),
    ],
)
def test_what_only_a_name_tells_is_refused_with_the_names(
    monkeypatch: pytest.MonkeyPatch, architecture: str, arguments: dict, entry: str
) -> None:
    with torch.device("meta"):
        state = {f"module.{key}": value for key, value in build(architecture, **arguments).state_dict().items()}
    monkeypatch.setattr("rp_models.importers.robust.read_torch_file", lambda path, **_: {"state_dict": state})
    with pytest.raises(CheckpointError, match=re.escape(entry)) as refused:
        read_robust("file.pt")
    assert "loaded by name, with rp_models.load_robustbench" in str(refused.value)


def test_what_the_warning_offers_is_what_the_network_needs(tmp_path: Path) -> None:
    """Constants in the warning, given back to the reader, make the network that wrote the file."""
    model = build(
        "preact-resnet",
        depth=18,
        num_classes=100,
        mean=(0.50707516, 0.48654887, 0.44091784),
        std=(0.26733429, 0.25643846, 0.27615047),
    ).eval()
    path = written(tmp_path / "file.pt", model)
    with pytest.warns(UserWarning, match="Rice2020Overfitting") as caught:
        wrong = read_robust(path).build()
    mean, std = re.findall(r"(?:mean|std)=\((.*?)\)", str(caught[0].message))[:2]
    given = {"mean": tuple(map(float, mean.split(","))), "std": tuple(map(float, std.split(",")))}
    assert torch.equal(read_robust(path, **given).build()(images()), model(images()))
    assert not torch.allclose(wrong(images()), model(images()), atol=1e-3)


def test_files_older_than_the_step_counters_of_batch_norms_are_completed(tmp_path: Path) -> None:
    model = build("wide-resnet", depth=10, width=1).eval()
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "model.pt")
    assert torch.equal(read_robust(tmp_path / "model.pt").build()(images()), model(images()))


def test_an_imported_network_survives_our_own_checkpoint(tmp_path: Path) -> None:
    model = build("dm-wide-resnet", **DM).eval()
    imported = read_robust(written(tmp_path / "file.pt", model, "module.0.", "model_state_dict")).build()
    save(imported, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path / "model.safetensors")(images()), model(images()))


def test_bad_files_are_errors_that_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"encoder.weight": torch.zeros(1)}, path)
    with pytest.raises(
        CheckpointError, match=r"no weights of any network known here.* first keys are \['encoder.weight'\]"
    ):
        read_robust(path)
    torch.save({"init_conv.weight": torch.zeros(16, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match=r"has no 'batchnorm\.weight'"):
        read_robust(path)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3), "epoch": 3}, path)
    with pytest.raises(CheckpointError, match="'epoch' is a int"):
        read_robust(path)
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match="no known ResNet has 0 blocks"):
        read_robust(path)
    model = build("wide-resnet", depth=10, width=1)
    with pytest.raises(CheckpointError, match="one set of weights only"):
        read_robust(written(path, model), averaged=False)
    with pytest.raises(CheckpointError, match=r"1 unexpected: extra\.weight"):
        read_robust(written(path, model, **{"extra.weight": torch.zeros(1)})).build()
