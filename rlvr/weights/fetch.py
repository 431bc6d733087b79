"""The worker's side of a transport of files: read the learner's file in place, or bring it to this host, once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rlvr.errors import BoundaryError, ResourceError, boundary
from rlvr.types import Manifest, Source, fingerprint
from rlvr.weights import delta
from rlvr.weights.manifest import check, open_tensors
from rlvr.weights.wire import Deadline, download, mark_of

__all__ = ["Fetched", "Receiver", "sweep"]

DELTA_BELOW = 0.2e9  # bytes/s of the link; on a faster one the whole file is there before two have been compared
_PREFIX = "rlvr-copies-"
_GONE = "rlvr-gone-"  # while it is being removed
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A version whose bytes lie on this host."""

    manifest: Manifest
    bytes: int  # that came over the network for this worker; 0 where it read in place or another had brought them
    seconds: float


class Receiver:
    """Brings versions to one worker. It is made by the driver and pickled; it holds something only once it fetches.

    Workers of one host share a folder and each download in it: who has the lock downloads, the others wait and take the
    file. Locks are the kernel's, so that a dead worker holds none.
    """

    def __init__(self, worker: str, *, deadline_s: float, parent: str | None = None) -> None:
        self._worker, self._deadline_s, self._parent = worker, deadline_s, parent
        self._folder: Path | None = None
        self._use = -1  # descriptor whose shared lock says that the folder is in use

    def fetch(self, manifest: Manifest) -> Fetched:
        """Give the manifest with a path that can be read here.

        Errors: ResourceError where the file cannot be had, in time or at all; ValueError where its bytes are wrong.
        """
        try:
            return self._fetched(manifest)
        except OSError as error:
            raise ResourceError(f"{self._worker} cannot keep the weights on its host: {error}") from error

    def _fetched(self, manifest: Manifest) -> Fetched:
        start = time.monotonic()
        here, source = replace(manifest, source=None), manifest.source
        deadline = Deadline.of(self._worker, self._deadline_s)
        if source is None:
            _appear(manifest, deadline)
            return Fetched(manifest=here, bytes=0, seconds=time.monotonic() - start)
        if mark_of(manifest.path) == source.mark:
            return Fetched(manifest=here, bytes=0, seconds=time.monotonic() - start)
        folder = self._open(source, size=manifest.bytes)
        path = folder / f"version-{manifest.version}-{fingerprint(manifest)}.safetensors"
        came = 0
        with _locked(folder / "lock", deadline, what=f"downloading version {manifest.version}"):
            if not path.exists():
                came = _bring(replace(here, path=str(path)), source, deadline)
        return Fetched(manifest=replace(here, path=str(path)), bytes=came, seconds=time.monotonic() - start)

    def close(self) -> None:
        """Leave the folder; the last worker of this host to do so removes it."""
        if self._folder is not None:
            os.close(self._use)
            _sweep(self._folder.parent, self._folder.name)
        self._folder = None

    def _open(self, source: Source, *, size: int) -> Path:
        if self._folder is None:
            parent = Path(self._parent) if self._parent else _roomy(3 * size)
            _sweep(parent, _PREFIX + "*")
            folder = parent / (_PREFIX + hashlib.blake2b(source.token.encode(), digest_size=8).hexdigest())
            self._use = _use(folder)
            self._folder = folder
        return self._folder


def sweep() -> None:
    """Remove what dead workers left on this host."""
    for parent in {Path("/dev/shm"), Path(tempfile.gettempdir())}:
        _sweep(parent, _PREFIX + "*")


def _appear(manifest: Manifest, deadline: Deadline) -> None:
    """Wait for a file on a shared disk, which may show it later than the message that names it."""
    while not os.path.exists(manifest.path):
        deadline.left(
            f"version {manifest.version} in {Path(manifest.path).parent}, which the learner's host wrote and this one "
            'does not show; between hosts without a shared folder take weights.transport = "tcp"'
        )
        time.sleep(_POLL_S)


