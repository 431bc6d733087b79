"""List what a program may see of the machine: the interpreter, the libraries of the system, the packages allowed to it.

Standard library only.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DEVICES", "Places", "find"]

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/share/zoneinfo")
_FILES = ("/etc/ld.so.cache", "/etc/localtime")
_THIRD_PARTY = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Places:
    """Hold files and folders: to read, hidden within those, and searched for modules."""

    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    search: list[str]

    def readable_without_hidden(self) -> list[str]:
        """Spell out folders that hold a hidden one by their other entries."""
        paths: list[str] = []
        for path in self.readable:
            if not any(inner.startswith(path + "/") for inner in self.hidden):
                paths.append(path)
                continue
            paths += [p for name in sorted(os.listdir(path)) if (p := os.path.join(path, name)) not in self.hidden]
        return paths

    def open_to_all(self) -> bool:
        """Tell whether any user can reach the standard library."""
        path, steps = os.path.realpath(os.__file__), []
        while path != "/":
            path = os.path.dirname(path)
            steps.append(path)
        return all(os.stat(step).st_mode & 0o001 for step in steps)


def find(packages: Sequence[str]) -> Places:
    """Find the places of this interpreter.

    Args:
        packages: folders and files of packages that programs may import.
    """
    standard = [path for path in sys.path if path and os.path.isdir(path)]
    roots = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *standard})
    library = os.path.join(sys.base_prefix, "lib")
    shared = [os.path.join(library, name) for name in os.listdir(library) if name.startswith("libpython")]
    hidden = [os.path.join(root, name) for root in roots for name in _THIRD_PARTY]
    tops = [root for root in roots if not any(root.startswith(other + "/") for other in roots)]
    readable = dict.fromkeys([*_SYSTEM, *tops, *shared, *_FILES, *packages])
    parents = dict.fromkeys(os.path.dirname(path) for path in packages)
    search = [path for path in standard if os.path.basename(path) not in _THIRD_PARTY]
    return Places(
        readable=tuple(path for path in readable if os.path.lexists(path)),
        hidden=tuple(path for path in hidden if os.path.isdir(path) and path not in parents),
        search=[*search, *parents],
    )
