"""A classifier of a run of `train_dra.py` as a submission to RobustBench: weights, code, fields and log in a folder."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import rp_models
from rp_attacks.store import load_images, load_record
from rp_dra import export_robustbench
from rp_dra.settings import Method, uses_synthetic
from rp_models import zoo
from rp_models.checkpoint import CheckpointError
from rp_models.networks.backbones import Backbone
from rp_models.networks.vit import VisionTransformer
from rp_models.networks.wide_resnet import DMWideResNet, WideResNet
from rp_models.training import RunFolder
from torch import nn

from rp_experiments import pages
from rp_experiments.autoattack_files import log_text, radius_text, write_model_info
from rp_experiments.recipes.robustbench import THREATS

FIELDS = ("link", "authors", "venue", "architecture", "footnote")  # that only the author knows
_LIBRARY = "robustbench.model_zoo.architectures"


def submission(source: Path, target: Path, *, options: dict[str, Any]) -> None:
    """Write the folder of one method's classifier and print what is in it.

    `options`: `method`, needed where the run has several; `name` of the entry; and of RobustBench's fields link,
    authors, venue, architecture and footnote. Raises ValueError if the run is not finished, was not judged by the whole
    of AutoAttack, or has no such method; CheckpointError for a network whose code is not written here.
    """
    unknown = sorted(options.keys() - {"method", "name", *FIELDS})
    if unknown:
        raise ValueError(f"submission has no option {unknown[0]!r}; it has method, name, {', '.join(FIELDS)}")
    if not (source / "result.json").is_file():
        raise ValueError(f"{source} holds no finished run of train_dra.py")
    result = RunFolder(source, writes=False).read_json("result.json")
    method, setting = _method(source, result["methods"], options.get("method")), result["setting"]
    if not setting["attack"].startswith("AutoAttack standard"):
        raise ValueError(f"{source} was judged by {setting['attack']}; RobustBench's figure is of AutoAttack standard")
    if setting["norm"] not in THREATS:
        raise ValueError(f"RobustBench has no threat model of norm {setting['norm']}")
    name = str(options.get("name", f"{source.name}-{method}"))
    model = rp_models.load(source / "checkpoints" / f"{method}.safetensors")
    code = model_code(model, name)  # first of all: it may be refused
    folder = RunFolder(target)
    export_robustbench(model, target / f"{name}.pt")
    folder.write_text("model.py", code)
    folder.write_text("evaluation.log", _log(source, method, setting, result["config"]["evaluation"]["attacks"]))
    place = target / "model_info" / setting["data"] / THREATS[setting["norm"]] / f"{name}.json"
    write_model_info(place, **_fields(result, method, name, options))
    print(f"{name}, {method} of {source}: in {target}/ are {name}.pt, model.py, evaluation.log and {place.name}")
    missing = [key for key in ("link", "authors") if key not in options]
    if missing:
        print(f"still null in {place}: {', '.join(missing)}")


def model_code(model: nn.Module, name: str) -> str:
    """Python code in which RobustBench builds the network: its class, or one of ours on timm's, and the zoo's entry.

    Raises CheckpointError for another network.
    """
    return pages.render("robustbench_model.txt", **_class(model), name=name)


def _class(model: nn.Module) -> dict[str, Any]:
    """The base class with its arguments, where it is imported from, the constants, and who normalises."""
    known = _arguments(model)
    mean, std = known.get("mean"), known.get("std")
    found: dict[str, Any] = {"mean": mean, "std": std, "normalises": mean is None, "wrapped": False}
    tools = "import torch\nfrom torch import nn\n"
    match model:
        case DMWideResNet():
            imports = f"from torch import nn\n\nfrom {_LIBRARY}.dm_wide_resnet import DMWideResNet, Swish\n"
            given = {"num_classes": known["num_classes"], "depth": known["depth"], "width": known["width"]}
            given |= {"activation_fn": {"silu": Code("Swish"), "relu": Code("nn.ReLU")}[known["activation"]]}
            given |= {"mean": mean, "std": std}
            found |= {"normalises": True, "base": "DMWideResNet"}
        case WideResNet() if known["activation"] == "relu":
            imports = f"{tools}\nfrom {_LIBRARY}.wide_resnet import WideResNet\n"
            given = {"num_classes": known["num_classes"], "depth": known["depth"], "widen_factor": known["width"]}
            given |= {"sub_block1": known["sub_block"], "bias_last": known["head_bias"]}
            found |= {"base": "WideResNet"}
        case VisionTransformer():
            imports = f"{tools}from timm.models.vision_transformer import VisionTransformer\n"
            names = {"image_size": "img_size", "in_channels": "in_chans", "width": "embed_dim", "heads": "num_heads"}
            names |= {"pool": "global_pool"}
            names |= {name: name for name in ("patch_size", "num_classes", "depth", "mlp_ratio", "class_token")}
            given = {theirs: known[ours] for ours, theirs in names.items()}
            found |= {"base": "VisionTransformer"}
        case Backbone():
            imports = f"import timm\n{tools}"
            given = {"model_name": known["model"], "num_classes": known["num_classes"], **(known["options"] or {})}
            found |= {"base": "timm.create_model", "wrapped": mean is not None}
        case _:
            raise CheckpointError(
                f"no code for a {type(model).__name__} is written here; there is for DMWideResNet, WideResNet with "
                "ReLU, VisionTransformer and timm's networks"
            )
    if known.get("padding") or known.get("in_channels", 3) != 3:
        raise CheckpointError("RobustBench's classes take images of three channels, and add no padding")
    arguments = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return found | {"imports": imports, "arguments": arguments}


class Code(str):
    """A name in code."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _arguments(model: nn.Module) -> dict[str, Any]:
    """All arguments that the network was built with, the defaults too."""
    recipe: Any = model.recipe  # set by rp_models.load
    defaults = {name: p.default for name, p in inspect.signature(zoo.constructor(recipe.name)).parameters.items()}
    return {**defaults, **zoo.find(recipe.name).arguments, **recipe.arguments}


