"""Small files in the layouts of RobustBench's, one of each family, give the reference's logits and gradients."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from rp_models import CheckpointError, load, save, zoo
from rp_models.networks.alexnet import AlexNet
from rp_models.networks.normalization import Standardize
from rp_models.networks.preact_variants import StemNormResNet
from rp_models.robustbench.entries import Entry, EntryError, find_entry
from rp_models.robustbench.loading import load_entry, load_robustbench, read_entry
from rp_testing import Golden
from rp_testing.recipe import fill_value
from torch import Tensor, nn

CONSTANTS = ("mu", "sigma", "normalize.mean", "normalize.std", "normalization.mean", "normalization.std")
INDEX = ("relative_position_index", "attn_mask")  # what the reference computes and the recipe does not fill


@dataclass(frozen=True)
class Case:
    """A golden file, an entry of its family, the arguments that make that small, and how its file is laid out."""

    golden: str
    name: str
    dataset: str = "cifar10"
    threat: str = "Linf"
    small: dict[str, Any] = field(default_factory=dict)
    layout: Callable[[dict[str, Tensor]], Any] = lambda state: state


def module(state: dict[str, Tensor]) -> dict[str, Any]:
    """As `nn.DataParallel` writes it, in a dictionary of training."""
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}


def last(state: dict[str, Tensor]) -> dict[str, Any]:
    """The last and the best weights."""
    return {"best": {key: value + 1 for key, value in state.items()}, "last": state}


def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the wrapper and its constants."""
    return {key.removeprefix("model."): value for key, value in state.items() if key not in CONSTANTS}


def inner(state: dict[str, Tensor]) -> dict[str, Any]:
    """Bare, under the key of timm's own checkpoints."""
    return {"state_dict": bare(state), "arch": "xcit"}


def old_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With a reduction at the end of its stage, as timm had it before 0.8."""
    moved = {key.replace("layers.1.downsample", "layers.0.downsample"): value for key, value in bare(state).items()}
    return {key.replace("head.fc.", "head."): value for key, value in moved.items()}


def scores(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With what pruning has left beside the first convolution."""
    return {**state, "conv1.scores": torch.zeros_like(state["conv1.weight"])}


CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (8,) * 4}
SWIN = {"image_size": 32, "width": 16, "depths": [2, 2], "heads": [2, 4], "window": 4}
CASES = [
    Case("wrn_classic_d10_w2", "Sehwag2021Proxy", small={"depth": 10, "width": 2}, layout=module),
    Case("wrn_trades_subblock_d10_w1", "Carmon2019Unlabeled", small={"depth": 10, "width": 1}, layout=module),
    Case("wrn_dmat_d10_w2", "Wang2023Better_WRN-28-10", small={"depth": 10, "width": 2}, layout=module),
    Case("wrn_dmat_cifar100_d10_w1", "Wang2023Better_WRN-28-10", "cifar100", small={"depth": 10, "width": 1}),
    Case("preact_resnet18_swish_dmat", "Rade2021Helper_R18_extra"),
    Case("rb_preact_rawshortcut_nobn", "Andriushchenko2020Understanding", layout=last),
    Case("rb_preact_v2_bn", "Kireev2021Effectiveness_RLAT", threat="corruptions", layout=last),
    Case("rb_wrn_a4_tiny", "Huang2022Revisiting_WRN-A4", small={"channels": [8, 16, 24, 32], "blocks": [1, 2, 1]}),
    Case(
        "rb_wrn_r_tiny", "Huang2021Exploring", small={"channels": [8, 16, 24, 16], "blocks": [2, 1, 2]}, layout=module
    ),
    Case("rb_pssilu_wrn_tiny", "Dai2021Parameterizing", small={"depth": 16, "width": 1}, layout=module),
    Case("rb_boosting_wrn_tiny", "Pang2020Boosting", small={"depth": 10, "width": 1}, layout=bare),
    Case(
        "rb_rawrn_tiny",
        "Peng2023Robust",
        small={"blocks": [2, 3, 1], "channels": [16, 24, 32], "stem_channels": 12},
        layout=module,
    ),
    Case("rb_meansparse_wrn_tiny", "Amini2024MeanSparse_S-WRN-94-16", small={"depth": 10, "width": 1}),
    Case("rb_lrr_tiny", "Diffenderfer2021Winning_LRR", threat="corruptions", small={"width": 8}, layout=scores),
    Case("rb_binary_preact_tiny", "Diffenderfer2021Winning_Binary", threat="corruptions", small={"width": 0}),
    Case(
        "rb_resnext_tiny",
        "Hendrycks2020AugMix_ResNeXt",
        threat="corruptions",
        small={"depth": 11, "cardinality": 2, "base_width": 4},
        layout=module,
    ),
    Case(
        "rb_xcit_cifar_tiny",
        "Debenedetti2022Light_XCiT-S12",
        small={"width": 32, "depth": 2, "heads": 4},
        layout=inner,
    ),
    Case(
        "rb_raresnet_imagenet_tiny",
        "Peng2023Robust",
        "imagenet",
        small={"widths": [32, 64, 96, 128], "depths": [1, 2, 1, 1], "group_widths": [4, 8, 12, 16], "stem_width": 16},
    ),
    Case(
        "rb_convnext_convstem_tiny",
        "Singh2023Revisiting_ConvNeXt-T-ConvStem",
        "imagenet",
        small={"stem": [8, 16], "options": {"depths": [1, 1, 2, 1], "dims": [16, 24, 32, 48]}},
        layout=module,
    ),
    Case(
        "rb_vit_convstem_tiny",
        "Singh2023Revisiting_ViT-S-ConvStem",
        "imagenet",
        small={"image_size": 64, "stem": 4, "width": 32, "depth": 2, "heads": 4},
        layout=bare,
    ),
    Case("rb_mimir_swin_tiny", "Xu2024MIMIR_Swin-B", "imagenet", small=SWIN),
    Case("rb_meansparse_swin_tiny", "Amini2024MeanSparse_Swin-L", "imagenet", small=SWIN, layout=old_swin),
    Case(
        "rb_meansparse_convnext",
        "Amini2024MeanSparse_ConvNeXt-L",
        "imagenet",
        small={"options": {"depths": [1, 1, 1, 1]}},
        layout=module,
    ),
]


def small_entry(case: Case) -> Entry:
    """The case's entry with a small network, of ten classes for ImageNet."""
    entry = find_entry(case.name, case.dataset, case.threat)
    normalised = "mean" in entry.arguments and case.golden not in UNNORMALISED
    known = {key: value for key, value in entry.arguments.items() if normalised or key not in ("mean", "std")}
    dataset = "cifar10" if case.dataset == "imagenet" else case.dataset
    return replace(entry, dataset=dataset, arguments={**known, **case.small})


# recorded from the networks that the entries' normalisation layers stand before
UNNORMALISED = (
    *(
        "rb_preact_v2_bn",
        "rb_lrr_tiny",
        "rb_binary_preact_tiny",
        "rb_resnext_tiny",
        "rb_meansparse_swin_tiny",
        "rb_meansparse_convnext",
    ),
)


def constants(entry: Entry) -> tuple[Tensor, Tensor]:
    """Mean and std of an entry's code; 0 and 1 where it takes images as they are."""
    known = {"mean": [0.0] * 3, "std": [1.0] * 3, **entry.arguments}
    return torch.tensor(known["mean"]).view(3, 1, 1), torch.tensor(known["std"]).view(3, 1, 1)


def weights(golden: Golden) -> dict[str, Tensor]:
    """The reference's state dict, as the recipe and the file's note fill it."""
    state = {}
    for key, shape in golden.shapes.items():
        value: Any = fill_value(key, shape, golden.config.get("gain", 1.0))
        if key.endswith(".threshold"):
            value = np.float32(golden.config["threshold"])
        elif "activation." in key:
            value = fill_value(key.rpartition(".")[2], shape)  # of one module that all blocks share
        elif key in CONSTANTS or key.endswith(INDEX):
            continue
        state[key] = torch.from_numpy(np.asarray(value))
    return state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.golden)
