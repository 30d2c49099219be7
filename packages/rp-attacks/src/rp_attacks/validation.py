"""What may be evaluated, and what makes two evaluations the same one."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rp_attacks.defence import Classifier, query
from rp_attacks.problem import Attack, check_problem
from rp_attacks.rng import PrivateStream
from rp_attacks.store import Pixels, fingerprint


def admit(model: Classifier, x: Tensor, y: Tensor, attacks: Mapping[str, Attack], index: Tensor | None) -> Tensor:
    """Refuse what would give a number without meaning.

    Args:
        model: classifier or defence.
        x: images (n, c, h, w).
        y: labels (n,).
        attacks: by name.
        index: image indices (n,), or None.

    Returns:
        The image indices.

    Raises:
        ValueError: with the fix.
        TypeError: labels are not integers.
    """
    if not attacks:
        raise ValueError("attacks is empty: pass at least one, e.g. rp_attacks.suite('quick')")
    for name in attacks:
        if not re.fullmatch(r"\w[\w.+-]*", name) or name == "clean" or name.startswith("noise-"):
            raise ValueError(
                f"attack name {name!r} cannot name a folder: use letters, digits, '-', '.', '+', and neither "
                "'clean' nor 'noise-...'"
            )
    for attack in attacks.values():
        index = check_problem(x, y, norm=attack.norm, eps=attack.eps, index=index)
    assert index is not None
    _check_model(model, x)
    return index


def _check_model(model: Classifier, x: Tensor) -> None:
    """Refuse train mode, a wrong device, and probabilities in place of logits."""
    network = _network(model)
    if network is not None:
        if network.training:
            raise ValueError("the model is in train mode, where an image's logits depend on its batch; call .eval()")
        parameter = next(network.parameters(), None)
        if parameter is not None and parameter.device != x.device:
            raise ValueError(f"the model is on {parameter.device} and x on {x.device}; move them to one device")
    with torch.no_grad(), PrivateStream(0)(x.device):
        logits = model(x[:8])
    if logits.dim() == 2 and (logits >= 0).all() and (logits.sum(dim=1) - 1).abs().max() < 1e-4:
        raise ValueError("the model gives probabilities (non-negative, sum 1); attacks need logits: leave softmax out")


def _network(model: Any) -> nn.Module | None:
    """The module, also inside wrappers such as MeanLogits."""
    while not isinstance(model, nn.Module) and hasattr(model, "model"):
        model = model.model
    return model if isinstance(model, nn.Module) else None


def describe(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    index: Tensor,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    block_size: int,
    passes: int,
    exhaustive: bool,
    pixels: Pixels,
) -> dict[str, Any]:
    """All that the result is a function of; an interrupted evaluation resumes only under the same description."""
    return {
        "model": _identity(model, x, index),
        "images": fingerprint(x),
        "labels": fingerprint(y),
        "index": fingerprint(index),
        "count": len(x),
        "attacks": {name: _attack_identity(attack, x, index) for name, attack in attacks.items()},
        "order": list(attacks),
        "seed": seed,
        "block_size": block_size,
        "passes": passes,
        "exhaustive": exhaustive,
        "pixels": pixels,
    }


def _attack_identity(attack: Attack, x: Tensor, index: Tensor) -> str:
    """Its settings, and the source of a transfer."""
    source = getattr(attack, "source", None)
    return repr(attack) if source is None else f"{attack!r} from {_identity(source, x, index)}"


def _identity(model: Classifier, x: Tensor, index: Tensor) -> str:
    """Type of the model and a hash of its weights, or of what it answers where it shows no weights."""
    digest = hashlib.blake2b(digest_size=8)
    network = _network(model)
    if network is not None:
        for key, value in sorted(network.state_dict().items()):
            digest.update(key.encode() + fingerprint(value).encode())
    else:
        with torch.no_grad(), PrivateStream(0)(x.device):
            logits = query(model, x[:4], seed=0, index=index[:4])
        digest.update(fingerprint((100 * logits.float()).round()).encode())  # coarse: devices round differently
    return f"{type(model).__qualname__}-{digest.hexdigest()}"


def check_shard(shard: tuple[int, int], folder: Path | None) -> None:
    """Refuse a rank that does not exist, and several processes without a folder to share."""
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (rank, processes) with 0 <= rank < processes, got {shard}")
    if shard[1] > 1 and folder is None:
        raise ValueError("several processes share their blocks through a folder: pass one")
