"""How the workspace's tests run: on one thread, with torch compiled once, and the slow ones only when asked for."""

import os
import sys
from pathlib import Path

import pytest

# Before any test imports torch: one thread. The tests' networks are too small for a second one to pay.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where Python is told to leave no bytecode behind, each process that a test starts would compile torch anew: as long as
# importing it takes. The bytecode goes to a folder of its own, and what starts from here finds it there.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parent / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked as slow, unless `-m` speaks of it."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
