"""Where the files of RobustBench's entries may lie; importing this does not import torch."""

import os
import sys
from pathlib import Path

from rp_models.robustbench.entries import Entry


def model_roots(root: str | Path | None = None) -> tuple[Path, ...]:
    """RobustBench's folders of models: the given one, or else those of `$RP_ROBUSTBENCH`, and `./models`."""
    if root is not None:
        return (Path(root),)
    named = os.environ.get("RP_ROBUSTBENCH", "").split(os.pathsep)
    return (*(Path(folder) for folder in named if folder), Path("models"))


def names_of(entry: Entry) -> list[str]:
    """The names of an entry's files in RobustBench's own folders; `NAME.pt_m0.pt`, ... of an ensemble's members."""
    return [f"{entry.name}.pt"] if entry.parts == 1 else [f"{entry.name}.pt_m{i}.pt" for i in range(entry.parts)]


def places_of(entry: Entry, name: str, root: str | Path | None = None) -> list[Path]:
    """Where one file of an entry may be: `ROOT/DATASET/THREAT/NAME.pt`, or under its own name in torch.hub's cache."""
    folders = [base / entry.dataset / entry.threat for base in model_roots(root)]
    places = [folder / name for folder in folders]
    if entry.file is not None:
        places += [folder / entry.file for folder in (*folders, *model_roots(root), _hub() / "checkpoints")]
    return places


def files_at_hand(entry: Entry, root: str | Path | None = None) -> list[Path]:
    """The files of an entry; empty unless all are at hand."""
    each = [next(filter(Path.is_file, places_of(entry, name, root)), None) for name in names_of(entry)]
    return [file for file in each if file is not None] if all(each) else []


def _hub() -> Path:
    """torch.hub's folder; by its documented rule where torch is not loaded."""
    if "torch.hub" in sys.modules:
        return Path(sys.modules["torch.hub"].get_dir())
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub"
