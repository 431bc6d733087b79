"""What several tests of rewards share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlvr.errors import PluginError
from rlvr_rewards.code import Code


@pytest.fixture(scope="module")
def best() -> Iterator[Code]:
    """Give the code reward in the strongest isolation that this machine offers."""
    made = Code(isolation="auto")
    try:
        made.warm_up()
    except PluginError as error:
        pytest.skip(str(error))
    yield made
    made.close()
