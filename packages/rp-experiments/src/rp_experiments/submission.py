"""A classifier of a run of `train_dra.py` as a submission to RobustBench: weights, code, fields and log in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import rp_models
from rp_attacks.store import load_images, load_record
from rp_dra import export_robustbench
from rp_dra.settings import Method, uses_synthetic
from rp_models.robustbench.entries import CLASSES
from rp_models.training import RunFolder

from rp_experiments.autoattack_files import log_text, radius_text, write_model_info
from rp_experiments.recipes.robustbench import THREATS
from rp_experiments.submission_code import model_code

FIELDS = ("link", "authors", "venue", "architecture", "footnote")  # that only the author knows


def submission(source: Path, target: Path, *, options: dict[str, Any]) -> None:
    """Write the folder of one method's classifier and print what is in it.

    `options`: `method`, needed where the run has several; `name` of the entry; and of RobustBench's fields link,
    authors, venue, architecture and footnote. Raises ValueError if the run is not finished, was not judged by the whole
    of AutoAttack, is of a data set that RobustBench lacks, or has no such method; CheckpointError for a network whose
    code is not written here.
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
    if setting["data"] not in CLASSES:
        raise ValueError(f"RobustBench has no data set {setting['data']}; it has {', '.join(CLASSES)}")
    if setting["norm"] not in THREATS:
        raise ValueError(f"RobustBench has no threat model of norm {setting['norm']}")
    name = str(options.get("name", f"{source.name}-{method}"))
    model = rp_models.load(source / "checkpoints" / f"{method}.safetensors")
    code = model_code(model, name, setting["data"])  # first of all: it may be refused
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
