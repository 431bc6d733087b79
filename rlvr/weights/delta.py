"""What changed between two files of weights, for a link that is slower than comparing them.

A file of version v + 1 has the layout of that of version v, and an optimizer step moves most values by less than
bfloat16 can tell. So a delta holds the 16-bit words that differ, block by block: how many, their places, their new
values; of float32 values that are rounded to bfloat16, one word of two. In float32 nearly all values move, and a delta
is given up within the first quarter of the file. The file that a receiver rebuilds is equal bit by bit, and the digests
of the whole tensors prove it.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["apply", "share", "write"]

BLOCK = 2**16  # words, so that a place within one takes 16 bits too
_HEAD = struct.Struct("<8sQ")  # magic, bytes of the whole file
_COUNT = struct.Struct("<I")
_MAGIC = b"rlvrdlt1"


def write(base: Path, new: Path, out: Path, *, most: float) -> bool:
    """Write to `out` what turns `base` into `new`. False where that takes more than `most` of the bytes of `new`.

    Also where the layouts differ, and then nothing is left behind.
    """
    size = new.stat().st_size
    if base.stat().st_size != size or size % 2 or not size:
        return False
    old_words, new_words = _words(base), _words(new)
    scratch = out.with_name(out.name + ".part")
    try:
        with open(scratch, "wb") as file:
            file.write(_HEAD.pack(_MAGIC, size))
            for start in range(0, size // 2, BLOCK):
                now = new_words[start : start + BLOCK]
                places = np.flatnonzero(old_words[start : start + BLOCK] != now)
                file.write(_COUNT.pack(len(places)))
                file.write(places.astype("<u2").data)
                file.write(now[places].data)
                if file.tell() > most * size:
                    return False
        os.replace(scratch, out)
    finally:
        scratch.unlink(missing_ok=True)
    return True


def apply(base: Path, delta: Path, out: Path) -> None:
    """Rebuild at `out` the file that `delta` was written for. Errors: ValueError where it does not fit `base`."""
    with open(delta, "rb") as file:
        magic, size = _HEAD.unpack(_exactly(file, _HEAD.size))
        if magic != _MAGIC or base.stat().st_size != size:
            raise ValueError(f"the delta is not one of the {base.stat().st_size} bytes of {base.name}")
        shutil.copyfile(base, out)
        words = np.memmap(out, "<u2", mode="r+")
        _patch(words, file)
        words.flush()


def share(base: Path, new: Path) -> float:
    """Give the share of 16-bit words that differ between two files of one size."""
    old_words, new_words = _words(base), _words(new)
    starts = range(0, len(new_words), BLOCK)
    return sum(int(np.count_nonzero(old_words[s : s + BLOCK] != new_words[s : s + BLOCK])) for s in starts) / len(
        new_words
    )


def _patch(words: NDArray[np.uint16], file: BinaryIO) -> None:
    for start in range(0, len(words), BLOCK):
        (count,) = _COUNT.unpack(_exactly(file, _COUNT.size))
        places = np.frombuffer(_exactly(file, 2 * count), "<u2")
        block = words[start : start + BLOCK]
        if count and int(places.max()) >= len(block):
            raise ValueError("the delta names a place behind the end of the file")
        block[places] = np.frombuffer(_exactly(file, 2 * count), "<u2")
    if file.read(1):
        raise ValueError("the delta goes on behind its end")


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("the delta ends too early")
    return data


def _words(path: Path) -> NDArray[np.uint16]:
    return np.memmap(path, "<u2", mode="r")
