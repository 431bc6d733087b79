"""What the machine under the tests offers to a sandbox, told without the sandbox."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

from rlvr_rewards.sandbox import landlock

SCOPES = 6  # version of Landlock that keeps signals in


def offers(level: str) -> bool:
    """Tell whether this machine's kernel offers what a level of isolation needs, so that it may not be missing."""
    if level == "namespaces":
        unshare = shutil.which("unshare")
        command = [unshare or "", "--user", "--map-root-user", "--net", "--pid", "--fork", "true"]
        return bool(unshare) and subprocess.run(command, capture_output=True).returncode == 0
    if level == "landlock":
        with contextlib.suppress(OSError):
            return landlock.abi() >= SCOPES
        return False
    return level == "unsandboxed" or any(map(offers, ("namespaces", "landlock")))
