"""The networks of a comparison of purifiers: given, from the cache, or trained now by the code of the other apps."""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from rp_experiments.finetune_purifier import FinetuneJob
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.standard_networks import cached_folder, digest_of, pretrained


class PurifierNetworks:
    """Paths of the networks by role; each is made when it is first asked for.

    Roles: classifier, mae, maskdit, edm, and the robustly fine-tuned ones, see `Rows`.

    Args:
        config: of the comparison.
        cache: folder of networks that other runs made; each lies under a hash of all that determines it.
        device: where to train.
        root: folder of the data sets; None for the usual places.
    """

    def __init__(self, config: Comparison, cache: Path, device: torch.device, *, root: Path | None = None) -> None:
        self.config, self.cache, self.device, self.root = config, cache, device, root
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
        return {role: digest_of(path) for role, path in self.paths.items()}

    def _pretrained(self, kind: str, config: Pretrain) -> str:
        """A network by `pretrain.py`'s code."""
        return pretrained(kind, config, cache=self.cache, device=self.device, root=self.root)

    def _finetuned(self, config: Finetuning) -> str:
        """A robustly fine-tuned one by `finetune_purifier.py`'s code."""
        given = self.path(config.mae if config.kind == "mae" else config.maskdit)
        classifier = self.path(config.classifier)
        # named by their weights alone: a cache that was moved is still found
        nameless = asdict(replace(config, classifier="", mae="", maskdit=""))
        name = f"r{config.kind}-{config.data}"
        folder = cached_folder(self.cache, name, nameless, digest_of(classifier), digest_of(given))
        config = replace(config, classifier=classifier)
        config = replace(config, mae=given) if config.kind == "mae" else replace(config, maskdit=given)
        product = folder.path / "checkpoints" / f"r{config.kind}.safetensors"
        if not product.exists():
            FinetuneJob(config, folder, self.device, root=self.root).finetuned()
        return str(product)
