"""The learner's tensors on disk: whole or not at all, each name with bytes of its own."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from rlvr.errors import ResourceError
from rlvr.testing import FakeLearner
from rlvr.types import Manifest
from rlvr.weights.export import corrupt, export, leave_out, shared_folder
from rlvr.weights.manifest import check, open_tensors


def write(folder: Path, version: int = 0) -> Manifest:
    return export(FakeLearner().tensors(version).items(), version=version, folder=str(folder))


def test_a_version_is_written_with_its_manifest(tmp_path: Path) -> None:
    manifest = write(tmp_path / "new", 4)
    assert (manifest.version, manifest.kind) == (4, "full")
    assert Path(manifest.path).parent == tmp_path / "new"
    check(manifest, open_tensors(manifest.path))


def test_tied_tensors_get_bytes_of_their_own(tmp_path: Path) -> None:
    shared = torch.randn(8, 4)
    manifest = export([("embed", shared), ("head", shared)], version=0, folder=str(tmp_path))
    opened = open_tensors(manifest.path)
    assert torch.equal(opened["embed"], shared) and torch.equal(opened["head"], shared)
    assert Path(manifest.path).stat().st_size > 2 * 4 * 32
    assert manifest.tensors[0].digest == manifest.tensors[1].digest


def test_a_part_of_a_tied_tensor_is_written_too(tmp_path: Path) -> None:
    shared = torch.randn(8, 4)
    manifest = export([("all", shared), ("first", shared[:2]), ("turned", shared.T)], version=0, folder=str(tmp_path))
    opened = open_tensors(manifest.path)
    assert torch.equal(opened["first"], shared[:2]) and torch.equal(opened["turned"], shared.T)


def test_writing_a_version_again_replaces_the_file_and_leaves_readers_theirs(tmp_path: Path) -> None:
    first = write(tmp_path, 0)
    held = open_tensors(first.path)
    tensors = FakeLearner().tensors(0, perturbed=True)
    second = export(tensors.items(), version=0, folder=str(tmp_path))
    assert first.path == second.path
    check(first, held)
    check(second, open_tensors(second.path))
    assert [p.name for p in tmp_path.iterdir()] == [Path(first.path).name]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path, 0)

    def full_disk(tensors: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(ResourceError, match=r"version 0 cannot be written .*No space left"):
        write(tmp_path, 0)
    check(before, open_tensors(before.path))
    assert [p.name for p in tmp_path.iterdir()] == [Path(before.path).name]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="cannot be written"):
        write(tmp_path / "file")


def test_the_fault_corrupt_breaks_a_digest(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    corrupt(manifest)
    with pytest.raises(ValueError, match="do not match their digest"):
        check(manifest, open_tensors(manifest.path))


def test_the_fault_partial_leaves_tensors_out(tmp_path: Path) -> None:
    manifest = write(tmp_path)
    leave_out(manifest)
    with pytest.raises(ValueError, match="3 of 4 tensors are missing"):
        check(manifest, open_tensors(manifest.path))


@pytest.mark.parametrize(("dtype", "roomy"), [("bfloat16", True), ("float32", False)])
def test_shared_memory_is_taken_where_two_versions_fit(
    dtype: str, roomy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": torch.zeros(1000, 10, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60_000))
    folder = shared_folder(tmp_path, dtype=dtype)
    shutil.rmtree(folder)
    assert folder.is_relative_to("/dev/shm") == (roomy and Path("/dev/shm").is_dir())


def test_a_damaged_model_is_for_loading_to_tell(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs")
    shutil.rmtree(shared_folder(tmp_path, dtype="float32"))
