"""What an evaluation has cost: passes of each image, with median and maximum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rp_attacks.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Passes and seconds of each image, (n,) each.

    One forward pass is one query: one image with one noise. A gradient averaged over M passes is M forward and M
    backward ones. What is computed again for a gradient is no query.
    """

    forward: npt.NDArray[np.float64]  # of the defence, by attacks
    backward: npt.NDArray[np.float64]
    judged: npt.NDArray[np.float64]  # forward passes of the defence for verdicts and controls
    source: npt.NDArray[np.float64]  # forward passes of other models, for transfer
    network: npt.NDArray[np.float64]  # calls of the network inside the defence, in all its forward passes
    seconds: npt.NDArray[np.float64]  # of attacks, those of a batch shared out evenly

    @staticmethod
    def of(records: Sequence[Record], network: int) -> "Cost":
        """The sum over records of the same images; `network` calls are made in one pass."""
        names = ("forward", "backward", "judged", "source", "seconds")
        sums: dict[str, npt.NDArray[np.float64]] = {
            name: np.stack([getattr(r, name) for r in records]).sum(axis=0, dtype=np.float64) for name in names
        }
        sums["network"] = network * (sums["forward"] + sums["judged"])
        return Cost(**sums)

    def to_json(self) -> dict[str, Any]:
        """Median, maximum and mean of each, and the numbers of each image."""
        return {name: _summary(getattr(self, name)) for name in self.__slots__}

    def __str__(self) -> str:
        parts = {"forward": self.forward, "backward": self.backward, "judging": self.judged, "network": self.network}
        told = ", ".join(f"{name} {np.median(each):.0f} (at most {each.max():.0f})" for name, each in parts.items())
        return f"Passes of an image, median and largest: {told}; {self.seconds.sum():.0f} s of attacks."


def _summary(each: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {
        "median": float(np.median(each)), "max": float(each.max()), "mean": float(each.mean()),
        "per_image": each.round(3).tolist(),
    }  # fmt: skip
