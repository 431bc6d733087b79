"""Faults that are injected into a push on purpose, to see that each is caught or survived."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.types import Manifest
from rlvr.weights.export import corrupt, leave_out

__all__ = ["FAULTS", "SLOW_S", "SURVIVED", "Fault", "parse_fault", "tamper"]

# What these break no proof lets pass, so that they end the run. They strike every worker.
REFUSED = ("weights.corrupt", "weights.drop", "weights.partial", "weights.stale_head")
# These break the way to one worker, the first. The run goes on.
SURVIVED = ("weights.kill", "weights.hang", "weights.slow", "weights.duplicate", "weights.reorder")
FAULTS = REFUSED + SURVIVED

SLOW_S = 3.0  # by which `weights.slow` holds a delivery up


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to inject at one version, to prove that it is caught or survived."""

    kind: str
    version: int

    @property
    def survived(self) -> bool:
        """Tell whether a run goes on behind it."""
        return self.kind in SURVIVED


def parse_fault(text: str) -> Fault:
    """Read FAULT@VERSION. Errors: ValueError names the faults that exist."""
    kind, _, version = text.partition("@")
    if kind not in FAULTS or not version.isdecimal():
        raise ValueError(f"--inject takes FAULT@VERSION with FAULT one of {', '.join(FAULTS)}, not {text!r}")
    return Fault(kind=kind, version=int(version))


def tamper(manifest: Manifest, kind: str) -> None:
    """Break the bytes of a version where the fault is of that kind."""
    if kind == "weights.corrupt":
        corrupt(manifest)
    elif kind == "weights.partial":
        leave_out(manifest)
