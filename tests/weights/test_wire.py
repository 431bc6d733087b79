"""Weights over TCP: whole, by delta, and through every fault of a link."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from rlvr.errors import ResourceError
from rlvr.loop import workers
from rlvr.types import Manifest, Source
from rlvr.weights import delta, fetch, wire
from rlvr.weights.export import corrupt, export
from rlvr.weights.fetch import Fetched, Receiver
from rlvr.weights.manifest import check, open_tensors
from rlvr.weights.wire import FileServer

pytestmark = pytest.mark.integration

SIZE = 1 << 20  # values of the large tensor: 2 MiB


def tensors_of(version: int, *, changed: float = 1.0) -> dict[str, torch.Tensor]:
    """Make weights of which the share `changed` differs from those of version 0."""
    base = torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).bfloat16()
    other = torch.randn(SIZE, generator=torch.Generator().manual_seed(version)).bfloat16()
    count = int(changed * SIZE) if version else 0
    return {"body": torch.cat([other[:count], base[count:]]), "norm": torch.full((3,), float(version))}


class Hosts:
    """A learner's host with a server, and folders that stand for other hosts. The files are hidden from those."""

    def __init__(self, folder: Path) -> None:
        self.learner, self.parent = folder / "learner", folder / "other"
        self.parent.mkdir()
        self.server = FileServer(token="secret", host="127.0.0.1", silence_s=5.0)

    def publish(self, version: int, *, changed: float = 1.0, dtype: torch.dtype | None = None) -> Manifest:
        tensors = {name: t.to(dtype or t.dtype) for name, t in tensors_of(version, changed=changed).items()}
        return self.away(self.server.offer(export(tensors.items(), version=version, folder=str(self.learner))))

    @staticmethod
    def away(manifest: Manifest) -> Manifest:
        """Let the reader see no file under the manifest's path."""
        return replace(manifest, path="/nowhere/" + Path(manifest.path).name)

    def receiver(self, name: str = "worker-1", *, deadline_s: float = 10.0) -> Receiver:
        return Receiver(name, deadline_s=deadline_s, parent=str(self.parent))

    def left(self) -> list[str]:
        return sorted(path.name.split("-")[0] for path in self.parent.rglob("*") if path.is_file())


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    made = Hosts(tmp_path)
    yield made
    made.server.close()


def right(fetched: Fetched) -> bool:
    assert fetched.manifest.source is None
    check(fetched.manifest, open_tensors(fetched.manifest.path))
    return True


def test_a_file_that_lies_here_is_read_in_place(hosts: Hosts) -> None:
    manifest = hosts.server.offer(export(tensors_of(0).items(), version=0, folder=str(hosts.learner)))
    fetched = hosts.receiver().fetch(manifest)
    assert fetched.manifest == replace(manifest, source=None) and fetched.bytes == 0
    assert not list(hosts.parent.iterdir())


def test_another_file_of_that_name_is_not_taken_for_it(hosts: Hosts) -> None:
    manifest = hosts.server.offer(export(tensors_of(0).items(), version=0, folder=str(hosts.learner)))
    copy = hosts.parent / "version-0.safetensors"
    copy.write_bytes(Path(manifest.path).read_bytes())
    fetched = hosts.receiver().fetch(replace(manifest, path=str(copy)))
    assert fetched.bytes > 2 * SIZE and right(fetched)


def test_a_host_fetches_once_for_all_its_workers(hosts: Hosts) -> None:
    manifest = hosts.publish(0)
    receivers = [hosts.receiver(f"worker-{i}") for i in range(4)]
    found: list[Fetched] = []
    threads = [threading.Thread(target=lambda r=r: found.append(r.fetch(manifest))) for r in receivers]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({f.manifest.path for f in found}) == 1 and all(map(right, found)) and len(found) == 4
    assert sorted(f.bytes > 0 for f in found) == [False, False, False, True]
    for receiver in receivers:
        receiver.close()
    assert not list(hosts.parent.iterdir())


