"""Bring versions of weights from a learner to a worker by each transport, beside a plain copy in memory.

python benchmarks/transport.py --large                   # shm, disk, TCP over loopback
python benchmarks/transport.py --hosts --large --ray     # and between two network namespaces (root)
python benchmarks/transport.py --hosts --bits 1gbit --delta

The file of SmolLM2-135M is the real one and goes the whole way: served, written, digests checked. Shapes of 1 B and 7 B
parameters go in chunks of 1 GB through one file on each side, written anew for each chunk, so that no host needs
the memory; nothing checks them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import namespaces

from rlvr.learner.model import prepare
from rlvr.types import Manifest, TensorInfo
from rlvr.weights.export import export
from rlvr.weights.fetch import Receiver
from rlvr.weights.manifest import check, open_tensors
from rlvr.weights.wire import Deadline, FileServer, download

GIB, CHUNK = 2**30, 10**9
SHAPES = {"1 B": 2, "7 B": 14}  # chunks of bfloat16
SHARES = (0.005, 0.02, 0.05, 0.1, 0.2)


def main() -> int:
    """Print a table of what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", action="store_true", help="between two network namespaces, not over loopback")
    parser.add_argument("--bits", default="", help='limit of the link between them, as "1gbit"')
    parser.add_argument("--delta", action="store_true", help="also deltas of several shares of changed values")
    parser.add_argument("--large", action="store_true", help="also shapes of 1 B and 7 B parameters")
    parser.add_argument("--ray", action="store_true", help="also Ray's object store, between the namespaces")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.role:
        {"serve": serve, "receive": receive, "ray": through_ray}[a.role](a)
        return 0
    print("| what | GB | seconds, median (range) | GB/s |\n|---|---:|---:|---:|", flush=True)
    copies(a.repeat)
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-", dir="/dev/shm") as folder:
        a.folder = Path(folder)
        if not a.hosts:
            in_place(a)
            over_tcp(a, [], [])
            return 0
        with namespaces.two_hosts(bits=a.bits):
            over_tcp(a, namespaces.on(namespaces.LEARNER, []), namespaces.on(namespaces.OTHER, []))
            if a.ray:
                with namespaces.Cluster(object_store=3 * 10**9) as cluster:
                    cluster.start(namespaces.OTHER)
                    reader = cluster.beside(namespaces.LEARNER, again("ray"))
                    subprocess.run(reader, check=True, env=os.environ | namespaces.ENVIRONMENT)
    return 0


def again(role: str) -> list[str]:
    """Give the command line of this program in another role."""
    return [sys.executable, *sys.argv, "--role", role]


def line(what: str, size: int, seconds: Sequence[float]) -> None:
    """Print one measurement."""
    middle = statistics.median(seconds)
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"| {what} | {size / 1e9:.3f} | {middle:.2f} ({spread}) | {size / middle / 1e9:.2f} |", flush=True)


def timed(call: Callable[[], object], repeat: int) -> list[float]:
    """Give the seconds of each call."""
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def copies(repeat: int) -> None:
    """Copy 1 GiB within memory, the bound of whatever moves bytes on this machine."""
    source, target = np.ones(GIB, np.uint8), np.ones(GIB, np.uint8)
    line("copy in memory, numpy, one thread", GIB, timed(lambda: np.copyto(target, source), repeat))
    pair = torch.from_numpy(target), torch.from_numpy(source)
    line("copy in memory, torch, all threads", GIB, timed(lambda: pair[0].copy_(pair[1]), repeat))


def model() -> dict[str, torch.Tensor]:
    """Open the tensors of SmolLM2-135M."""
    return {n: t for path in prepare("smollm2-135m").glob("*.safetensors") for n, t in open_tensors(path).items()}


def in_place(a: argparse.Namespace) -> None:
    """Export the real model to where workers read it in place, and check its digests there."""
    tensors = model()
    for name, parent in (("shm", Path("/dev/shm")), ("disk (page cache)", Path(tempfile.gettempdir()))):
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            written: list[Manifest] = []

            def write(folder: str = folder, written: list[Manifest] = written) -> None:
                written[:] = [export(tensors.items(), version=0, folder=folder)]

            line(f"{name}: 135 M exported, digests taken", 2 * 134_515_008, timed(write, a.repeat))
            (manifest,) = written
            seconds = timed(lambda m=manifest: check(m, open_tensors(m.path)), a.repeat)  # type: ignore[misc]
            line(f"{name}: 135 M read, digests checked", manifest.bytes, seconds)


def over_tcp(a: argparse.Namespace, there: list[str], here: list[str]) -> None:
    """Serve on one host and fetch on another, in processes of their own."""
    with subprocess.Popen([*there, *again("serve"), "--folder", str(a.folder)], stdin=subprocess.PIPE) as server:
        try:
            while not (a.folder / "offers").exists():
                time.sleep(0.1)
                if server.poll() is not None:
                    raise RuntimeError("the server ended")
            subprocess.run([*here, *again("receive"), "--folder", str(a.folder)], check=True)
        finally:
            server.kill()


