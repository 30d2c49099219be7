"""The networks of a comparison of purifiers: given, from the cache, or trained now by the code of the other apps."""

import contextlib
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from recipes.compare_purifiers import Comparison
from recipes.finetuning import Finetuning
from recipes.pretrain_settings import Pretrain
from rp_attacks.store import fingerprint
from rp_models.checkpoint import read_tensors
from rp_models.training import RunFolder

from jobs.finetune_purifier import FinetuneJob
from jobs.pretrain import pretrain


class PurifierNetworks:
    """Paths of the networks by role; each is made when it is first asked for.

    Roles: classifier, mae, maskdit, edm, and the robustly fine-tuned ones, see `Rows`.

    Args:
        config: of the comparison.
        cache: folder of networks that other runs made; each lies under a hash of all that determines it.
        device: where to train.
    """

    def __init__(self, config: Comparison, cache: Path, device: torch.device) -> None:
        self.config, self.cache, self.device = config, cache, device
        self.paths: dict[str, str] = {}

    def path(self, role: str) -> str:
        """The checkpoint of one role, trained now if need be; any other name is returned as it is.

        Raises:
            CheckpointError, DataError, RunError: if a network cannot be made.
        """
        config = self.config
        makers = {
            "classifier": lambda: config.classifier or self._pretrained("classifier", config.pretrain_classifier),
            "mae": lambda: config.mae or self._pretrained("mae", config.pretrain_mae),
            "maskdit": lambda: config.maskdit or self._pretrained("maskdit", config.pretrain_maskdit),
            "edm": lambda: config.edm or self._pretrained("edm", config.pretrain_edm),
            "rmae": lambda: self._finetuned(config.finetune_mae),
            "rmaskdit": lambda: self._finetuned(config.finetune_maskdit),
            "rmae_once": lambda: self._finetuned(config.finetune_mae_once),
            "rmaskdit_once": lambda: self._finetuned(config.finetune_maskdit_once),
        }
        if role not in makers:
            return role
        if role not in self.paths:
            self.paths[role] = makers[role]()
        return self.paths[role]

    def digests(self) -> dict[str, str]:
        """A hash of the weights of each network that was asked for."""
        return {role: _digest_of(path) for role, path in self.paths.items()}

    def _pretrained(self, kind: str, config: Pretrain) -> str:
        """A network by `pretrain.py`'s code."""
        folder = self._folder(kind, asdict(config))
        product = folder.path / "checkpoints" / "model.safetensors"
        if not product.exists():
            with contextlib.redirect_stdout(sys.stderr):  # the table is what stands on the terminal
                pretrain(config, folder.path, resume=True, device=str(self.device))
        return str(product)

    def _finetuned(self, config: Finetuning) -> str:
        """A robustly fine-tuned one by `finetune_purifier.py`'s code."""
        given = self.path(config.mae if config.kind == "mae" else config.maskdit)
        classifier = self.path(config.classifier)
        # named by their weights alone: a cache that was moved is still found
        nameless = replace(config, classifier="", mae="", maskdit="")
        folder = self._folder(f"r{config.kind}", asdict(nameless), _digest_of(classifier), _digest_of(given))
        config = replace(config, classifier=classifier)
        config = replace(config, mae=given) if config.kind == "mae" else replace(config, maskdit=given)
        product = folder.path / "checkpoints" / f"r{config.kind}.safetensors"
        if not product.exists():
            FinetuneJob(config, folder, self.device).finetuned()
        return str(product)

    def _folder(self, name: str, identity: Mapping[str, Any], *contents: str) -> RunFolder:
        """The folder in the cache for a network of this identity, made from networks of these contents."""
        text = json.dumps([identity, *contents], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        return RunFolder.open(self.cache / f"{name}-{self.config.data}-{digest}", identity, resume=True)


def _digest_of(checkpoint: str) -> str:
    """A hash of a checkpoint's weights, whatever its header says.

    Raises:
        CheckpointError: if there is no such file, or it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(read_tensors(checkpoint).items()):
        digest.update(f"{name} {tensor.dtype} ".encode() + fingerprint(tensor.float()).encode())
    return digest.hexdigest()
