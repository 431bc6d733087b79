"""What the tests of the loop share."""

from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster, Sums

from rlvr.config import Recipe
from rlvr.loop import driver


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()

    def make(given: Recipe, **_: Any) -> FakeCluster:
        made.recipe = given
        return made

    monkeypatch.setattr(driver, "Cluster", make)
    monkeypatch.setattr(driver, "prepare", Path)
    monkeypatch.setattr(driver.plugins, "create", lambda *_: Sums())
    return made