def _method(source: Path, methods: Mapping[str, Any], wanted: str | None) -> str:
    """The method whose classifier is meant."""
    known = [name for name in methods if name != "standard"] if wanted is None else list(methods)
    chosen = wanted or (known[0] if len(known) == 1 else None)
    if chosen not in methods:
        raise ValueError(f"{source} has {', '.join(methods)}; name one: --option method=NAME")
    return str(chosen)


def _log(source: Path, method: str, setting: Mapping[str, Any], attacks: Sequence[str]) -> str:
    """The evaluation's log, from the blocks that it left."""
    folder = source / "evaluation" / method
    parts = {name: load_record(folder, name) for name in attacks}
    images = load_images(folder, attacks[-1])
    about = (
        f"{setting['data']}, {setting['norm']} eps {setting['eps']:.6g}, {setting['attack']}, seed {setting['seed']}"
    )
    return f"{about}\n{log_text(load_record(folder, 'clean'), parts, images, setting['norm'])}"


def _fields(result: Mapping[str, Any], method: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """RobustBench's fields, those that only the author knows as they were given."""
    setting, row = result["setting"], result["methods"][method]
    clean, robust = (100 * float(row[kind]["estimate"]) for kind in ("clean", "autoattack"))
    return {
        **{key: options.get(key) for key in FIELDS},
        "name": name,
        "dataset": setting["data"],
        "venue": options.get("venue", ""),
        "architecture": options.get("architecture", setting["classifier"]),
        "additional_data": uses_synthetic(cast(Method, method)),
        "number_forward_passes": 1,
        "eps": radius_text(setting["eps"]),
        "clean_acc": clean,
        "reported": robust,
        "autoattack_acc": robust,
    }