def serve(a: argparse.Namespace) -> None:
    """Offer the real model, copies with a share of their values changed by one bit, and a chunk of nothing."""
    server = FileServer(token="benchmark", host=namespaces.LEARNER if a.hosts else "127.0.0.1")
    tensors, offers = model(), {}
    offers["135 M"] = server.offer(export(tensors.items(), version=0, folder=str(a.folder)))
    if a.large:
        (a.folder / "chunk").write_bytes(np.random.default_rng(0).bytes(10**6) * (CHUNK // 10**6))
        info = TensorInfo(name="chunk", shape=(CHUNK // 2,), dtype="bfloat16", digest="")
        chunk = Manifest(version=1, kind="full", tensors=(info,), path=str(a.folder / "chunk"))
        offers["chunk"] = server.offer(chunk)
    (a.folder / "offers.part").write_bytes(pickle.dumps(offers))
    (a.folder / "offers.part").rename(a.folder / "offers")
    for share in SHARES if a.delta else ():
        changed = {n: change(t, share) for n, t in tensors.items()}
        offer = server.offer(export(changed.items(), version=2, folder=str(a.folder)))
        (a.folder / "next.part").write_bytes(pickle.dumps((share, offer)))
        (a.folder / "next.part").rename(a.folder / "next")
        while (a.folder / "next").exists():
            time.sleep(0.05)
    sys.stdin.read()


def change(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """Flip the last bit of a share of the values."""
    words = tensor.clone().view(torch.int16)
    hit = torch.rand(words.shape, generator=torch.Generator().manual_seed(0)) < share
    return torch.where(hit, words ^ 1, words).view(tensor.dtype)


def receive(a: argparse.Namespace) -> None:
    """Fetch what is offered; the files lie under another path than those of the learner."""
    offers: dict[str, Manifest] = pickle.loads((a.folder / "offers").read_bytes())
    name = f"tcp, namespaces{f', {a.bits}' if a.bits else ''}" if a.hosts else "tcp, loopback"
    if "chunk" in offers:
        for what, chunks in SHAPES.items():
            line(
                f"{name}: {what} in chunks, transport only",
                chunks * CHUNK,
                timed(partial(stream, offers["chunk"], chunks), 1),
            )
    real = away(offers["135 M"])
    scratch = a.folder / "received"
    line(f"{name}: 135 M, transport only", real.bytes, timed(lambda: bring(real, scratch), a.repeat))
    scratch.unlink()
    seconds = []
    for _ in range(a.repeat):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
            seconds.append(Receiver("worker", deadline_s=600, parent=other).fetch(real).seconds)
    line(f"{name}: 135 M fetched, digests checked", real.bytes, seconds)
    for _ in SHARES if a.delta else ():
        as_delta(a, real, name)


def as_delta(a: argparse.Namespace, real: Manifest, name: str) -> None:
    """Fetch a version of which the host has the one before."""
    while not (a.folder / "next").exists():
        time.sleep(0.05)
    share, offer = pickle.loads((a.folder / "next").read_bytes())
    seconds, came = [], 0
    for _ in range(a.repeat):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
            receiver = Receiver("worker", deadline_s=600, parent=other)
            receiver.fetch(real)
            next(Path(other).rglob("pace")).write_text("1000")  # as if the link were slow
            for left in a.folder.glob("*.delta"):
                left.unlink()
            fetched = receiver.fetch(away(offer))
            seconds.append(fetched.seconds)
            came = fetched.bytes
    line(f"{name}: 135 M, {100 * share:g} % changed, {came / 1e6:.0f} MB on the wire", real.bytes, seconds)
    (a.folder / "next").unlink()


def away(manifest: Manifest) -> Manifest:
    """Hide the learner's file, which both processes could see."""
    from dataclasses import replace

    return replace(manifest, path="/nowhere/version")


def bring(manifest: Manifest, path: Path) -> None:
    """Download a file, unchecked."""
    assert manifest.source is not None
    download(manifest.source, path, manifest=manifest, deadline=Deadline.of("worker", 600))


def stream(chunk: Manifest, count: int) -> None:
    """Download one chunk again and again to one place."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        for _ in range(count):
            bring(chunk, Path(other) / "chunk")


def through_ray(a: argparse.Namespace) -> None:
    """Put objects into Ray's store on one host and get them on the other."""
    import ray

    from rlvr.loop.places import at, hosts

    ray.init(address=f"{namespaces.LEARNER}:{namespaces.PORT}", logging_level="ERROR", log_to_driver=False)

    class Reader:
        """Gets objects on the other host."""

        def get(self, references: list[Any]) -> int:
            """Count the bytes that came."""
            return sum(len(ray.get(reference)) for reference in references)

    reader = ray.remote(Reader).options(num_cpus=0, **at(hosts()[1])).remote()
    for mib in (64, 256, 1024):
        data = np.ones(mib * 2**20, np.uint8)
        put: list[float] = []
        seconds: list[float] = []
        for _ in range(a.repeat + 1):  # the first one warms the other host's store up
            start = time.perf_counter()
            references = [ray.put(data) for _ in range(1024 // mib)]
            put.append(time.perf_counter() - start)
            start = time.perf_counter()
            ray.get(reader.get.remote(references))
            seconds.append(time.perf_counter() - start)
            del references
            time.sleep(1.0)
        line(f"Ray's object store, namespaces: chunks of {mib} MiB, put", GIB, put[1:])
        line(f"Ray's object store, namespaces: chunks of {mib} MiB, got", GIB, seconds[1:])


if __name__ == "__main__":
    sys.exit(main())
