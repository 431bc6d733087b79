"""Attention in forests against attention on each sequence alone."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_groups
from torch.nn import functional

from rlvr.core.packing import pack
from rlvr.errors import ModelError
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.attention import Forest, RaggedForest, attend
from rlvr.learner.body import Body, plain_sample
from rlvr.learner.model import load_model
from rlvr.learner.step import Learner

STREAMS = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 5], [1, 2, 3, 4, 5, 7, 8], [2, 2], [1, 2, 3, 4, 5, 6])
QUERY_HEADS, KEY_HEADS, SIZE = 4, 2, 8


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_ends: torch.Tensor, key_ends: torch.Tensor,
    longest_query: int, longest_key: int, *, softmax_scale: float, causal: bool,
) -> torch.Tensor:  # fmt: skip
    """Do as flash_attn_varlen_func documents: the last query sees the last key, each one before it one key less."""
    assert causal
    assert query_ends.dtype == key_ends.dtype == torch.int32
    found, shared = [], query.shape[1] // key.shape[1]
    for a, b, c, d in zip(query_ends, query_ends[1:], key_ends, key_ends[1:], strict=False):
        assert b - a <= longest_query
        assert d - c <= longest_key
        asked, known, held = query[a:b], key[c:d].repeat_interleave(shared, 1), value[c:d].repeat_interleave(shared, 1)
        scores = softmax_scale * torch.einsum("qhd,khd->hqk", asked, known)
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool).triu(int(d - c) - int(b - a) + 1)
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), held))
    return torch.cat(found)


@pytest.mark.parametrize("chunk", [1, 3, 5, 64, None], ids=lambda chunk: f"rows of {chunk}" if chunk else "flash")
def test_values_and_gradients_equal_those_of_each_sequence_alone(chunk: int | None) -> None:
    samples = [plain_sample(np.array(ids[:1]), np.array(ids[1:])) for ids in STREAMS]
    (batch,) = pack(samples, max_tokens=100)
    device = torch.device("cpu")
    forest = (
        Forest.of(batch, device=device, dtype=torch.float64, shared=QUERY_HEADS // KEY_HEADS, chunk=chunk)
        if chunk
        else RaggedForest.of(batch, device=device, flash=flash)
    )
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, len(batch.token_ids), SIZE) for heads in (QUERY_HEADS, KEY_HEADS, KEY_HEADS)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    found, _ = attend(None, *tensors, None, scaling=0.3, forest=forest)
    pull = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    expected = torch.zeros_like(found)
    for node in range(len(batch.token_ids)):
        path, above = [node], node
        while (above := int(batch.parents[above])) >= 0:
            path.insert(0, above)
        query, key, value = (t[:, :, path] for t in tensors)
        key, value = (t.repeat_interleave(QUERY_HEADS // KEY_HEADS, dim=1) for t in (key, value))
        out = functional.softmax(0.3 * query[:, :, -1:] @ key.transpose(-1, -2), dim=-1) @ value
        expected[:, node] = out[:, :, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    theirs = torch.autograd.grad((pull * expected).sum(), tensors)
    for ours, other in zip(torch.autograd.grad((pull * found).sum(), tensors), theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


def tiny(kind: str, folder: Path, **settings: object) -> Path:
    """Write a tiny random model of another family."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=0, **settings,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral"])
def test_other_families_take_forests_too(kind: str, tmp_path: Path) -> None:
    folder = tiny(kind, tmp_path, **({"sliding_window": None} if kind == "Mistral" else {}))
    Body(load_model(folder)).check(folder)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("Mistral", {"sliding_window": 2}, "attends within 2 tokens only, and a sequence has 7"),
        ("Gemma2", {"attn_logit_softcapping": 5.0}, "soft cap or sinks"),
        ("Gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": 0.05}, "does more to its logits"),
    ],
)
def test_a_model_that_needs_more_is_refused(kind: str, settings: dict, said: str, tmp_path: Path) -> None:
    folder = tiny(kind, tmp_path, **settings)
    with pytest.raises(ModelError, match=said):
        Body(load_model(folder)).check(folder)


@pytest.mark.parametrize("way", ["recompute_layers", pytest.param("compile_layers", marks=pytest.mark.slow)])
def test_other_ways_to_compute_give_the_same_gradients(way: str, tied_model: Path) -> None:
    samples = [plain_sample(np.array(ids[:1]), np.array(ids[1:])) for ids in STREAMS]
    (batch,) = pack(samples, max_tokens=100)
    slopes = []
    for other in (False, True):
        body = Body(load_model(tied_model))
        if other:
            getattr(body, way)()
        body.logprobs(batch)[0].sum().backward()
        slopes.append({name: p.grad for name, p in body.model.named_parameters()})
    assert slopes[0].keys() == slopes[1].keys()
    for name, slope in slopes[0].items():
        assert float((slopes[1][name] - slope).norm()) <= 1e-5 * float(slope.norm()), name


@pytest.mark.integration
def test_layers_are_compiled_and_computed_again_at_once(tied_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    # what is asked of the compiler, without the time that it takes to write code
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    groups, kept, slopes = random_groups(groups=1), [], []
    for both in (False, True):
        reset()
        counters.clear()
        learner = Learner(
            tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="float32", compile=both,
            gradient_checkpointing=both,
        )  # fmt: skip
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            samples = [plain_sample(r.prompt_ids, r.token_ids) for r in groups[0].rollouts]
            loss = sum(learner.body.logprobs(batch)[0].sum() for batch in learner.microbatches(samples))
        loss.backward()  # type: ignore[union-attr]
        kept.append(sum(sizes))
        slopes.append({name: p.grad for name, p in learner.model.named_parameters()})
        assert (counters["stats"]["unique_graphs"] > 0) == both
        assert (counters["frames"]["ok"] > 0) == both
    assert kept[1] < 0.5 * kept[0], "activations within layers are not kept"
    for name, slope in slopes[0].items():
        assert float((slopes[1][name] - slope).norm()) <= 1e-5 * float(slope.norm()), name


def test_a_window_shorter_than_the_longest_sequence_is_refused_at_start(tmp_path: Path) -> None:
    folder = tiny("Mistral", tmp_path, sliding_window=16)
    body = Body(load_model(folder))
    body.check_window(folder, max_length=16)
    with pytest.raises(ModelError, match=r"attends within 16 tokens only, and rollout.max_model_len = 17 lets a"):
        Learner(folder, Algorithm(), tokens_per_microbatch=64, threads=1, max_length=17)
    body.model.config.layer_types = ["full_attention"] * 2
    body.check_window(folder, max_length=17)