def test_a_file_in_the_real_layout_gives_the_references_logits_and_gradient(tmp_path: Path, case: Case) -> None:
    golden, entry = Golden(case.golden), small_entry(case)
    folder = tmp_path / entry.dataset / entry.threat
    folder.mkdir(parents=True)
    torch.save(case.layout(weights(golden)), folder / f"{entry.name}.pt")
    network = load_entry(entry, root=tmp_path)
    x = golden["in_x"].requires_grad_()
    logits = network(x)
    golden.check(out_logits=logits)
    if "in_cotangent" in golden.arrays:
        (gradient,) = torch.autograd.grad(logits, x, golden["in_cotangent"])
        recorded = golden["out_input_gradient"]
    else:
        labels = torch.arange(len(x)) % logits.shape[1]
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), x)
        recorded = golden["out_input_grad"]
    # float32 sums run in another order
    torch.testing.assert_close(gradient, recorded, rtol=0, atol=1e-4 * recorded.abs().max().item())
    assert not network.training
    save(network, tmp_path / "ours.safetensors")
    assert torch.equal(load(tmp_path / "ours.safetensors")(x), logits)


@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("Rice2020Overfitting", "Linf"),
        ("Hendrycks2019Using", "Linf"),
        ("Rony2019Decoupling", "L2"),
        ("Augustin2020Adversarial_34_10", "L2"),
        ("Hendrycks2020AugMix_WRN", "corruptions"),
        ("Ding2020MMA", "Linf"),
    ],
)
def test_images_are_normalised_by_the_entrys_code_before_the_network(tmp_path: Path, name: str, threat: str) -> None:
    """Files of one network without constants; what the reference was given is what the normalisation makes here."""
    golden, entry = Golden("wrn_classic_d10_w2"), find_entry(name, threat=threat)
    entry = replace(entry, arguments={**entry.arguments, "depth": 10, "width": 2})
    torch.save(module(weights(golden)), tmp_path / "file.pt")
    network = read_entry(entry, [tmp_path / "file.pt"]).build().eval()
    x = golden["in_x"]
    if "mean" in entry.arguments:
        mean, std = constants(entry)
        golden.check(out_logits=network(x * std + mean))
    else:
        plain = zoo.build("wide-resnet", depth=10, width=2).eval()
        plain.load_state_dict(network.state_dict())
        flat = x.flatten(1)
        scaled = (flat - flat.mean(dim=1, keepdim=True)) / flat.std(dim=1, keepdim=True)
        torch.testing.assert_close(network(x), plain(scaled.view_as(x)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "depth"), [("Sehwag2021Proxy_R18", 18), ("Engstrom2019Robustness", 50)])
def test_a_resnet_for_small_images_is_torchvisions_with_another_stem(tmp_path: Path, name: str, depth: int) -> None:
    entry = find_entry(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=10).eval()
        theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    names = {"downsample": "shortcut", "fc.": "linear."}
    state = theirs.state_dict()
    for old, new in names.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    torch.save(module(state), tmp_path / "file.pt")
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    mean, std = constants(entry)
    ours = read_entry(entry, [tmp_path / "file.pt"]).build().eval()
    torch.testing.assert_close(ours(x), theirs((x - mean) / std), rtol=1e-4, atol=1e-5)


def test_operators_whose_threshold_is_zero_change_nothing(tmp_path: Path) -> None:
    """RaWRN with MeanSparse, of which there is no reference file, beside the recorded RaWRN."""
    golden = Golden("rb_rawrn_tiny")
    entry = find_entry("Amini2024MeanSparse_Ra_WRN_70_16")
    small = {"blocks": [2, 3, 1], "channels": [16, 24, 32], "stem_channels": 12}
    entry = replace(entry, arguments={**entry.arguments, **small})
    operators = {key: value for key, value in entry.build().state_dict().items() if "meansparse" in key}
    assert operators
    assert not any(value.any() for key, value in operators.items() if key.endswith("threshold"))
    torch.save({**weights(golden), **operators}, tmp_path / "file.pt")
    golden.check(out_logits=read_entry(entry, [tmp_path / "file.pt"]).build().eval()(golden["in_x"]))


def test_a_pre_activation_resnet_with_a_norm_after_its_stem_equals_the_reference() -> None:
    golden = Golden("rb_stem_norm_resnet50")
    with torch.device("meta"):
        network = StemNormResNet().eval()
    golden.check_keys(network)
    network.load_state_dict(weights(golden), assign=True)
    x = golden["in_x"].requires_grad_()
    logits = network(x)
    golden.check(out_logits=logits)


