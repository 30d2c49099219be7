"""The plan of a scale with tiny networks, few images and few steps, and small files in place of all that it reads.

All other settings are the plan's own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rp_models
import torch
from PIL import Image
from rp_attacks import autoattack
from rp_experiments import sweep
from rp_experiments.artifacts import Artifact
from rp_experiments.recipes.sweep import configurations
from rp_models import zoo
from rp_models.robustbench.entries import is_spec

_TRAIN, _TEST, _HELD_OUT = 16, 8, 4  # images of a split
_RNG = np.random.default_rng(0)

LARGEST = {  # of counts, by the setting's name
    **dict.fromkeys(("attack_steps", "curved_steps", "steps", "fab_steps", "search_steps", "reverse_steps"), 2),
    **dict.fromkeys(("sampler_steps", "passes", "permutations"), 2),
    **dict.fromkeys(("label_queries", "plain_queries", "queries", "noisy_images", "masks", "sheet"), 2),
    **dict.fromkeys(("kernel_images", "neighbours", "times", "max_times", "eot", "features"), 2),
    **dict.fromkeys(("adversary_steps", "curved_eot", "draws", "epochs", "judging_steps", "label_passes"), 1),
    **dict.fromkeys(("noisy_draws", "noisy_steps", "published_eot", "published_steps", "query_passes"), 1),
    **dict.fromkeys(("repeats", "rounds", "sae_epochs", "search", "validation_steps", "validate_every", "every"), 1),
    **dict.fromkeys(("weak_steps", "examples", "second_steps", "unmasked_steps", "warmup_steps"), 1),
    **dict.fromkeys(("batch_size", "block_size", "validation_batch", "hidden", "sae_k", "sae_batch"), 8),
    **dict.fromkeys(("epoch_images", "rampup_images", "train_images"), 8),
    "images": 8,
    "probes": 0,
    "model_channels": 16,
    "num_blocks": 1,
    "sae_expansion": 2,
}
_BACKBONES = {  # options of timm's networks
    "resnet101": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
    "convnext": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]},
    "vit": {"depth": 1, "embed_dim": 32, "num_heads": 2},
}
_SIZES = {  # by the network's class
    "DMWideResNet": {"depth": 10, "width": 1},
    "VisionTransformer": {"width": 32, "depth": 1, "heads": 2},
    "CifarResNet": {"width": 4},
    "MaskedAutoencoder": {"width": 32, "depth": 1, "heads": 2, "decoder_width": 32, "decoder_depth": 1}
    | {"decoder_heads": 2},
    "MaskDiT": {"width": 32, "depth": 1, "heads": 2, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
    "LightningDiT": {"width": 64, "depth": 2, "heads": 2},
    "AutoencoderKL": {"width": 32, "blocks": 1},
}


def tiny(value: Any, name: str = "") -> Any:
    """Settings with few steps, images and blocks; the rest as it was."""
    if is_dataclass(value) and not isinstance(value, type):
        inner = {field.name: tiny(getattr(value, field.name), field.name) for field in fields(value) if field.init}
        return replace(value, **{**inner, **_changes(value)})
    if isinstance(value, Mapping):
        return {key: tiny(one, key) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(tiny(one, name) for one in value)
    counted = isinstance(value, int | float) and not isinstance(value, bool) and name in LARGEST
    return type(value)(min(value, LARGEST[name])) if counted else value


def _changes(settings: Any) -> dict[str, Any]:
    """What has to fit a tiny network, and what needs a compiler or a download."""
    changes: dict[str, Any] = {}
    if getattr(settings, "compile", False):
        changes["compile"] = False
    if getattr(settings, "pretrained", None) == "timm":
        changes["pretrained"] = None
    if str(getattr(settings, "model", "")).startswith("robustbench:"):
        changes["model"] = f"rival-{settings.data}"  # a classifier that RobustBench has not
    if getattr(settings, "target", "") == "lightningdit":
        changes |= {"blocks": (1,), "zero_channels": (3, 1)}
    return changes


def tiny_artifact(artifact: Artifact) -> Artifact:
    """The same product, and all that it needs, of tiny settings."""
    needs = {role: tiny_artifact(need) for role, need in artifact.needs.items()}
    return replace(artifact, config=tiny(artifact.config), needs=needs)


def make_tiny(patch: pytest.MonkeyPatch) -> None:
    """Let every network of the zoo be tiny, and a few images be a validation split."""
    for name, entry in zoo.ENTRIES.items():
        sizes: dict[str, Any] = _SIZES.get(entry.target.rpartition(":")[2], {})
        if model := entry.arguments.get("model"):
            sizes = {"options": next((of for kind, of in _BACKBONES.items() if model.startswith(kind)), {})}
        patch.setitem(zoo.ENTRIES, name, replace(entry, arguments={**entry.arguments, **sizes}))
    patch.setattr("rp_models.data.splits.VALIDATION_IMAGES", _HELD_OUT)
    patch.setattr("rp_models.data.imagenet._HELD_OUT", 1)
    pictures = tuple((number, number // 3) for number in range(9))
    patch.setattr("rp_models.robustbench.imagenet.picture_list", lambda: pictures)
    patch.setattr("rp_experiments.estimate.choice.free_memory", lambda device: None)  # all of a batch fits
    patch.setattr(autoattack, "_fit_to_classes", _few_steps)
    patch.setattr(sweep, "configurations", lambda of: tiny(configurations(of)))


def _few_steps(library: Any, classes: int) -> None:
    """AutoAttack's parts, whose lengths are no settings, with few steps each."""
    for part in (library.apgd, library.apgd_targeted, library.fab):
        part.n_iter = 2
    for part in (library.apgd_targeted, library.fab):
        part.n_target_classes = 1
    library.square.n_queries = 2


