"""What may be evaluated, and what makes two evaluations the same one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rp_attacks.autoattack import AutoAttack
from rp_attacks.defence import Classifier, OffersReconstructionLoss, query, with_gradient
from rp_attacks.identity import fingerprint, identify, identify_attack, modules, sources
from rp_attacks.problem import Attack, check_logits, check_problem
from rp_attacks.rng import PrivateStream
from rp_attacks.store import Pixels, check_bytes


def admit(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    attacks: Mapping[str, Attack],
    index: Tensor | None,
    *,
    pixels: Pixels = "float",
    others: Mapping[str, Classifier | None] | None = None,
) -> Tensor:
    """The image indices; refuses, before any attack has run, what would give a number without meaning.

    Raises:
        ValueError: with the fix.
        TypeError: something is not of the kind that it must be.
    """
    _check_attacks(attacks)
    for attack in attacks.values():
        index = check_problem(x, y, norm=attack.norm, eps=attack.eps, index=index)
        if pixels == "uint8":
            check_bytes(x, attack.norm, attack.eps)
    assert index is not None
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x must be float32, got {x.dtype}, whose rounding leaves the ball; pass x.float(), and let the model "
            "convert what it is given"
        )
    classes = _check_model("the model", model, x, y)
    for name, attack in attacks.items():
        _check_fit(name, attack, model, classes)
        for source in sources(attack):
            _check_model(f"the source of {name!r}", source, x, y)
    for role, other in (others or {}).items():
        if other is not None:
            _check_model(role, other, x, y)
    return index


def _check_attacks(attacks: Mapping[str, Attack]) -> None:
    """Refuse anything but attacks by names that can name a folder."""
    if not isinstance(attacks, Mapping):
        raise TypeError(
            f"attacks must be a mapping from names to attacks, got {type(attacks).__name__}; "
            "pass e.g. {'pgd': PGD(...)} or rp_attacks.suite('quick', eps=...)"
        )
    if not attacks:
        raise ValueError("attacks is empty: pass at least one, e.g. rp_attacks.suite('quick')")
    for name, attack in attacks.items():
        if not isinstance(name, str) or not re.fullmatch(r"(?!clean$|noise-)\w[\w.+-]*", name):
            raise ValueError(
                f"attack name {name!r} cannot name a folder: use letters, digits, '-', '.', '+', and neither "
                "'clean' nor 'noise-...'"
            )
        if isinstance(attack, type) or not all(hasattr(attack, part) for part in ("norm", "eps", "__call__")):
            raise TypeError(f"attack {name!r} must be an attack such as PGD(eps=...), got {attack!r}")


def _check_model(role: str, model: Classifier, x: Tensor, y: Tensor) -> int:
    """Refuse train mode, a wrong device, and what is no logits; gives the number of classes."""
    networks = modules(model)
    left = [name for name, network in networks.items() if network.training and not _mere_container(network)]
    if left:
        named = ", ".join(name or type(networks[name]).__name__ for name in left[:3])
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise ValueError(
            f"{role} is in train mode ({named}{more}), where an image's logits may depend on its batch and on chance; "
            "call .eval()"
        )
    for network in networks.values():
        parameter = next(network.parameters(), None)
        if parameter is not None and parameter.is_inference():
            raise ValueError(
                f"{role}'s weights were made under torch.inference_mode(), which allows no gradients; "
                "build and load it outside"
            )
        if parameter is not None and parameter.device != x.device:
            raise ValueError(f"{role} is on {parameter.device} and x on {x.device}; move them to one device")
    with torch.no_grad(), PrivateStream(0)(x.device):
        logits = query(model, x[:8], seed=0, index=torch.arange(len(x[:8]), device=x.device))
    check_logits(logits, y[:8])
    if y.max() >= logits.shape[1]:
        raise ValueError(f"label {y.max().item()} is out of range: {role} has {logits.shape[1]} classes")
    return logits.shape[1]


def _mere_container(network: nn.Module) -> bool:
    """Whether a module's own mode means nothing: it holds others, all of which are in eval mode, and no weights."""
    own = [*network.parameters(recurse=False), *network.buffers(recurse=False)]
    inner = list(network.children())
    return bool(inner) and not own and all(not child.training or _mere_container(child) for child in inner)


_HARDEST: dict[Any, str] = {"standard": "apgd-t", "plus": "apgd-t", "rand": "apgd-dlr"}  # part of AutoAttack
_LEAST_CLASSES = {"dlr": 3, "apgd-dlr": 3, "targeted-dlr": 4, "apgd-t": 4}


def _check_fit(name: str, attack: Any, model: Classifier, classes: int) -> None:
    """Refuse an attack that would fail on this model only when its turn comes."""
    if hasattr(attack, "attack"):
        _check_fit(name, attack.attack, getattr(attack, "source", model), classes)
        return
    parts: tuple[str, ...] = (getattr(attack, "loss", ""),)
    if isinstance(attack, AutoAttack):
        parts = attack.attacks or (_HARDEST[attack.version],)
    least = max(_LEAST_CLASSES.get(part, 2) for part in parts)
    if classes < least and attack.eps > 0:
        raise ValueError(f"attack {name!r} needs at least {least} classes, the model has {classes}; leave it out")
    with_gradient(model, getattr(attack, "grad", "exact"))
    if getattr(attack, "reconstruction_weight", 0.0) and not isinstance(model, OffersReconstructionLoss):
        raise ValueError(
            f"attack {name!r} has a reconstruction_weight, which needs a defence that offers "
            "`reconstruction_loss(x, seed=, index=)`; set it to 0"
        )


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
        "model": identify(model, x, index),
        "images": fingerprint(x),
        "labels": fingerprint(y),
        "index": fingerprint(index),
        "count": len(x),
        "attacks": {name: identify_attack(attack, x, index) for name, attack in attacks.items()},
        "order": list(attacks),
        "seed": seed,
        "block_size": block_size,
        "passes": passes,
        "exhaustive": exhaustive,
        "pixels": pixels,
    }


def plain(tensor: Tensor) -> Tensor:
    """The values without a graph, in the usual layout, and usable in a graph also where inference mode made them."""
    if not isinstance(tensor, Tensor):  # refused later, in a sentence
        return tensor
    tensor = tensor.detach().contiguous()
    return tensor.clone() if tensor.is_inference() else tensor


def check_shard(shard: tuple[int, int], folder: Path | None) -> None:
    """Refuse a rank that does not exist, and several processes without a folder to share."""
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be (rank, processes) with 0 <= rank < processes, got {shard}")
    if shard[1] > 1 and folder is None:
        raise ValueError("several processes share their blocks through a folder: pass one")
