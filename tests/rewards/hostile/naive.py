"""A harness as many people write it: candidate and tests in one process, paid by exit status."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_STDIO = """
import io, sys
for given, wanted in {cases!r}:
    sys.stdin, sys.stdout = io.StringIO(given), io.StringIO()
    exec(compile({source!r}, 'candidate.py', 'exec'), {{'__name__': '__main__'}})
    assert sys.stdout.getvalue().strip() == wanted.strip()
"""


_SHARED = """
exec(compile({text!r}, 'solution.py', 'exec'), {{'__name__': 'solution', '__file__': __file__}})
"""


def script(source: str, truth: Mapping[str, Any]) -> str:
    """Write candidate and tests into one file."""
    if truth["type"] == "stdio":
        return _STDIO.format(cases=[(case["input"], case["output"]) for case in truth["cases"]], source=source)
    if truth["type"] == "call":
        tests = [f"assert {truth['fn']}(*{case['args']!r}) == {case['expected']!r}" for case in truth["cases"]]
    else:
        tests = list(truth["tests"])
        if truth.get("entry_point"):
            tests.append(f"check({truth['entry_point']})")
    return _SHARED.format(text="\n".join([truth.get("prelude", ""), source, *tests]))


def pays(source: str, truth: Mapping[str, Any], *, folder: Path, seconds: float = 3.0) -> bool:
    """Tell whether the naive harness pays. It isolates nothing: only harmless attacks may run."""
    path = folder / "solution.py"
    path.write_text(script(source, truth), encoding="utf-8", errors="surrogatepass")
    process = subprocess.Popen(
        [sys.executable, str(path)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_limits,
    )
    try:
        return process.wait(timeout=seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**24, 2**24))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