def test_a_version_written_again_is_another_file(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    first = receiver.fetch(hosts.publish(0))
    tensors = {name: tensor + 1 for name, tensor in tensors_of(0).items()}
    again = hosts.away(hosts.server.offer(export(tensors.items(), version=0, folder=str(hosts.learner))))
    second = receiver.fetch(again)
    assert first.manifest.path != second.manifest.path and right(first) and right(second)


def test_only_the_live_version_and_the_next_stay(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    for version in range(6):
        assert right(receiver.fetch(hosts.publish(version)))
    assert hosts.left() == ["lock", "pace", "use", "version", "version"]
    assert receiver.fetch(hosts.publish(5)).bytes == 0  # a version that came before


@pytest.mark.parametrize("token", ["wrong", ""])
def test_nothing_is_given_without_the_token(hosts: Hosts, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ATTEMPTS", 1)
    manifest = hosts.publish(0)
    assert manifest.source is not None and "secret" not in repr(manifest)
    with pytest.raises(ResourceError, match="worker-1 gave up after 1 connections waiting for the learner's host"):
        hosts.receiver().fetch(replace(manifest, source=replace(manifest.source, token=token)))


def test_a_version_that_is_gone_is_named(hosts: Hosts) -> None:
    first = hosts.publish(0)
    for version in (1, 2, 3):
        hosts.publish(version)
    with pytest.raises(ResourceError, match=r"worker-1 waits in vain for .* version 0: it is not offered any more"):
        hosts.receiver().fetch(first)


@pytest.mark.parametrize(
    "words", [b"", b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x02\0\0\0[]", b"\x03\0\0\0{}x", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_server_survives_whatever_it_is_told(hosts: Hosts, words: bytes) -> None:
    address = "127.0.0.1", hosts.server.port
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=5) as stranger:
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(100) == b""
    assert right(hosts.receiver().fetch(hosts.publish(0)))


class Link:
    """A link between two hosts that does to each connection what `what` says of its number."""

    def __init__(self, port: int, what: Callable[[int, socket.socket, socket.socket], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.count, self._port, self._what = 0, port, what
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self.count += 1
                threading.Thread(target=self._both, args=(self.count, near, far), daemon=True).start()

    def _both(self, number: int, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            far.sendall(near.recv(65536))  # a request is one small packet
            self._what(number, near, far)

    def through(self, manifest: Manifest) -> Manifest:
        assert manifest.source is not None
        port = self.listener.getsockname()[1]
        return replace(manifest, source=replace(manifest.source, port=port))


def carry(near: socket.socket, far: socket.socket, *, most: int = 1 << 40, pause_s: float = 0, flip: int = -1) -> None:
    """Pass on up to `most` bytes of an answer, the one at `flip` damaged."""
    done = 0
    while done < most and (data := far.recv(min(65536, most - done))):
        if done <= flip < done + len(data):
            data = data[: flip - done] + bytes([data[flip - done] ^ 1]) + data[flip - done + 1 :]
        near.sendall(data)
        done += len(data)
        time.sleep(pause_s)


def test_a_connection_that_is_cut_goes_on_where_it_was(hosts: Hosts) -> None:
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, most=(500_000 if n < 4 else 1 << 40)))
    fetched = hosts.receiver().fetch(link.through(hosts.publish(0)))
    assert right(fetched) and link.count == 4
    assert fetched.bytes < 2.01 * SIZE  # nothing came twice


def test_a_file_that_is_replaced_between_two_connections_is_not_mixed(hosts: Hosts) -> None:
    manifest = hosts.publish(0)

    def cut(number: int, near: socket.socket, far: socket.socket) -> None:
        carry(near, far, most=500_000 if number == 1 else 1 << 40)
        if number == 1:
            export(tensors_of(0).items(), version=0, folder=str(hosts.learner))

    assert right(hosts.receiver().fetch(Link(hosts.server.port, cut).through(manifest)))


def test_a_link_that_always_cuts_is_given_up(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ATTEMPTS", 3)
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, most=300_000))
    with pytest.raises(ResourceError, match=r"worker-1 gave up after 3 connections waiting for .* to send version 0 "):
        hosts.receiver().fetch(link.through(hosts.publish(0)))
    assert hosts.left() == ["lock", "use"]


def test_bytes_that_the_link_damages_are_sent_again(hosts: Hosts) -> None:
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, flip=1_000_000 if n == 1 else -1))
    fetched = hosts.receiver().fetch(link.through(hosts.publish(0)))
    assert right(fetched) and link.count == 2


def test_bytes_that_are_always_damaged_are_refused(hosts: Hosts) -> None:
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, flip=1_000_000))
    with pytest.raises(ValueError, match="the bytes of body do not match their digest"):
        hosts.receiver().fetch(link.through(hosts.publish(0)))
    assert hosts.left() == ["lock", "pace", "use"]