def write_files(folder: Path, names: Iterable[str]) -> None:
    """Data sets below `data/`, and the named networks and sets of images where a plan looks for them."""
    data = folder / "data"
    count = _HELD_OUT + _TRAIN
    for part in range(1, 6):
        _binary(data / "cifar-10-batches-bin" / f"data_batch_{part}.bin", count // 5, [10])
    _binary(data / "cifar-10-batches-bin" / "test_batch.bin", _TEST, [10])
    _binary(data / "cifar-100-binary" / "train.bin", count, [20, 100])
    _binary(data / "cifar-100-binary" / "test.bin", _TEST, [20, 100])
    _svhn(data / "svhn", {"train": count, "test": _TEST})
    _imagenet(data / "imagenet")
    for name in (*(name for name in names if not is_spec(name)), "rival-cifar10", "rival-cifar100"):
        _file(folder, name)


def _pixels(*shape: int) -> np.ndarray:
    return _RNG.integers(0, 256, shape, dtype=np.uint8)


def _binary(file: Path, count: int, classes: list[int]) -> None:
    """Images of CIFAR as records of bytes, behind labels of so many classes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    labels = np.stack([_RNG.integers(0, of, count) for of in classes], axis=1).astype(np.uint8)
    np.concatenate([labels, _pixels(count, 3072)], axis=1).tofile(file)


def _svhn(folder: Path, counts: Mapping[str, int]) -> None:
    from scipy.io import savemat

    folder.mkdir(parents=True)
    for split, count in counts.items():
        labels = _RNG.integers(1, 11, (count, 1)).astype(np.uint8)
        savemat(folder / f"{split}_32x32.mat", {"X": _pixels(32, 32, 3, count), "y": labels})


def _imagenet(folder: Path) -> None:
    """The thousand synsets, in three of which there are pictures."""
    synsets = ["n01440764", *(f"n{number:08d}" for number in range(2_000_000, 2_000_999))]
    for split, count in {"train": 5, "val": 3}.items():
        for number, synset in enumerate(synsets):
            (folder / split / synset).mkdir(parents=True)
            for picture in range(count if number < 3 else 0):
                file = folder / split / synset / f"ILSVRC2012_val_{3 * number + picture:08d}.JPEG"
                Image.fromarray(_pixels(40, 48, 3)).save(file)


def _file(folder: Path, name: str) -> None:
    """A network, or images, by the name that a plan gives them."""
    if name.endswith(".npz"):
        size, classes = (256, 1000) if "imagenet" in name else (32, 100 if "cifar100" in name else 10)
        file = folder / name.replace("*", "00000-of-00001")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, image=_pixels(8, size, size, 3), label=_RNG.integers(0, classes, 8))
        return
    torch.manual_seed(0)
    target = folder / name if name.endswith(".safetensors") else folder / "weights" / f"{name}.safetensors"
    target.parent.mkdir(exist_ok=True)
    rp_models.save(_network(name), target)


def _network(name: str) -> torch.nn.Module:
    if name.startswith("edm-cifar"):
        sizes = {"model_channels": 16, "channel_mult": [2, 2, 2], "num_blocks": 1, "attn_resolutions": [16]}
        known = {"model_type": "SongUNet", "img_resolution": 32, "img_channels": 3}
        return rp_models.build("edm", label_dim=100 if "cifar100" in name else 10, **known, **sizes)
    if name.startswith("rival-"):
        return rp_models.build("wrn-28-10-swish-cifar100" if name.endswith("cifar100") else "wrn-28-10-swish")
    if name == "vavae-latent-statistics":
        return rp_models.build("latent-normalization")
    return rp_models.build("mae-vit-large" if name.startswith("mae-visualize") else name)
