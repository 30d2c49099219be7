"""What is made once and found again, by everything that determines it; importing this does not import torch."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rp_experiments.content import address

if TYPE_CHECKING:
    from rp_experiments.run import Run

DONE = "product.json"  # written last


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The folder that one job makes from one configuration, found again by all that determines it.

    Attributes:
        job: name of the job.
        config: dataclass of its settings; paths of what `needs` names are filled in when it is made.
        minutes: estimated time on one CPU core; changes nothing.
        needs: other artifacts, by the role in which the job takes them.
    """

    job: str
    config: Any
    minutes: float = 0.0
    needs: Mapping[str, "Artifact"] = field(default_factory=dict)

    @cached_property
    def name(self) -> str:
        """Job and address: of settings, of the contents of files that they name, and of what it needs."""
        needs = {role: need.name for role, need in self.needs.items()}
        return f"{self.job}-{address([self.job, asdict(self.config), needs], size=6)}"


def in_order(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """The artifacts and all that they need, each once and after what it needs."""
    ordered: dict[str, Artifact] = {}

    def add(artifact: Artifact) -> None:
        for need in artifact.needs.values():
            add(need)
        ordered.setdefault(artifact.name, artifact)

    for artifact in artifacts:
        add(artifact)
    return list(ordered.values())


def data_sets(artifact: Artifact) -> list[str]:
    """The data sets of an artifact's settings and of what it needs."""
    config = asdict(artifact.config)
    parts = (config, config.get("comparison") or {}, config.get("models") or {})
    needed = (data for need in artifact.needs.values() for data in data_sets(need))
    return list(dict.fromkeys([*(part["data"] for part in parts if "data" in part), *needed]))


@dataclass(frozen=True)
class Store:
    """The folder in which artifacts are kept."""

    path: Path

    def folder(self, artifact: Artifact) -> Path:
        """Where an artifact lies, or will."""
        return self.path / "products" / artifact.name

    def has(self, artifact: Artifact) -> bool:
        """Whether it is finished."""
        return (self.folder(artifact) / DONE).is_file()

    def get(self, artifact: Artifact) -> "Built":
        """The finished artifact."""
        return Built(artifact, self.folder(artifact))


@dataclass(frozen=True)
class Built:
    """A finished artifact."""

    artifact: Artifact
    folder: Path

    def read(self, name: str = "result.json") -> Any:
        """One of its JSON files."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether it has a file."""
        return (self.folder / name).is_file()


Maker = Callable[[Any, "Run", Mapping[str, Path]], None]
"""Makes an artifact: from its settings, in the folder of a run, with the folders of what it needs."""


def build(
    artifact: Artifact, store: Store, make: Maker, run: "Run", claimed: Callable[[], None] | None = None
) -> Built:
    """Make an artifact whose needs are there, unless it is there itself; go on where a job before was stopped.

    Several processes may share the work; `claimed` is done by the first of them as soon as the folder is taken.
    """
    if not run.everywhere(lambda: store.has(artifact)):
        start, inside = time.monotonic(), run.inside(store.folder(artifact))
        inside.claimed = claimed
        make(artifact.config, inside, {role: store.folder(need) for role, need in artifact.needs.items()})
        run.first(lambda: inside.folder.write_json(DONE, _made(artifact, inside, time.monotonic() - start)))
    return store.get(artifact)


def _made(artifact: Artifact, run: "Run", seconds: float) -> dict[str, Any]:
    """What the last file of an artifact says."""
    from rp_models.training.devices import describe_device

    return {
        "job": artifact.job,
        "config": asdict(artifact.config),
        "needs": {role: need.name for role, need in artifact.needs.items()},
        "seconds": round(sum(run.folder.seconds().values()) or seconds, 1),
        "device": describe_device(run.device),
        "environment": run.folder.read_json("environment.json"),
    }