def test_an_ensemble_is_read_from_one_file_a_member_and_averages_probabilities(tmp_path: Path) -> None:
    """Of each member the head is larger by its number: its logits are."""
    golden, entry = Golden("rb_lrr_tiny"), find_entry("Diffenderfer2021Winning_LRR_CARD_Deck", threat="corruptions")
    entry = replace(entry, arguments={"member": "cifar-resnet", "count": 6, "arguments": {"width": 8}})
    folder = tmp_path / "cifar10" / "corruptions"
    folder.mkdir(parents=True)
    for number in range(6):
        state = weights(golden)
        state |= {key: (1 + number) * state[key] for key in ("fc.weight", "fc.bias")}
        torch.save(module(scores(state)), folder / f"{entry.name}.pt_m{number}.pt")
    logits = golden["out_logits"]
    expected = torch.stack([((1 + number) * logits).softmax(dim=1) for number in range(6)]).mean(dim=0)
    torch.testing.assert_close(load_entry(entry, root=tmp_path)(golden["in_x"]), expected, rtol=0, atol=1e-4)
    (folder / f"{entry.name}.pt_m4.pt").unlink()
    with pytest.raises(
        CheckpointError, match=rf"no such file as .*_m4\.pt; its file on Google Drive is {entry.drive[4]}"
    ):
        load_entry(entry, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "threat", "model", "small", "ours"),
    [
        ("Salman2020Do_R18", "Linf", "torchvision:resnet18", {}, {}),
        ("Tian2022Deeper_DeiT-S", "corruptions", "timm:deit_small_patch16_224", {"depth": 2}, {"depth": 2}),
        ("Liu2023Comprehensive_ConvNeXt-B", "Linf", "timm:convnext_base", CONVNEXT, {"options": CONVNEXT}),
        (
            "Mo2022When_Swin-B",
            "Linf",
            "timm:swin_base_patch4_window7_224",
            {"embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4)},
            {"width": 16, "depths": (1, 1), "heads": (2, 4)},
        ),
        (
            "Debenedetti2022Light_XCiT-S12",
            "Linf",
            "timm:xcit_small_12_p16_224",
            {"embed_dim": 32, "depth": 2, "num_heads": 4, "eta": 1.0, "tokens_norm": True},
            {"width": 32, "depth": 2, "heads": 4},
        ),
    ],
)
def test_networks_of_other_libraries_give_what_these_give(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    threat: str,
    model: str,
    small: dict[str, Any],
    ours: dict[str, Any],
) -> None:
    library, _, architecture = model.partition(":")
    entry = find_entry(name, "imagenet", threat)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maker = torchvision.models.get_model if library == "torchvision" else timm.create_model
        theirs = maker(architecture, num_classes=10, **small).eval()
    entry = replace(entry, dataset="cifar10", arguments={**entry.arguments, **ours})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / ("hub/checkpoints" if entry.file else "cifar10/Linf") / (entry.file or f"{entry.name}.pt")
    file.parent.mkdir(parents=True)
    state = old_swin(theirs.state_dict()) if "Swin" in name else theirs.state_dict()
    torch.save({"state_dict": state}, file)
    x = torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    mean, std = constants(entry)
    torch.testing.assert_close(load_entry(entry, root=tmp_path)(x), theirs((x - mean) / std), rtol=0, atol=1e-5)


