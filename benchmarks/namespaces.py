"""Two hosts on one machine: network namespaces joined by a virtual cable, each with its own /dev/shm. Needs root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

LEARNER, OTHER = "10.77.0.1", "10.77.0.2"
_NAMES = {LEARNER: "rlvr-a", OTHER: "rlvr-b"}
_SHELL = 'mount -t tmpfs tmpfs /dev/shm && mount --bind "$1" /tmp && shift && exec "$@"'
PORT = 6399  # of Ray
ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "disabled",  # nobody but this machine reaches the nodes
    "RAY_memory_monitor_refresh_ms": "0",  # each would count the other's memory, and kill for it
    "TORCHINDUCTOR_CACHE_DIR": str(Path.home() / ".cache" / "rlvr" / "two-hosts"),  # not in /tmp, empty at each start
}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts(*, bits: str = "") -> Iterator[None]:
    """Make the hosts and the cable between them, which takes no more than `bits` a second ("1gbit"); remove them."""
    remove()
    try:
        for name in _NAMES.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", "cable", "netns", _NAMES[LEARNER], "type", "veth", "peer", "name", "cable",
            "netns", _NAMES[OTHER])  # fmt: skip
        for address, name in _NAMES.items():
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            if bits:
                limit = f"tc qdisc add dev cable root tbf rate {bits} burst 2mb latency 50ms"
                subprocess.run(on(address, limit.split()), check=True)
        yield
    finally:
        remove()


def remove() -> None:
    """Take the hosts away, also those that a run left which was killed."""
    for name in _NAMES.values():
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def on(host: str, words: Sequence[str]) -> list[str]:
    """Give the command line that runs `words` in a host's network alone."""
    return ["ip", "netns", "exec", _NAMES[host], *words]


class Cluster:
    """A Ray node on each host. The learner's is the head; programs started by `beside` share its memory and files."""

    def __init__(self, *, object_store: int = 256 * 2**20, cpus: int = 2) -> None:
        self._store, self._cpus = object_store, cpus
        self.temporary = {host: Path(tempfile.mkdtemp(prefix="rlvr-host-")) for host in _NAMES}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        """Start the head and wait until it listens."""
        self.start(LEARNER)
        return self

    def __exit__(self, *_: object) -> None:
        """End all nodes and remove their files."""
        for host in list(self._nodes):
            self.stop(host)
        for folder in self.temporary.values():
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, host: str) -> None:
        """Start the node of a host. It has a /dev/shm and a /tmp that no other host sees."""
        role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        if host != LEARNER:
            role = [f"--address={LEARNER}:{PORT}"]
        ray = [str(Path(sys.executable).with_name("ray")), "start", *role, f"--node-ip-address={host}", "--block",
               f"--num-cpus={self._cpus}", f"--object-store-memory={self._store}"]  # fmt: skip
        with open(self.temporary[host] / "node.log", "wb") as log:
            inside = ["unshare", "--mount", "sh", "-c", _SHELL, "sh", str(self.temporary[host]), *ray]
            self._nodes[host] = subprocess.Popen(
                on(host, inside), stdout=log, stderr=log, start_new_session=True,
                env=os.environ | ENVIRONMENT,
            )  # fmt: skip
        end = time.monotonic() + 180
        while b"This command will now block" not in (self.temporary[host] / "node.log").read_bytes():
            if time.monotonic() > end or self._nodes[host].poll() is not None:
                raise RuntimeError(f"no Ray node on {host}: {(self.temporary[host] / 'node.log').read_text()[-3000:]}")
            time.sleep(0.2)

    def stop(self, host: str) -> None:
        """End the node of a host with all that runs there."""
        node = self._nodes.pop(host)
        space = os.stat(f"/proc/{node.pid}/ns/net").st_ino if node.poll() is None else -1
        node.terminate()
        try:
            node.wait(timeout=20)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        for process in self.processes(space):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)

    @staticmethod
    def processes(space: int) -> list[int]:
        """Give the processes of a network namespace."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.stat(process / "ns" / "net").st_ino == space:
                    found.append(int(process.name))
        return found

    def space(self, host: str) -> int:
        """Give the number of a host's network namespace."""
        return os.stat(f"/proc/{self._nodes[host].pid}/ns/net").st_ino

    def files(self, host: str) -> Path:
        """Give the files of a host as seen from here."""
        return Path(f"/proc/{self._nodes[host].pid}/root")

    def beside(self, host: str, words: Sequence[str]) -> list[str]:
        """Give the command line that runs `words` on a host, with its network, memory and /tmp."""
        return ["nsenter", f"--target={self._nodes[host].pid}", "--mount", "--net", f"--wd={os.getcwd()}", *words]
