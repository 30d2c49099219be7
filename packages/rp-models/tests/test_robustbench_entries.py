"""The table of RobustBench's entries: every network, every name."""

import json
from collections import Counter

import pytest
import torch
from rp_models import CheckpointError, load
from rp_models.data.catalog import CATALOG
from rp_models.data.datasets import DataError
from rp_models.loading import load_classifier
from rp_models.robustbench.entries import Entry, EntryError, entries, find_entry, resolve
from rp_models.robustbench.imagenet import imagenet_view
from rp_models.robustbench.layouts import adapted, digest
from rp_testing import Golden
from torch import nn

BUILT = [entry for entry in entries() if not entry.missing]
FULL_SIZE = (
    *("andriushchenko_preact18", "binary_preact", "boosting_wrn_34_20", "convnext_b_convstem", "convnext_t_convstem"),
    *("lrr_resnet18", "meansparse_convnext_l", "meansparse_rawrn_70_16", "meansparse_swin_l", "meansparse_wrn_94_16"),
    *("mimir_swin_b", "mimir_swin_l", "pssilu_wrn_28_10", "rawrn_101_2", "rawrn_70_16", "resnext29", "swin_b_timm"),
    *("vit_b_convstem", "vit_s_convstem", "wrn_34_r", "wrn_a4", "xcit_s12_cifar10", "xcit_s12_imagenet"),
)


def test_198_of_206_entries_are_built() -> None:
    assert len(entries()) == 206
    assert len(BUILT) == 198
    assert Counter(entry.dataset for entry in BUILT) == {"cifar10": 110, "cifar100": 47, "imagenet": 41}


