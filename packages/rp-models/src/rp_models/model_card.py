"""A model card in Markdown from a pre-training's `result.json`, so that nothing in it is typed by hand."""

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "mae": ("masked autoencoder", "He et al. 2022, arXiv:2111.06377"),
    "edm": ("EDM diffusion model", "Karras et al. 2022, arXiv:2206.00364"),
    "maskdit": ("MaskDiT diffusion model", "Zheng et al. 2024, arXiv:2306.09305"),
    "standard": ("classifier, trained without an adversary", "cross-entropy on clean images"),
}
_TRAINING = (
    "mask_rate",
    "unmasked_steps",
    "optimizer",
    "lr",
    "weight_decay",
    "dropout",
    "ema_half_life",
    "conditional",
)


def model_card(result: Mapping[str, Any], *, name: str) -> str:
    """The card's text. Raises ValueError if it is not the result of a pre-training.

    `result`: what `pretrain.py` left in `result.json`; of older runs some entries may be missing. `name`: under which
    `rp_models.load` shall find the weights.
    """
    config, environment = result.get("config", {}), result.get("environment", {})
    kind = next((key for key in _KINDS if key in config), None)
    if kind is None:
        raise ValueError(f"expected the result.json of pretrain.py, got one with {', '.join(result) or 'nothing'}")
    title, source = _KINDS[kind]
    rows = {
        "Model": f"{title} ({source}); {_network(result, config[kind])}",
        "Data": _data(result, config),
        "Training": _training(config[kind], config),
        "Hardware": _hardware(result, environment),
        "Quality": _quality(result),
        "Code": _code(environment),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f'# {name}\n\n`rp_models.load("{name}")`\n\n| | |\n|---|---|\n{table}\n'


def _network(result: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    name = result.get("network") or settings.get("network") or "edm"
    stored = "float16" if result["config"].get("half") else "float32"
    return f"`{name}`, {result['parameters']:,} parameters, stored in {stored}"


def _data(result: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    data = result.get("data") or _catalogued(config["data"])
    count = result.get("training_images")
    images = f" ({count:,} images)" if count else ""
    return f"{data['name']}, training split{images}; {data['source']}; licence: {data['licence'] or 'not stated'}"


def _catalogued(name: str) -> dict[str, str]:
    """What the catalogue says of a data set, for results that do not say it themselves."""
    from rp_models.data import describe

    info = describe(name)
    return {"name": info.name, "source": info.source, "licence": info.licence}


def _training(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    parts = [f"{settings['steps']:,} steps of {settings['batch_size']} images"]
    parts += [f"{key.replace('_', ' ')} {settings[key]}" for key in _TRAINING if settings.get(key)]
    parts.append(f"precision {config.get('compute', {}).get('precision', 'fp32')}")
    return ", ".join([*parts, f"seed {config['seed']}"])


def _hardware(result: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    device = result.get("device") or f"{environment['processors']} processor(s), {environment['platform']}"
    count = result.get("processes", 1)
    seconds = sum(result["seconds"].values())
    time = f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    return f"{device}{f', {count} processes' if count > 1 else ''}; {time}"


def _quality(result: Mapping[str, Any]) -> str:
    figures = [key for key in result if key.startswith("validation_") and key != "validation_images"]
    said = ", ".join(f"{key.removeprefix('validation_').replace('_', ' ')} {result[key]:.5g}" for key in figures)
    return f"{said}, of the stored weights on {result['validation_images']:,} images of the validation split"


def _code(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions", {})
    commit = environment.get("commit") or "unknown"
    return f"rp-models {versions.get('rp-models', '?')}, torch {versions.get('torch', '?')}, commit {commit}"
