"""What a check of an evaluation says."""

from typing import Literal, NamedTuple

Level = Literal["refused", "alarm", "warning", "note", "ok"]
GRAVITY: tuple[Level, ...] = ("refused", "alarm", "warning", "note", "ok")


class Finding(NamedTuple):
    """What one check saw."""

    level: Level
    """"refused": no number can be given; "alarm": the number is most likely too high; "note", "ok": for the reader."""
    check: str
    text: str
