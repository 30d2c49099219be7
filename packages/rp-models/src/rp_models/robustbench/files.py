"""Where the files of RobustBench's entries lie: in its own folders, or in torch.hub's cache."""

import os
from pathlib import Path

from rp_models.checkpoint import CheckpointError
from rp_models.robustbench.entries import Entry


def model_roots(root: str | Path | None = None) -> tuple[Path, ...]:
    """RobustBench's folders of models: the given one, or else those of `$RP_ROBUSTBENCH`, and `./models`."""
    if root is not None:
        return (Path(root),)
    named = os.environ.get("RP_ROBUSTBENCH", "").split(os.pathsep)
    return (*(Path(folder) for folder in named if folder), Path("models"))


def entry_files(entry: Entry, root: str | Path | None = None) -> list[Path]:
    """The files of an entry, which RobustBench keeps as `ROOT/DATASET/THREAT/NAME.pt`, or torch.hub under its own name.

    An ensemble's members are `NAME.pt_m0.pt`, `NAME.pt_m1.pt`, ... Raises CheckpointError if one is nowhere; the
    message says where it was looked for and how RobustBench gets it.
    """
    own = [f"{entry.name}.pt"] if entry.parts == 1 else [f"{entry.name}.pt_m{i}.pt" for i in range(entry.parts)]
    return [_find(entry, name, number, root) for number, name in enumerate(own)]


def _find(entry: Entry, name: str, number: int, root: str | Path | None) -> Path:
    """One file of an entry."""
    from torch import hub

    folders = [base / entry.dataset / entry.threat for base in model_roots(root)]
    places = [folder / name for folder in folders]
    if entry.file is not None:
        places += [
            folder / entry.file for folder in (*folders, *model_roots(root), Path(hub.get_dir()) / "checkpoints")
        ]
    for place in places:
        if place.is_file():
            return place
    source = f"its file on Google Drive is {entry.drive[number]}" if entry.drive else f"RobustBench gets {entry.file}"
    raise CheckpointError(
        f"{entry.title}: no such file as {' or '.join(map(str, places))}; {source}. RP_ROBUSTBENCH names a "
        "further folder of models"
    )
