"""Checkpoints: a folder that `transformers` and vLLM load as it is, with what a resumed run needs inside it.

The top of the folder is a model in Hugging Face layout: the very bytes that the engines were given.
`trainer/` holds float32 master weights, those of a critic too, the optimizers, and the facts of the run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import BoundaryError, CheckpointError, boundary
from rlvr.learner.model import TOKENIZER_FILES

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.learner.step import Learner

__all__ = ["latest", "restore", "save"]


def save(learner: Learner, folder: Path, *, facts: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename it.

    Errors: CheckpointError where it cannot be written; what stood there before stays.
    """
    import torch
    from safetensors.torch import save_file

    scratch, aside = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    try:
        with boundary("writing"):  # safetensors and torch have their own errors for a full disk
            files, state = _files(learner), learner.state()  # all ranks gather, and have met when the first one writes
            if learner.ranks.rank:
                with tempfile.TemporaryDirectory() as nowhere:  # an adapter is gathered as it is written
                    learner.body.save_adapter(Path(nowhere) / "adapter")
                return
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / "trainer").mkdir(parents=True)
            for name, tensors in files.items():
                save_file(tensors, scratch / name, metadata={"format": "pt"})
            _describe_model(learner, scratch)
            learner.body.save_adapter(scratch / "adapter")
            torch.save(state, scratch / "trainer" / "state.pt")
            (scratch / "trainer" / "facts.json").write_text(json.dumps(facts))
            shutil.rmtree(aside, ignore_errors=True)
            if folder.exists():
                folder.rename(aside)
            os.replace(scratch, folder)
            shutil.rmtree(aside, ignore_errors=True)
    except BoundaryError as error:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written ({error.reason}); free disk space and go on with --resume"
        ) from error


def restore(learner: Learner, folder: Path) -> dict[str, Any]:
    """Load a checkpoint into the learner and give the facts saved with it. Errors: CheckpointError."""
    import torch
    from safetensors.torch import load_file

    try:
        with boundary("reading"):
            weights = load_file(folder / "trainer" / "master.safetensors")
            state = torch.load(folder / "trainer" / "state.pt", weights_only=True)
            if "updates" not in state:
                raise CheckpointError(
                    f"the checkpoint {folder} is of an earlier version of rlvr, which knew no updates within a step; "
                    "go on with that version, or start a new run"
                )
            critic = load_file(folder / "trainer" / "critic.safetensors") if learner.critic else {}
            learner.restore(weights, state, critic=critic)
            return dict(json.loads((folder / "trainer" / "facts.json").read_text()))
    except BoundaryError as error:
        raise CheckpointError(f"the checkpoint {folder} cannot be read: {error.reason}") from error


def latest(folder: Path) -> Path | None:
    """Give the newest whole checkpoint of a run, or None."""
    found = [path for path in folder.glob("step-*") if (path / "trainer" / "facts.json").is_file()]
    return max(found, default=None)


def _files(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """Give what each file of tensors holds."""

    def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(learner.ranks.gather({name: tensor.detach() for name, tensor in tensors.items()}))

    tied, first = learner.model.config.tie_word_embeddings, learner.ranks.rank == 0
    served = {n: t.contiguous() for n, t in learner.tensors() if first and not (tied and n == "lm_head.weight")}
    masters = gathered(learner.body.state(learner.updater.masters))
    files = {"model.safetensors": served, "trainer/master.safetensors": masters}
    if learner.critic:
        files["trainer/critic.safetensors"] = gathered(learner.critic.updater.masters)
    return files


def _describe_model(learner: Learner, folder: Path) -> None:
    config = learner.model.config.__class__.from_dict(learner.model.config.to_dict())
    config.dtype = learner.dtype
    config.use_cache = True
    config.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (learner.folder / name).is_file():
            shutil.copy2(learner.folder / name, folder / name)
