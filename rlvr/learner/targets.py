"""What an adapter may be attached to, told from names alone: of a loaded model, or of the file that it lies in."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import ModelError

__all__ = ["check_files", "check_names", "hits"]

MATRIX = 2  # dimensions


def hits(target: str, name: str) -> bool:
    """Tell whether a target is a module's name or the end of it."""
    return name == target or name.endswith(f".{target}")


def check_names(targets: Sequence[str], linear: Collection[str]) -> None:
    """Make sure that every target is a linear layer. Errors: ModelError names one that is not, and what is near."""
    for target in targets:
        if not any(hits(target, name) for name in linear):
            ends = sorted({name.rpartition(".")[2] for name in linear})
            near = ", ".join(difflib.get_close_matches(target, ends, n=3, cutoff=0.5) or ends)
            raise ModelError(
                f"adapter.targets: {target!r} matches no linear layer below the output head; there is {near}"
            )


def check_files(targets: Sequence[str], folder: Path) -> None:
    """Check targets against the model's files, in milliseconds and before anything starts.

    Only headers are read, and of a target only its last part is looked for: modules above may be called otherwise in a
    file. A model that does not lie in safetensors files passes here: attaching tells.
    Errors: ModelError, as in `check_names`.
    """
    try:
        shapes = {name: shape for file in folder.glob("*.safetensors") for name, shape in _shapes(file).items()}
    except (OSError, ValueError, LookupError, AttributeError):
        return  # a damaged file is for loading to tell
    layers = {  # embedding and head stand outside of the numbered layers
        name.removesuffix(".weight")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == MATRIX and any(part.isdigit() for part in name.split("."))
    }
    ends = {name.rpartition(".")[2] for name in layers}
    if ends:
        check_names([target for target in targets if target.rpartition(".")[2] not in ends], layers)


def _shapes(file: Path) -> dict[str, Any]:
    """Give the shape of each tensor in a safetensors file. Its first 8 bytes are the length of a JSON header."""
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header = json.loads(source.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
