"""Where the files of RobustBench's entries lie: in its own folders, or in torch.hub's cache."""

from pathlib import Path

from rp_models.checkpoint import CheckpointError
from rp_models.robustbench.entries import Entry
from rp_models.robustbench.places import model_roots as model_roots
from rp_models.robustbench.places import names_of, places_of


def entry_files(entry: Entry, root: str | Path | None = None) -> list[Path]:
    """The files of an entry, which RobustBench keeps as `ROOT/DATASET/THREAT/NAME.pt`, or torch.hub under its own name.

    An ensemble's members are `NAME.pt_m0.pt`, `NAME.pt_m1.pt`, ... Raises CheckpointError if one is nowhere; the
    message says where it was looked for and how RobustBench gets it.
    """
    return [_find(entry, name, number, root) for number, name in enumerate(names_of(entry))]


def _find(entry: Entry, name: str, number: int, root: str | Path | None) -> Path:
    """One file of an entry."""
    places = places_of(entry, name, root)
    for place in places:
        if place.is_file():
            return place
    source = f"its file on Google Drive is {entry.drive[number]}" if entry.drive else f"RobustBench gets {entry.file}"
    raise CheckpointError(
        f"{entry.title}: no such file as {' or '.join(map(str, places))}; {source}. RP_ROBUSTBENCH names a "
        "further folder of models"
    )
