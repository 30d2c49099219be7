"""Slow tests run when they are asked for: `pytest -m slow`."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if "slow" in item.keywords and "rp-attacks" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