@pytest.mark.parametrize("known", [False, True], ids=["whole", "beside a delta"])
def test_a_file_that_is_damaged_at_its_source_is_refused(hosts: Hosts, known: bool) -> None:
    receiver = hosts.receiver()
    if known:
        receiver.fetch(hosts.publish(0))
        slow(hosts)
    manifest = hosts.server.offer(export(tensors_of(1, changed=0.01).items(), version=1, folder=str(hosts.learner)))
    corrupt(manifest)
    for path in (manifest, hosts.away(manifest)):
        with pytest.raises(ValueError, match="do not match their digest"):
            receiver.fetch(path)


def test_a_slow_link_is_waited_for_until_the_deadline(hosts: Hosts) -> None:
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, pause_s=0.2))
    said = r"worker-1 waited 1 s for the learner's host, 127.0.0.1:\d+, to send version 0 \(\d+ of \d+ bytes came\)"
    start = time.monotonic()
    with pytest.raises(ResourceError, match=said):
        hosts.receiver(deadline_s=1.0).fetch(link.through(hosts.publish(0)))
    assert time.monotonic() - start < 3


def test_a_link_that_falls_silent_is_tried_again(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = wire.download.__kwdefaults__
    monkeypatch.setitem(defaults, "silence_s", 0.3)

    def silent(number: int, near: socket.socket, far: socket.socket) -> None:
        carry(near, far, most=300_000 if number == 1 else 1 << 40)
        if number == 1:
            time.sleep(5)

    start = time.monotonic()
    assert right(hosts.receiver().fetch(Link(hosts.server.port, silent).through(hosts.publish(0))))
    assert time.monotonic() - start < 4


def test_a_learner_that_is_not_there_is_named(hosts: Hosts) -> None:
    manifest = hosts.publish(0)
    hosts.server.close()
    with pytest.raises(ResourceError, match=r"worker-1 (waited 1 s|gave up after 6 connections)"):
        hosts.receiver(deadline_s=1.0).fetch(manifest)


DOWNLOADER = """
import pickle, sys
receiver, manifest = pickle.load(open(sys.argv[1], "rb"))
receiver.fetch(manifest)
"""


def test_a_downloader_that_is_killed_blocks_nobody(hosts: Hosts, tmp_path: Path) -> None:
    import pickle

    manifest = hosts.publish(0)
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, pause_s=60 if n == 1 else 0))
    manifest = link.through(manifest)
    (tmp_path / "call").write_bytes(pickle.dumps((hosts.receiver("worker-0"), manifest)))
    with subprocess.Popen([sys.executable, "-c", DOWNLOADER, str(tmp_path / "call")]) as victim:
        while not list(hosts.parent.rglob("*.part")):
            time.sleep(0.02)
            assert victim.poll() is None
        said = "worker-2 waited 0.5 s for worker-0, which is downloading version 0 for this host"
        impatient = hosts.receiver("worker-2", deadline_s=0.5)
        with pytest.raises(ResourceError, match=said):
            impatient.fetch(manifest)
        impatient.close()
        os.kill(victim.pid, signal.SIGKILL)
    receiver = hosts.receiver("worker-1")
    assert right(receiver.fetch(manifest))
    assert not list(hosts.parent.rglob("*.part"))
    receiver.close()
    assert not list(hosts.parent.iterdir())


def test_what_a_dead_run_left_is_removed_by_the_next(hosts: Hosts) -> None:
    left, fresh = hosts.parent / "rlvr-copies-old", hosts.parent / "rlvr-copies-new"
    left.mkdir()
    (left / "version-0-x.safetensors").touch()
    used = fetch._use(fresh)
    hosts.receiver().fetch(hosts.publish(0))
    assert fresh.exists() and not left.exists()
    os.close(used)


def test_what_a_killed_worker_left_goes_with_it(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(hosts.parent))
    dead, alive = hosts.parent / "rlvr-copies-dead", hosts.parent / "rlvr-copies-alive"
    script = "import sys, time; from pathlib import Path; from rlvr.weights.fetch import _use\n"
    script += "_use(Path(sys.argv[1])); print('there', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script, str(dead)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "there\n"
    used = fetch._use(alive)
    fetch.sweep()
    assert dead.exists() and alive.exists()
    workers._kill_processes._function([(process.pid, psutil.Process(process.pid).create_time())])
    assert alive.exists() and not dead.exists()
    process.stdout.close()
    os.close(used)


def slow(hosts: Hosts) -> None:
    """Let the last download have been slow, so that a delta pays."""
    for pace in hosts.parent.rglob("pace"):
        pace.write_text("1000")


