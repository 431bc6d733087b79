"""What the doctor finds, and what it cannot know."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.observe import doctor, libraries


def test_a_figure_of_memory_is_read_or_unknown(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    assert doctor._meminfo("MemAvailable", path=path) is None
    path.write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    assert doctor._meminfo("MemAvailable", path=path) == 8.0
    assert doctor._meminfo("Mem", path=path) is None


@pytest.mark.parametrize(
    ("memory", "state", "text"),
    [
        (None, "note", "unknown; the quick start takes about 8 GiB"),
        (4.0, "note", "4.0 GiB free; the quick start takes about 8 GiB"),
        (16.0, "ok", "16.0 GiB free; the quick start takes about 8 GiB"),
    ],
)
def test_memory_that_nobody_knows_is_not_zero(monkeypatch, memory: float | None, state: str, text: str) -> None:
    monkeypatch.setattr(doctor, "_meminfo", lambda _: memory)
    assert doctor.Fact("memory", state, text) in doctor.examine()


@pytest.mark.parametrize("there", [True, False])
def test_the_doctor_and_a_run_look_for_the_same_allocator(monkeypatch, tmp_path: Path, there: bool) -> None:
    path = tmp_path / "libtcmalloc.so.4"
    path.touch()
    for module in (doctor, libraries):
        monkeypatch.setattr(module, "allocator", lambda: path if there else None)
    (fact,) = [fact for fact in doctor.examine() if fact.name == "tcmalloc"]
    assert (fact.state, path.name == fact.text) == (("ok", True) if there else ("note", False))
    assert (str(path) in libraries.preloads()) is there
