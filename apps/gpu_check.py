"""The first command on a machine with a new GPU: is it right there, how fast is it, and does every app run?

uv run apps/gpu_check.py
uv run apps/gpu_check.py --limit 300 --only agreement throughput
uv run apps/gpu_check.py --tiny --device cpu

Sections run in order of value, each within what is left of the limit; one that fails or does not fit says so, and the
others go on. Leaves `gpu_check.json` and `gpu_check.md` in the run's folder.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from rp_experiments import cli
from rp_models.settings import at_least


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Is a new GPU right, how fast is it, and does every app run there?"""

    limit: int = 540  # seconds in all; what does not fit is left out, and the page says so
    tiny: bool = False  # small networks and batches: tries the check itself, the times say nothing
    only: tuple[str, ...] = ()  # these sections: machine, agreement, throughput, waits, layouts, apps
    passed = ("limit", "tiny", "only", "apps", "card")
    apps = property(lambda self: Path(__file__).resolve().parent)

    @property
    def name(self) -> str:
        """Of the folder."""
        return "tiny" if self.tiny else "full"

    def check(self) -> None:
        """Whether there is time at all."""
        at_least(self, limit=1)


if __name__ == "__main__":
    sys.exit(cli.main(Options, "gpu_check:check_gpu"))