def test_every_entry_builds_with_the_recorded_keys_shapes_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """One network for all entries that differ in their constants only; nothing is allocated or drawn."""
    for draw in ("kaiming_uniform_", "kaiming_normal_", "uniform_", "normal_", "trunc_normal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *_, **__: tensor)
    found: dict[str, tuple[str, int]] = {}
    for entry in BUILT:
        shape = {key: value for key, value in entry.arguments.items() if key not in ("mean", "std")}
        kind = json.dumps([entry.network, shape, entry.num_classes])
        if kind not in found:
            with torch.device("meta"):
                network = entry.build()
            found[kind] = digest(network.state_dict()), sum(p.numel() for p in network.parameters())
        assert found[kind] == (entry.keys, entry.parameters), entry.title


@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_recorded_keys_of_a_full_size_network_are_the_tables(name: str) -> None:
    golden = Golden(f"keys_rb_{name}")
    where = golden.config["reference"].split(", ")[1]
    entry = resolve(f"robustbench:{where}")
    wrapped = any(key.startswith("normalize.") for key in golden.shapes)
    state = {
        key.removeprefix("model.") if wrapped else key: torch.empty(shape, device="meta")
        for key, shape in golden.shapes.items()
        if key not in ("mu", "sigma") and not key.startswith(("normalize.", "normalization."))
    }
    assert digest(adapted(state, entry.network)) == entry.keys


def test_each_entry_says_what_it_is() -> None:
    for entry in entries():
        assert resolve(entry.spec) is find_entry(entry.name, entry.dataset, entry.threat) is entry
        assert 0 <= entry.robust < entry.clean < 100
        assert (entry.radius is None) == (entry.norm is None) == (entry.threat == "corruptions")
        assert entry.autoattack is None or entry.autoattack >= entry.robust
    for entry in BUILT:
        assert entry.file or len(entry.drive) == entry.parts
        assert (entry.preprocessing is not None) == (entry.dataset == "imagenet")
        if entry.preprocessing:
            assert imagenet_view(entry.preprocessing).size in (224, 288)


@pytest.mark.parametrize(
    ("name", "dataset", "threat", "message"),
    [
        ("Wang2023Beter_WRN-28-10", "cifar10", "Linf", "did you mean Wang2023Better_WRN-28-10"),
        ("wang2023better_wrn-28-10", "cifar10", "Linf", "did you mean Wang2023Better_WRN-28-10"),
        ("Hendrycks2019Using", "imagenet", "Linf", "for cifar10 Linf, cifar100 Linf, not for imagenet Linf"),
        ("Standard", "mnist", "Linf", "no data set 'mnist'; it has cifar10, cifar100, imagenet"),
        ("Standard", "cifar10", "L1", "no threat model 'L1'; it has Linf, L2, corruptions"),
    ],
)
def test_a_wrong_name_is_a_sentence(name: str, dataset: str, threat: str, message: str) -> None:
    with pytest.raises(EntryError, match=message):
        find_entry(name, dataset, threat)


def place(entry: Entry) -> tuple[str, str]:
    return entry.dataset, entry.threat


def test_a_name_without_its_place_means_what_is_left() -> None:
    name = "robustbench:Wang2023Better_WRN-28-10"  # stands in three places
    assert place(resolve(name)) == ("cifar10", "Linf")
    assert place(resolve(name, "cifar100")) == ("cifar100", "Linf")
    assert place(resolve(name, threat="L2")) == ("cifar10", "L2")
    assert place(resolve("robustbench:L2/Wang2023Better_WRN-28-10")) == ("cifar10", "L2")
    assert place(resolve("robustbench:cifar100/Wang2023Better_WRN-28-10", "cifar10")) == ("cifar100", "Linf")
    assert place(resolve("robustbench:Amini2024MeanSparse_Swin-L")) == ("imagenet", "Linf")
    assert place(resolve("robustbench:corruptions_3d/Hendrycks2020AugMix_WRN")) == ("cifar10", "corruptions")
    with pytest.raises(EntryError, match="did you mean Wang2023Better_WRN-28-10"):
        resolve("robustbench:Wang2023Better_WRN-28-1")
    with pytest.raises(EntryError, match=r"'svhn' is neither a data set .* nor a threat model"):
        resolve("robustbench:svhn/Standard")
    with pytest.raises(
        EntryError, match="say which one, robustbench:imagenet/Linf/Standard_R50 or robustbench:imagenet/co"
    ):
        resolve("robustbench:Standard_R50", threat="L2")


def test_the_name_serves_wherever_a_model_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny file stands for the published one; the data set at hand decides which entry a bare name means."""
    tiny = {
        entry.spec: Entry(
            dataset=entry.dataset,
            threat="Linf",
            name=entry.name,
            clean=0.0,
            robust=0.0,
            network="wide-resnet",
            arguments={"depth": 10, "width": 1},
        )
        for entry in (find_entry("Hendrycks2019Using", dataset) for dataset in ("cifar10", "cifar100"))
    }
    monkeypatch.setattr("rp_models.robustbench.entries.entries", lambda: tuple(tiny.values()))
    monkeypatch.chdir(tmp_path)
    for entry in tiny.values():
        folder = tmp_path / "models" / entry.dataset / "Linf"
        folder.mkdir(parents=True)
        torch.save(entry.build().state_dict(), folder / f"{entry.name}.pt")
    x = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert load("robustbench:Hendrycks2019Using")(x).shape == (1, 10)
    assert load_classifier("robustbench:Hendrycks2019Using", CATALOG["cifar100"])(x).shape == (1, 100)
    with pytest.raises(DataError, match="gives no logits for the 10 classes of cifar10"):
        load_classifier("robustbench:cifar100/Hendrycks2019Using", CATALOG["cifar10"])
    with pytest.raises(CheckpointError, match="did you mean Hendrycks2019Using"):
        load("robustbench:Hendrycks2019Usin")
    (folder / f"{entry.name}.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"Hendrycks2019Using \(cifar100, Linf\): no such file as models/cifar100"
    ):
        load("robustbench:cifar100/Hendrycks2019Using")
    monkeypatch.setenv("RP_ROBUSTBENCH", str(tmp_path / "models"))
    monkeypatch.chdir("/")
    assert load("robustbench:Hendrycks2019Using")(x).shape == (1, 10)