def test_alexnet_is_torchvisions() -> None:
    with torch.device("meta"):
        theirs, ours = torchvision.models.alexnet(num_classes=3).eval(), AlexNet(3).eval()
    generator = torch.Generator().manual_seed(0)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    state = {key: torch.rand(shape, generator=generator) / 50 - 0.01 for key, shape in shapes.items()}
    theirs.load_state_dict(state, assign=True)
    ours.load_state_dict(state, assign=True)
    x = torch.rand((1, 3, 96, 96), generator=generator)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_each_image_is_standardised_by_itself() -> None:
    x = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    x[1] = 0.5
    x[2] = 0.5 + x[2] / 1000  # a deviation below 1 / sqrt(3072)
    expected = [(image - image.mean()) / max(image.std().item(), 3072**-0.5) for image in x]
    torch.testing.assert_close(Standardize(3)(x), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert isinstance(find_entry("Ding2020MMA").build().normalize, Standardize)
    assert isinstance(find_entry("Ding2020MMA", threat="L2").build().normalize, Standardize)


def test_xcit_in_its_authors_names_is_timms(tmp_path: Path) -> None:
    """They have one matrix for queries, keys and values of the class token's attention, and `pos_embeder`."""
    golden = Golden("rb_xcit_cifar_tiny")
    entry = small_entry(next(case for case in CASES if case.golden == golden.name))
    state = bare(weights(golden))
    for block in range(2):
        for kind in ("weight", "bias"):
            prefix = f"cls_attn_blocks.{block}.attn"
            state[f"{prefix}.qkv.{kind}"] = torch.cat([state.pop(f"{prefix}.{name}.{kind}") for name in "qkv"])
    file = tmp_path / "xcit.pth"
    torch.save({"model": {key.replace("pos_embed.", "pos_embeder."): value for key, value in state.items()}}, file)
    golden.check(out_logits=read_entry(entry, [file]).build()(golden["in_x"]))


def rice(**changes: Any) -> Entry:
    """An entry that normalises, made small."""
    entry = find_entry("Rice2020Overfitting")
    return replace(entry, arguments={**entry.arguments, "depth": 10, "width": 1}, **changes)


def test_a_file_that_is_not_the_entrys_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "Rice2020Overfitting.pt"
    torch.save(zoo.build("wide-resnet", depth=16, width=1).state_dict(), file)
    with pytest.raises(
        CheckpointError, match=r"not the weights of Rice2020Overfitting \(cifar10, Linf\): 36 unexpected"
    ):
        read_entry(rice(), [file])
    with torch.device("meta"):
        state = {key: value.shape for key, value in find_entry("Ding2020MMA").build().state_dict().items()}
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in state.items()}, file)
    with pytest.raises(CheckpointError, match=r"they fit Ding2020MMA \(cifar10, Linf\), Ding2020MMA \(cifar10, L2\)$"):
        read_entry(rice(), [file])
    torch.save({"encoder.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"no weights of Rice2020Overfitting \(cifar10, Linf\).*'encoder.weight'"):
        read_entry(rice(), [file])
    file.write_text("<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>")
    with pytest.raises(CheckpointError, match="this is a web page, not a checkpoint; the download failed"):
        read_entry(rice(), [file])


def test_constants_in_a_file_count_and_those_that_contradict_are_told(tmp_path: Path) -> None:
    file, state = tmp_path / "file.pt", zoo.build("wide-resnet", depth=10, width=1).state_dict()

    def read(entry: Entry, mean: float | None, std: float | None) -> dict[str, Any]:
        constants = {} if mean is None else {"mu": torch.full((1, 3, 1, 1), mean), "sigma": torch.full((3,), std)}
        torch.save({**state, **constants}, file)
        return read_entry(entry, [file]).arguments

    own = rice().arguments
    assert read(rice(), None, None)["mean"] == own["mean"]
    with pytest.warns(UserWarning, match=r"normalises with .*0\.25.*; the file's count"):
        assert read(rice(), 0.25, 0.5)["std"] == (0.5, 0.5, 0.5)
    half = replace(rice(), arguments={"depth": 10, "width": 1, "mean": [0.5] * 3, "std": [0.5] * 3})
    assert read(half, 0.5, 0.5)["mean"] == [0.5] * 3
    plain = replace(half, arguments={"depth": 10, "width": 1})
    assert "mean" not in read(plain, None, None)
    with pytest.raises(CheckpointError, match="takes images as they are; it is a file of another entry"):
        read(plain, 0.5, 0.5)
    told = replace(plain, constants="file")
    assert read(told, 0.25, 0.5)["mean"] == (0.25, 0.25, 0.25)
    with pytest.raises(CheckpointError, match="has its normalisation constants in its file; there are none"):
        read(told, None, None)


def test_what_is_not_built_says_why(tmp_path: Path) -> None:
    with pytest.raises(EntryError, match=r"Kang2021Stable \(cifar10, Linf\) cannot be built: its ODE block"):
        load_robustbench("Kang2021Stable", root=tmp_path)
