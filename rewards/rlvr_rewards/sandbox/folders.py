"""Keep the folders that programs write in where they have no file system of their own. Standard library only."""

from __future__ import annotations

import contextlib
import os
import tempfile

__all__ = ["empty", "holds_more", "make", "remove"]

_NAME_BYTES = 2**14  # what every name counts, however small the file
_LONGEST = 2000  # characters of a path; what lies deeper could not be measured


def make() -> str:
    """Make an empty folder, in memory where the machine has such a place."""
    memory = "/dev/shm"
    return tempfile.mkdtemp(prefix="rlvr-jail-", dir=memory if os.access(memory, os.W_OK | os.X_OK) else None)


def holds_more(folder: str, *, than: int) -> bool:
    """Tell whether a folder takes more bytes than so many. What cannot be looked at counts as more."""
    total, folders = 0, [folder]
    while folders and total <= than:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        total += than + 1 if len(entry.path) > _LONGEST else 0
        except PermissionError:
            return True
        except OSError:  # it went while we looked
            continue
    return total > than


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512 + _NAME_BYTES
    except FileNotFoundError:
        return 0


def empty(folder: str) -> None:
    """Remove all below a folder, however deep: a folder within is brought to the top before it is emptied."""
    count, waiting = 0, [folder]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            found = list(entries)
        for entry in found:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            count += 1
            target = os.path.join(folder, f".{os.urandom(8).hex()}-{count}")
            with contextlib.suppress(OSError):
                os.chmod(entry.path, 0o700)  # a folder that its maker closed
            os.rename(entry.path, target)
            waiting.append(target)
        if here != folder:
            os.rmdir(here)


def remove(folder: str) -> None:
    """Remove a folder with all below; another process may do the same."""
    with contextlib.suppress(OSError):
        empty(folder)
        os.rmdir(folder)
