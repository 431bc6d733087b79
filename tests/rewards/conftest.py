"""What several tests of rewards share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from hostile.machine import offers
from scripted_judge import Answering, Scripted

from rlvr.errors import PluginError
from rlvr_rewards.code import Code
from rlvr_rewards.judging import endpoint


@contextlib.contextmanager
def started(isolation: str) -> Iterator[Code]:
    """Give the code reward at a level. Skips where the machine lacks it; a level that is there has to hold."""
    made = Code(isolation=isolation)
    try:
        made.warm_up()
    except PluginError as error:
        if "a program inside" in str(error) or offers(isolation):
            raise
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def best() -> Iterator[Code]:
    """Give the code reward in the strongest isolation that this machine offers."""
    with started("auto") as made:
        yield made


@pytest.fixture(scope="module", params=["namespaces", "landlock", "unsandboxed"])
def code(request: pytest.FixtureRequest) -> Iterator[Code]:
    """Give the code reward at each level that this machine offers."""
    with started(request.param) as made:
        yield made


@pytest.fixture
def scripted() -> Iterator[Callable[[Answering], Scripted]]:
    """Start chat endpoints whose answers a test writes."""
    servers: list[Scripted] = []

    def start(answer: Answering) -> Scripted:
        servers.append(Scripted(answer))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a judge try again at once."""
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_S", 0.01)
