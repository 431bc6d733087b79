"""The learner's tensors, written where the engines can read them."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.errors import BoundaryError, ResourceError, boundary
from rlvr.types import SIZES, Manifest
from rlvr.weights.manifest import describe, open_tensors
from rlvr.weights.wire import FileServer

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["corrupt", "export", "export_for_hosts", "leave_out", "shared_folder"]

_servers: dict[str, FileServer] = {}  # of this process, by folder


def export(
    tensors: Iterable[tuple[str, Tensor]], *, version: int, folder: str, kind: str = "full", stem: str = "version"
) -> Manifest:
    """Write one version to `folder` and give its manifest. The file appears whole or not at all."""
    from safetensors.torch import save_file

    named = {name: tensor.contiguous() for name, tensor in tensors}
    # tied tensors share storage, which the format refuses; each name is sent with bytes of its own
    owners: dict[int, str] = {}
    for name, tensor in named.items():
        if owners.setdefault(tensor.data_ptr(), name) != name:
            named[name] = tensor.clone()
    path = Path(folder) / f"{stem}-{version}.safetensors"
    scratch = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with boundary("writing weights"):  # a full disk is an error of safetensors' own
            save_file(named, scratch)
        if path.parent.stat().st_mode & 0o005:  # a disk for several hosts, perhaps with other users
            scratch.chmod(0o644)
        os.replace(scratch, path)
    except (OSError, BoundaryError) as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise ResourceError(f"the weights of version {version} cannot be written to {folder}: {error}") from error
    return Manifest(version=version, kind=kind, tensors=describe(named.items()), path=str(path))


def export_for_hosts(
    tensors: Iterable[tuple[str, Tensor]], *, version: int, folder: str, token: str, host: str, kind: str = "full",
    stem: str = "version",
) -> Manifest:  # fmt: skip
    """Write one version as `export` does, and offer it to other hosts from this process, at the address `host`."""
    manifest = export(tensors, version=version, folder=folder, kind=kind, stem=stem)
    if folder not in _servers:
        _servers[folder] = FileServer(token=token, host=host)
    return _servers[folder].offer(manifest)


def corrupt(manifest: Manifest) -> None:
    """Flip bytes in the middle of the file (a fault, injected after the digest was taken)."""
    with open(manifest.path, "r+b") as file:
        middle = os.path.getsize(manifest.path) // 2
        file.seek(middle)
        data = file.read(64)
        file.seek(middle)
        file.write(bytes(byte ^ 0xFF for byte in data))


def leave_out(manifest: Manifest, *, count: int = 3) -> None:
    """Write the file again without some of its tensors (a fault)."""
    from safetensors.torch import save_file

    tensors = {name: tensor.clone() for name, tensor in open_tensors(manifest.path).items()}
    for name in sorted(tensors)[-count:]:
        del tensors[name]
    save_file(tensors, manifest.path + ".part")
    os.replace(manifest.path + ".part", manifest.path)


def shared_folder(model: Path, *, dtype: str, parent: str | None = None) -> Path:
    """Choose where versions are written: `parent`, else shared memory where two fit, else the temporary folder.

    Errors: ResourceError where `parent` cannot be written to.
    """
    need = 2.5 * SIZES[dtype] * sum(map(_values, model.glob("*.safetensors")))
    memory, host = Path("/dev/shm"), socket.gethostname()
    roomy = memory if memory.is_dir() and shutil.disk_usage(memory).free > need else Path(tempfile.gettempdir())
    chosen = Path(parent).expanduser().absolute() if parent else roomy
    for left in chosen.glob(f"rlvr-weights-{host}-*"):  # by a run that was killed; memory that nobody else would free
        owner = left.name.split("-")[-2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    try:
        chosen.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"rlvr-weights-{host}-{os.getpid()}-", dir=chosen))
        if parent:
            folder.chmod(0o755)  # workers of other hosts read a shared disk, perhaps as another user
    except OSError as error:
        raise ResourceError(f"the weights cannot be written to {chosen}: {error}") from error
    return folder


def _values(file: Path) -> int:
    """Count the values of a safetensors file; none where it is damaged, which is for loading to tell."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    except SafetensorError:
        return 0
