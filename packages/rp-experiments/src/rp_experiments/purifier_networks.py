"""The networks of a comparison of purifiers by role: given, from the cache, or trained now by other apps' code."""

from dataclasses import asdict, replace
from pathlib import Path

from rp_experiments.content import address, digest
from rp_experiments.finetune_purifier import job_of
from rp_experiments.networks import made, pretrained
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.run import Run


class PurifierNetworks:
    """Checkpoints of the networks of a comparison, by role; each is made when it is first asked for.

    Roles: those of `recipes.compare_purifiers.NETWORKS`, and of the comparison's `networks`.
    """

    def __init__(self, config: Comparison, run: Run) -> None:
        self.config, self.run = config, run
        self.paths: dict[str, str] = {}

    def path(self, role: str) -> str:
        """The checkpoint of one role, trained now if need be; any other name is returned as it is."""
        config, run = self.config, self.run
        if role not in self.paths:
            making = config.made(role)
            if making is None:
                return role
            if isinstance(making, Finetuning):
                found = self._finetuned(making)
            else:
                of = f"pretrain_{role}" if hasattr(config, f"pretrain_{role}") else str(config.networks[role]["of"])
                found = getattr(config, role, "") or pretrained(of.removeprefix("pretrain_"), making, run)
            self.paths[role] = found
        return self.paths[role]

    def digests(self) -> dict[str, str]:
        """A hash of each network that was asked for."""
        return {role: digest(path) for role, path in self.paths.items()}

    def _finetuned(self, config: Finetuning) -> str:
        """A robustly fine-tuned one by `finetune_purifier.py`'s code."""
        start = config.start
        given, classifier = self.path(getattr(config, start)), self.path(config.classifier)
        # named by what they are, not by where they lie: a cache that was moved is still found
        nameless = asdict(replace(config, classifier="", mae="", maskdit="", edm=""))
        name = address([nameless, digest(classifier), digest(given)])
        whole = replace(config, classifier=classifier, **{start: given})  # type: ignore[arg-type]

        def make(inside: Run) -> None:
            job = job_of(whole, inside)
            inside.claim(nameless)
            job.finetuned()

        folder = f"{config.product}-{Path(config.data).stem}-{name}"
        settings = config.tuning if start == "edm" else config.finetune
        product = f"checkpoints/{config.product}.safetensors"
        return made(self.run, folder, product, make, batch=settings.batch_size)
