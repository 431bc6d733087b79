"""What the comparison measures beside the steps: memory of a job's processes, this machine, and its matmul rate.

`python measure.py CONFIG.json` prints the bfloat16 matmul rate for a model's shapes.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Memory", "machine", "matmul_tflops", "parameters"]

GB = 1e9
_EVERY_S = 0.25
_SHARE = 0.05  # of one core, at most, goes into sampling: the kernel walks a process's pages for its PSS


class Memory(threading.Thread):
    """Samples the memory of a process and its descendants until it ends.

    `job_pss`: the largest sum of PSS, in which shared pages count once, and of the weights that lie in shared memory,
    mapped or not. `learner_rss`: the high-water mark of RSS that
    the kernel keeps for the process whose title starts with `learner`; of the job's first process where that is "".
    """

    def __init__(self, pid: int, *, learner: str = "") -> None:
        super().__init__(daemon=True)
        self._pid, self._learner = pid, learner
        self.job_pss = self.learner_rss = 0.0

    def run(self) -> None:
        """Sample."""
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._pid)
            while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
                start = time.perf_counter()
                family = [root, *root.children(recursive=True)]
                held = sum(_field(p.pid, "smaps_rollup", "Pss:") for p in family)
                self.job_pss = max(self.job_pss, held + sum(map(_weights_in_shared_memory, family)))
                marks = [_field(p.pid, "status", "VmHWM:") for p in family if self._is_learner(p)]
                self.learner_rss = max(self.learner_rss, *marks, 0.0)
                time.sleep(max(_EVERY_S, (time.perf_counter() - start) * (1 / _SHARE - 1)))

    def _is_learner(self, process: psutil.Process) -> bool:
        if not self._learner:
            return process.pid == self._pid
        with suppress(OSError):
            return Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(self._learner.encode())
        return False


def _weights_in_shared_memory(process: psutil.Process) -> float:
    """Give the size in GB of the weights that an rlvr run has exported; they count in no process's memory."""
    sizes = 0
    for path in Path("/dev/shm").glob(f"rlvr-weights-*-{process.pid}-*/*"):
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes / GB


def _field(pid: int, file: str, name: str) -> float:
    """Read a size from /proc in GB; 0 for a process that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / GB
    return 0.0


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    info = {name.strip(): value.strip() for name, _, value in lines}
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "amx_bf16": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "memory_gb": round(psutil.virtual_memory().total / GB, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def parameters(model: Path) -> int:
    """Count the parameters of a model in one safetensors file."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def head_parameters(model: Path) -> int:
    """Count the parameters of the output head, which a tied model has once for both ends."""
    config = json.loads((model / "config.json").read_text())
    return int(config["vocab_size"] * config["hidden_size"])


def matmul_tflops(model: Path, *, precision: str, preload: Sequence[str]) -> float:
    """Measure the matmul rate for a model's shapes in a process that computes as the learner does: TFLOP/s."""
    command = [sys.executable, __file__, str(model / "config.json"), precision]
    environment = os.environ | {"LD_PRELOAD": os.pathsep.join(preload)}
    return round(float(subprocess.run(command, env=environment, check=True, capture_output=True).stdout), 3)


def _matmul_tflops(config: dict[str, Any], *, dtype: str, rows: int = 2048, repeats: int = 3) -> float:
    """Time the products of a forward and a backward pass, each shape at its best of `repeats`."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = config["num_attention_heads"]
    narrow = width // heads * config.get("num_key_value_heads", heads)
    # (input width, output width, how many of them in the whole model)
    shapes = [
        (width, width, 2 * layers), (width, narrow, 2 * layers), (width, inner, 2 * layers), (inner, width, layers),
        (width, config["vocab_size"], 1),
    ]  # fmt: skip
    seconds, operations = 0.0, 0.0
    for wide, out, count in shapes:
        x, weight, gradient = (
            torch.randn(*size, dtype=getattr(torch, dtype)) for size in ((rows, wide), (out, wide), (rows, out))
        )
        best = float("inf")
        for _ in range(repeats + 1):  # the first one is a warm-up that never is the best
            start = time.perf_counter()
            x @ weight.T, gradient @ weight, gradient.T @ x
            best = min(best, time.perf_counter() - start)
        seconds += count * best
        operations += count * 6 * rows * wide * out
    return operations / seconds / 1e12


if __name__ == "__main__":
    print(json.dumps(_matmul_tflops(json.loads(Path(sys.argv[1]).read_text()), dtype=sys.argv[2])))
