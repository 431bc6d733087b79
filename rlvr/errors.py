"""The error tree. A message is one sentence: what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "BoundaryError",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "GradingError",
    "LearnerError",
    "LostWorkerError",
    "ModelError",
    "NonFiniteError",
    "PluginError",
    "ResourceError",
    "RlvrError",
    "WeightProofError",
    "boundary",
    "brief",
    "cause_of",
    "unwrapped",
]


class RlvrError(Exception):
    """Any failure that we can explain. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(RlvrError):
    """The recipe or a `--set` is wrong."""

    exit_code = 2


class PluginError(RlvrError):
    """An environment or a reward cannot be found, loaded, or breaks its contract."""

    exit_code = 2


class ModelError(RlvrError):
    """The model cannot be found or loaded."""

    exit_code = 2


class ResourceError(RlvrError):
    """The machine lacks something: memory, disk, a port."""


class EngineError(RlvrError):
    """The generation engine failed or did not answer in time."""


class LostWorkerError(EngineError):
    """A rollout worker died or did not answer in time; where others are left they go on without it."""

    def __init__(self, worker: str, reason: str) -> None:
        super().__init__(worker, reason)
        self.worker, self.reason = worker, reason

    def __str__(self) -> str:
        return f"{self.worker} {self.reason}"


class LearnerError(RlvrError):
    """The learner cannot go on: a non-finite loss, say."""


class NonFiniteError(LearnerError):
    """A loss or a gradient is not finite; the weights are as before the update."""


class GradingError(RlvrError):
    """Too many replies went ungraded to trust the run."""


class CheckpointError(RlvrError):
    """A checkpoint cannot be written or read."""


class WeightProofError(RlvrError):
    """A worker could not prove that it runs the learner's weights."""

    exit_code = 3

    def __init__(self, worker: str, version: int, reason: str) -> None:
        super().__init__(worker, version, reason)
        self.worker, self.version, self.reason = worker, version, reason

    def __str__(self) -> str:
        return f"worker={self.worker} version={self.version} {self.reason}"


class BoundaryError(RlvrError):
    """Somebody else's code raised. `boundary` names whose."""

    def __init__(self, boundary: str, reason: str) -> None:
        super().__init__(boundary, reason)
        self.boundary, self.reason = boundary, reason

    def __str__(self) -> str:
        return f"{self.boundary}: {self.reason}"


def brief(error: BaseException, *, limit: int = 300) -> str:
    """Say an exception in one line."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


def cause_of(error: BaseException) -> BaseException:
    """Give our own error where another process wrapped it (Ray keeps it as `cause`), else the error itself."""
    inner = getattr(error, "cause", None)
    return inner if isinstance(inner, RlvrError) else error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise our own errors as themselves where another process wrapped them; all others pass unchanged."""
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if cause is error:
            raise
        raise cause from None


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Turn whatever foreign code raises into a `BoundaryError` that names it; our own errors pass unchanged.

    This module is the one place of the package that catches `Exception`.
    """
    try:
        yield
    except RlvrError:
        raise
    except Exception as error:
        raise BoundaryError(name, brief(error)) from error
