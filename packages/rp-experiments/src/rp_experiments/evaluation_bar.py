"""How far an evaluation is, for the terminal."""

import math
from collections.abc import Mapping

from rp_attacks import Attack
from rp_attacks import Progress as Event
from rp_models.training import Progress


def blocks(attacks: Mapping[str, Attack], images: int, block_size: int, processes: int = 1) -> int:
    """Blocks of images that a process works on: in each attack, in each ball's random noise, and clean."""
    stages = 1 + len({(attack.norm, attack.eps) for attack in attacks.values()}) + len(attacks)
    return stages * math.ceil(math.ceil(images / block_size) / processes)


class EvaluationBar:
    """Shows how far this process is with its blocks, then with the search for findings."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self.progress, self.title, self.done, self.total, self.part = progress, title, 0, total, ""

    def __call__(self, event: Event) -> None:
        """Take in one block, or one check."""
        part = "findings" if event.stage == "findings" else self.title
        if part != self.part and (part == "findings" or self.done < self.total):  # gathered blocks come a second time
            self.progress.start(part, event.blocks if part == "findings" else self.total)
            self.part = part
        if part == "findings":
            self.progress.advance(event.block)
        elif self.done < self.total:
            self.done += 1
            standing = 100 * event.standing / max(event.images, 1)
            self.progress.advance(self.done, {f"{event.stage}, standing %": standing})
        if event.block == event.blocks and (part == "findings" or self.done == self.total):
            self.progress.finish()