def _bring(manifest: Manifest, source: Source, deadline: Deadline) -> int:
    """Download to the manifest's path and give the bytes that came. The lock is held.

    What the link damaged is sent again, once. Errors: ValueError where it is wrong again.
    """
    path = Path(manifest.path)
    scratch = path.with_name(path.name + ".part")
    base = _base(path.parent) if _speed(path.parent) < DELTA_BELOW else None
    came, wrong = 0, ""
    try:
        for known in [base, None, None] if base else [None, None]:
            _tidy(path.parent)
            came += _once(manifest, scratch, source, deadline, base=known)
            if not (wrong := _complaint(manifest, scratch)):
                os.replace(scratch, path)
                _tidy(path.parent)
                return came
    finally:
        scratch.unlink(missing_ok=True)
    raise ValueError(wrong)


def _once(manifest: Manifest, scratch: Path, source: Source, deadline: Deadline, *, base: Path | None) -> int:
    """Bring the file to `scratch`, by way of a delta where the server finds that one is worth it."""
    start = time.monotonic()
    digest = base.stem.rpartition("-")[2] if base else ""
    delivered = download(source, scratch, manifest=manifest, deadline=deadline, base=digest)
    if delivered.kind == "whole":
        pace = delivered.bytes / max(time.monotonic() - start, 1e-6)
        (scratch.parent / "pace").write_text(f"{pace:.0f}", encoding="ascii")
    elif base is not None:
        change = scratch.with_name("delta.part")
        os.replace(scratch, change)
        try:
            delta.apply(base, change, scratch)
        except ValueError:
            scratch.write_bytes(b"")  # no file of weights, which is found out like any other damage
        finally:
            change.unlink(missing_ok=True)
    return delivered.bytes


def _complaint(manifest: Manifest, path: Path) -> str:
    """Say what is wrong with a file, "" where nothing is."""
    try:
        with boundary("reading the weights"):
            check(manifest, open_tensors(path))
    except (ValueError, BoundaryError) as error:
        return str(error)
    return ""


def _base(folder: Path) -> Path | None:
    """Give the newest version that lies here."""
    return max(folder.glob("version-*.safetensors"), key=_age, default=None)


def _tidy(folder: Path) -> None:
    """Keep the two newest versions, of which one is live and one may be under way, and nothing of a dead worker's."""
    for old in sorted(folder.glob("version-*.safetensors"), key=_age)[:-2]:
        old.unlink(missing_ok=True)
    for left in folder.glob("*.part"):
        left.unlink(missing_ok=True)


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def _speed(folder: Path) -> float:
    """Give the bytes a second of the last whole file that came; without end where none has come yet."""
    try:
        return float((folder / "pace").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return float("inf")


def _roomy(need: int) -> Path:
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > need else Path(tempfile.gettempdir())


@contextmanager
def _locked(path: Path, deadline: Deadline, *, what: str) -> Iterator[None]:
    """Hold a lock among the processes of this host. Errors: ResourceError names who held it all the while."""
    with open(path, "a+", encoding="utf-8") as file:
        while not _try_lock(file.fileno(), fcntl.LOCK_EX):
            file.seek(0)
            deadline.left(file.read() or "another worker of this host")
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"{deadline.who}, which is {what} for this host")
        file.flush()
        yield


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _use(folder: Path) -> int:
    """Make a folder where needed and hold a shared lock in it, which lasts as long as this process."""
    while True:
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # swept away in between
            folder.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(folder / "use", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.stat(folder / "use").st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except FileNotFoundError:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _sweep(parent: Path, pattern: str) -> None:
    """Remove the folders that no living process uses, each at once: who is about to use one finds none or makes one."""
    for folder in parent.glob(pattern):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / "use", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if _try_lock(descriptor, fcntl.LOCK_EX):
                    gone = folder.with_name(f"{_GONE}{folder.name}-{os.getpid()}-{time.monotonic_ns()}")
                    folder.rename(gone)
                    shutil.rmtree(gone, ignore_errors=True)
            finally:
                os.close(descriptor)