@pytest.mark.parametrize(("changed", "most"), [(0.0, 0.01), (0.01, 0.04), (0.1, 0.25), (0.9, 1.01)])
def test_what_changed_travels_where_that_is_less(hosts: Hosts, changed: float, most: float) -> None:
    receiver = hosts.receiver()
    whole = receiver.fetch(hosts.publish(0))
    slow(hosts)
    fetched = receiver.fetch(hosts.publish(1, changed=changed))
    assert right(fetched) and right(whole)
    assert fetched.bytes <= most * whole.bytes and (changed < 0.5) == (fetched.bytes < 0.5 * whole.bytes)
    assert Path(fetched.manifest.path).read_bytes() == (hosts.learner / "version-1.safetensors").read_bytes()


def test_of_float32_on_the_grid_of_bfloat16_what_changed_travels(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    whole = receiver.fetch(hosts.publish(0, dtype=torch.float32))
    slow(hosts)
    fetched = receiver.fetch(hosts.publish(1, changed=0.1, dtype=torch.float32))
    assert right(fetched) and fetched.bytes < 0.13 * whole.bytes


def test_a_folder_that_is_swept_as_it_is_taken_is_made_anew(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = hosts.parent / "rlvr-copies-run", fetch.fcntl.flock

    def late(descriptor: int, kind: int) -> None:
        if kind == fetch.fcntl.LOCK_SH and not taken:
            taken.append(kind)
            fetch._sweep(hosts.parent, "rlvr-copies-*")
            assert not folder.exists()
        real(descriptor, kind)

    taken: list[int] = []
    monkeypatch.setattr(fetch.fcntl, "flock", late)
    used = fetch._use(folder)
    assert taken and folder.exists()
    fetch._sweep(hosts.parent, "rlvr-copies-*")
    assert (folder / "use").exists()
    os.close(used)
    fetch._sweep(hosts.parent, "rlvr-copies-*")
    assert not list(hosts.parent.iterdir())


def test_on_a_fast_link_the_whole_file_travels(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    whole = receiver.fetch(hosts.publish(0))
    for pace in hosts.parent.rglob("pace"):
        pace.write_text(str(10**10))
    assert receiver.fetch(hosts.publish(1, changed=0.01)).bytes == whole.bytes


def test_a_damaged_base_or_delta_is_made_good_by_the_whole_file(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    corrupt(receiver.fetch(hosts.publish(0)).manifest)
    slow(hosts)
    fetched = receiver.fetch(hosts.publish(1, changed=0.01))
    assert right(fetched) and fetched.bytes > 2 * SIZE
    slow(hosts)
    link = Link(hosts.server.port, lambda n, near, far: carry(near, far, flip=5000 if n == 1 else -1))
    fetched = receiver.fetch(link.through(hosts.publish(2, changed=0.01)))
    assert right(fetched) and link.count == 2


def test_deltas_of_old_versions_are_removed(hosts: Hosts) -> None:
    receiver = hosts.receiver()
    for version in range(5):
        receiver.fetch(hosts.publish(version, changed=0.01))
        slow(hosts)
    assert len(list(hosts.learner.glob("*.delta"))) <= 2


def test_on_a_shared_disk_a_file_may_come_late(tmp_path: Path) -> None:
    manifest = export(tensors_of(0).items(), version=0, folder=str(tmp_path / "a"))
    late = replace(manifest, path=str(tmp_path / "b" / "version-0.safetensors"))
    threading.Timer(0.3, lambda: os.rename(tmp_path / "a", tmp_path / "b")).start()
    fetched = Receiver("worker-0", deadline_s=5).fetch(late)
    assert fetched.seconds > 0.1 and right(fetched)
    with pytest.raises(ResourceError, match=r"worker-0 waited 0.2 s for version 0 .* the learner's host wrote"):
        Receiver("worker-0", deadline_s=0.2).fetch(manifest)


def test_a_source_says_where_but_not_the_token() -> None:
    source = Source(host="h", port=1, mark="m", token="secret")
    assert "secret" not in repr(source)
    assert fetch.DELTA_BELOW > 1e8


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"], ids=["short", "long"])
def test_a_delta_that_ends_elsewhere_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "delta"
    old.write_bytes(bytes(2000))
    new.write_bytes(bytes(1000) + b"ab" + bytes(998))
    assert delta.write(old, new, out, most=0.5)
    out.write_bytes(change(out.read_bytes()))
    with pytest.raises(ValueError, match=r"the delta (ends too early|goes on behind its end)"):
        delta.apply(old, out, tmp_path / "rebuilt")
