"""The threads of processes that an engine starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.observe.libraries import bfloat16_instructions, bound

PRINT = "import os; print(*(f'{k}={v}' for k, v in sorted(os.environ.items()) if k.startswith(('OMP_', 'KMP_'))))"


@pytest.mark.parametrize(
    ("flags", "found"),
    [("sse4_2 avx2 avx512_bf16 amx_bf16", "amx_bf16"), ("avx2 avx512_bf16", "avx512_bf16"), ("avx2 avx512f", "")],
)
def test_instructions_are_read_off_the_processors_flags(flags: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n")
    assert bfloat16_instructions(tmp_path / "cpuinfo") == found
    assert bfloat16_instructions(tmp_path / "absent") == ""


@pytest.mark.parametrize(
    ("preloaded", "given"),
    [
        ("", "OMP_NUM_THREADS=2 OMP_PLACES={0},{3} OMP_PROC_BIND=true"),
        (
            "libiomp5.so",
            "KMP_AFFINITY=granularity=fine,explicit,proclist=[0,3] KMP_BLOCKTIME=5 KMP_TPAUSE=0 OMP_NUM_THREADS=2",
        ),
    ],
)
def test_processes_started_meanwhile_have_one_thread_on_each_core_and_later_ones_do_not(
    monkeypatch: pytest.MonkeyPatch, preloaded: str, given: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("OMP_", "KMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    if preloaded:
        monkeypatch.setenv("LD_PRELOAD", preloaded)
        monkeypatch.setenv("KMP_BLOCKTIME", "0")  # for the process that starts the engine
    before = dict(os.environ)

    def said() -> str:
        clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        return subprocess.run(
            [sys.executable, "-I", "-c", PRINT], env=clean, capture_output=True, text=True, check=True
        ).stdout.strip()

    with pytest.raises(RuntimeError, match="no engine"), bound((0, 3)):
        assert said() == given
        raise RuntimeError("no engine")
    assert dict(os.environ) == before
