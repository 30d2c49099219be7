"""Networks that jobs train for themselves, by the code of `pretrain.py`, once: they are found again in the cache."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rp_models.training.lock import lock_folder

from rp_experiments.content import address
from rp_experiments.pretrain import pretrain
from rp_experiments.pretrain_kinds import KINDS
from rp_experiments.recipes.pretrain_settings import Pretrain
from rp_experiments.recipes.standard_classifier import STANDARD
from rp_experiments.run import Run


def pretrained(kind: str, config: Pretrain, run: Run) -> str:
    """The checkpoint of a network by `pretrain.py`'s code: the kind names it in the cache."""
    folder = f"{kind}-{Path(config.data).stem}-{address([asdict(config)])}"
    batch = getattr(config, KINDS[type(config)].settings).batch_size
    return made(run, folder, "checkpoints/model.safetensors", lambda inside: pretrain(config, inside), batch=batch)


def standard_classifier(data: str, run: Run) -> str:
    """The checkpoint of the classifier that is taken where none is named."""
    if run.main:
        said = f"no classifier is named: taking the standard one for {data}, trained once, from {run.cache}"
        print(said, file=sys.stderr)
    return pretrained("classifier", STANDARD[data](), run)


def made(run: Run, folder: str, product: str, make: Callable[[Run], None], *, batch: int) -> str:
    """A file in a folder of the cache, made unless it is there; other runs wait for it.

    All processes make it, or the first one alone if the training's batch cannot be divided among them.
    """
    path = run.cache / folder / product
    if not run.everywhere(path.exists):
        alone = held(run.cache / folder) if run.main else contextlib.nullcontext()
        with alone, contextlib.redirect_stdout(sys.stderr):  # the job's own result is on stdout
            if not run.everywhere(path.exists):
                inside = run.inside(run.cache / folder)
                inside.first(lambda: make(inside)) if batch % run.processes.count else make(inside)
    return str(path)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder for this process alone, as soon as no other works in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, wait=True)
    yield
    del lock
