"""What makes steps on a CPU faster: libraries, where they are installed, and the instructions that it has."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["allocator", "bfloat16_instructions", "bound", "preloads"]

SPIN_MS = 5  # that an OpenMP thread waits for its next piece of work before it sleeps; Intel's default is 200


def allocator() -> Path | None:
    """Find an allocator that is faster than the system's: tcmalloc."""
    folders = [Path("/usr/lib"), *sorted(Path("/usr/lib").glob("*-linux-gnu")), Path("/usr/lib64")]
    found = (f / n for f in folders for n in ("libtcmalloc_minimal.so.4", "libtcmalloc.so.4"))
    return next((path for path in found if path.exists()), None)


def preloads() -> list[str]:
    """Give what a process that computes should load first: the allocator, and Intel's OpenMP."""
    wanted = [allocator(), Path(sys.prefix) / "lib" / "libiomp5.so"]
    return [str(path) for path in wanted if path is not None and path.exists()]


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name this CPU's instructions for matrix products in bfloat16; "" where it has none."""
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in words), "")


@contextmanager
def bound(cores: Sequence[int]) -> Iterator[None]:
    """Let the OpenMP threads of processes started meanwhile run on these cores, one on each."""
    wanted = {"OMP_NUM_THREADS": str(len(cores))}
    if any(name in os.environ.get("LD_PRELOAD", "") for name in ("libiomp", "libomp")):
        listed = ",".join(map(str, cores))
        wanted |= {"KMP_AFFINITY": f"granularity=fine,explicit,proclist=[{listed}]", "KMP_BLOCKTIME": str(SPIN_MS)}
        wanted["KMP_TPAUSE"] = "0"
    else:
        wanted |= {"OMP_PLACES": ",".join(f"{{{core}}}" for core in cores), "OMP_PROC_BIND": "true"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
