"""Parts of products that another product has: methods of a run, rows of a comparison, cases of an attack table.

A tier's product has fewer of them than the next tier's, and differs in nothing else.
"""

import json
from pathlib import Path
from typing import Any

from rp_models.files import link_file

from rp_experiments.artifacts import DONE, Artifact, Store

PARTS = {"train_dra": "method", "compare": "only", "attacks": "cases"}  # by job, the setting that names its parts
_FOLDERS = ("checkpoints", "evaluation", "results", "robustbench")  # where each part has files of its own


def take_parts(artifact: Artifact, store: Store) -> None:
    """Link into a product's folder, which is claimed, what finished products with the same settings have of its parts.

    The job finds these files, and makes the rest.
    """
    if artifact.job not in PARTS:
        return
    folder, setting = store.folder(artifact), PARTS[artifact.job]
    own = _settings(folder, setting)
    for other in sorted(folder.parent.glob(f"{artifact.job}-*")):
        if other == folder or not (other / DONE).is_file() or _settings(other, setting) != own:
            continue
        for file in (file for name in _FOLDERS for file in (other / name).rglob("*")):
            target = folder / file.relative_to(other)
            if file.is_file() and not file.name.startswith(".") and not target.exists():
                link_file(file, target)


def _settings(folder: Path, but: str) -> Any:
    """What a product was made from, the contents of files too, but for one setting."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {name: value for name, value in config.items() if name != but}
