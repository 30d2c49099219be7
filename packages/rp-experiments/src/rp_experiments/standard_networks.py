"""Networks that jobs train for themselves, kept for other runs under a hash of all that determines them."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rp_attacks.identity import fingerprint
from rp_models.checkpoint import read_tensors
from rp_models.training import RunFolder

from rp_experiments.pretrain import pretrain
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.recipes.standard_classifier import STANDARD


def pretrained(kind: str, config: Pretrain, *, cache: Path, device: torch.device, root: Path | None) -> str:
    """The checkpoint of a network by `pretrain.py`'s code, trained now if it is not in the cache.

    Args:
        kind: what to call it: classifier, mae, maskdit or edm.
        config: everything that determines its weights.
        cache: folder of networks.
        device: where to train.
        root: folder of the data sets; None for the usual places.

    Raises:
        DataError, RunError: if it cannot be trained.
    """
    folder = cached_folder(cache, f"{kind}-{config.data}", asdict(config))
    product = folder.path / "checkpoints" / "model.safetensors"
    if not product.exists():
        with contextlib.redirect_stdout(sys.stderr):  # what stands on the terminal is the job's own result
            pretrain(config, folder.path, resume=True, device=str(device), root=root)
    return str(product)


def standard_classifier(data: str, *, cache: Path, device: torch.device, root: Path | None) -> str:
    """The checkpoint of the classifier that is taken where none is named; errors as in `pretrained`.

    Args:
        data: a data set of `STANDARD`.
        cache: folder of networks.
        device: where to train.
        root: folder of the data sets; None for the usual places.
    """
    print(f"no classifier is named: taking the standard one for {data}, trained once, from {cache}", file=sys.stderr)
    return pretrained("classifier", STANDARD[data](), cache=cache, device=device, root=root)


def cached_folder(cache: Path, name: str, identity: Mapping[str, Any], *contents: str) -> RunFolder:
    """The folder in the cache for a network of this identity, made from networks of these contents.

    Raises:
        RunError: if it cannot be used.
    """
    text = json.dumps([identity, *contents], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return RunFolder.open(cache / f"{name}-{digest}", identity, resume=True)


def digest_of(checkpoint: str) -> str:
    """A hash of a checkpoint's weights, whatever its header says.

    Raises:
        CheckpointError: if there is no such file, or it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(read_tensors(checkpoint).items()):
        digest.update(f"{name} {tensor.dtype} ".encode() + fingerprint(tensor.float()).encode())
    return digest.hexdigest()
