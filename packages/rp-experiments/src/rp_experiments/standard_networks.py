"""Networks that jobs train for themselves, kept for other runs under a hash of all that determines them."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rp_models.training import ProgressBar, RunFolder

from rp_experiments.artifacts import address
from rp_experiments.artifacts import digest as digest_of
from rp_experiments.pretrain import pretrain
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run

__all__ = ["cached_folder", "digest_of", "pretrained", "standard_classifier"]


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
            pretrain(config, Run(folder=folder, device=device, root=root, resume=True, progress=ProgressBar()))
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
    return RunFolder.open(cache / f"{name}-{address([identity, *contents])}", identity, resume=True)
