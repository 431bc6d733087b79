"""What all tests share: tiny models on disk, and no deadline for hypothesis on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from rlvr.testing import tiny_model

settings.register_profile("rlvr", deadline=None)
settings.load_profile("rlvr")


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a random model whose output head is its embedding. Read only."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a random model with an output head of its own. Read only."""
    return tiny_model(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(params=["tied", "untied"])
def model_folder(request: pytest.FixtureRequest) -> Path:
    """Give each of the two models in turn."""
    return Path(request.getfixturevalue(f"{request.param}_model"))
