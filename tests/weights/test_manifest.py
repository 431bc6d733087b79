"""What a version consists of: digests, and what is said where bytes are not what they claim to be."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from rlvr.types import Manifest, TensorInfo, fingerprint
from rlvr.weights.manifest import check, describe, digest, from_mapping, open_tensors

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def tensors_of(dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"head": (6, 4), "body.weight": (4, 4), "norm": (4,)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def manifest_of(tensors: dict[str, torch.Tensor]) -> Manifest:
    return Manifest(version=3, kind="full", tensors=describe(tensors.items()), path="unused")


@given(st.sampled_from(DTYPES), st.integers(0, 23), st.integers(0, 31))
def test_any_bit_changes_the_digest(dtype: torch.dtype, element: int, bit: int) -> None:
    tensor = tensors_of(dtype)["head"]
    whole = {2: torch.int16, 4: torch.int32}[tensor.element_size()]
    flipped = tensor.clone()
    at = bit % (8 * tensor.element_size())
    view = flipped.view(whole).reshape(-1)
    top = 8 * tensor.element_size() - 1
    view[element] ^= -(2**at) if at == top else 2**at
    assert digest(flipped) != digest(tensor)
    view[element] ^= -(2**at) if at == top else 2**at
    assert digest(flipped) == digest(tensor)


def test_a_digest_sees_signs_of_zero_and_kinds_of_nan() -> None:
    assert digest(torch.tensor([0.0])) != digest(torch.tensor([-0.0]))
    assert digest(torch.tensor([float("nan")])) == digest(torch.tensor([float("nan")]))


def test_a_digest_is_of_the_values_in_order_not_of_the_layout() -> None:
    tensor = tensors_of()["head"]
    assert digest(tensor.T.contiguous().T) == digest(tensor)
    assert digest(tensor.T) != digest(tensor)


def test_a_manifest_describes_every_tensor() -> None:
    tensors = tensors_of()
    manifest = manifest_of(tensors)
    assert [(t.name, t.shape, t.dtype) for t in manifest.tensors] == [
        ("head", (6, 4), "bfloat16"),
        ("body.weight", (4, 4), "bfloat16"),
        ("norm", (4,), "bfloat16"),
    ]
    assert manifest.bytes == 2 * (24 + 16 + 4)
    check(manifest, tensors)


def test_the_fingerprint_covers_names_shapes_dtypes_and_bytes() -> None:
    manifest = manifest_of(tensors_of())
    seen = {fingerprint(manifest)}
    changes: list[dict[str, object]] = [
        {"name": "other"}, {"shape": (24,)}, {"dtype": "float16"}, {"digest": "00" * 32}
    ]  # fmt: skip
    for change in changes:
        first: TensorInfo = dataclasses.replace(manifest.tensors[0], **change)  # type: ignore[arg-type]
        seen.add(fingerprint(dataclasses.replace(manifest, tensors=(first, *manifest.tensors[1:]))))
    seen.add(fingerprint(dataclasses.replace(manifest, tensors=manifest.tensors[1:])))
    assert len(seen) == 6


def test_a_missing_tensor_is_named() -> None:
    tensors = tensors_of()
    manifest = manifest_of(tensors)
    del tensors["norm"]
    with pytest.raises(ValueError, match=r"1 of 3 tensors are missing, norm among them"):
        check(manifest, tensors)


def test_a_surplus_tensor_is_named() -> None:
    tensors = tensors_of()
    manifest = manifest_of(tensors)
    with pytest.raises(ValueError, match=r"1 tensors are not in the manifest, extra among them"):
        check(manifest, tensors | {"extra": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("head", torch.zeros(4, 6, dtype=torch.bfloat16), r"head has shape \(4, 6\), the manifest says \(6, 4\)"),
        ("norm", torch.zeros(4), r"norm has dtype torch\.float32, the manifest says bfloat16"),
        ("body.weight", torch.zeros(4, 4, dtype=torch.bfloat16), r"the bytes of body\.weight do not match"),
    ],
)
def test_a_tensor_that_differs_is_named(name: str, instead: torch.Tensor, said: str) -> None:
    tensors = tensors_of()
    manifest = manifest_of(tensors)
    with pytest.raises(ValueError, match=said):
        check(manifest, tensors | {name: instead})


def test_a_tensor_full_of_nan_equals_itself() -> None:
    tensors = {"broken": torch.full((3,), float("nan"), dtype=torch.bfloat16)}
    check(manifest_of(tensors), tensors)


def test_a_manifest_survives_the_way_to_another_process() -> None:
    manifest = manifest_of(tensors_of())
    assert from_mapping(dataclasses.asdict(manifest)) == manifest


def test_files_open_as_what_was_written(tmp_path: Path) -> None:
    tensors = tensors_of()
    save_file(tensors, tmp_path / "x.safetensors")
    opened = open_tensors(tmp_path / "x.safetensors")
    check(manifest_of(tensors), opened)
