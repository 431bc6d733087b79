"""Adapters: each kind trains, is merged exactly, leaves its base alone and comes back from disk."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from rlvr.errors import CheckpointError, LearnerError, ModelError
from rlvr.learner.adapter import (
    AdapterSettings,
    after_optimizer_step,
    attach,
    before_optimizer_step,
    load_quantized,
    nf4_image,
    parameter_groups,
    reference_disabled,
)
from rlvr.learner.adapter_tensors import (
    MERGED_ONLY,
    adapter_state,
    load_adapter_state,
    save_adapter,
    served_tensors,
)
from rlvr.learner.model import load_model

# peft and a hundred small trainings: more than the minute of the unit tests has room for
pytestmark = pytest.mark.integration

KINDS = ("lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora")
TOKENS = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
SIDES = 2 * (128 + 128 + 96 + 96 + 160 * 3)  # rows and columns of all linear layers of a tiny model, added up
RATES = {"adalora": 3e-2, "vera": 3e-2}  # these two begin with next to nothing in the product


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what is computed here is too small to share
    yield
    torch.set_num_threads(threads)


FEW = ("q_proj", "down_proj")  # targets, where all would only take longer


def settings_of(kind: str, **changes: Any) -> AdapterSettings:
    usual = {"kind": kind, "rank": 4, "alpha": 8.0, "lora_plus_ratio": 4.0, "total_steps": 20}
    return AdapterSettings(**usual | changes)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def train(model: PeftModel, settings: AdapterSettings, *, steps: int = 20, first: int = 1) -> list[float]:
    """Take AdamW steps on a fixed batch of random tokens, as a learner would; give the losses before each."""
    rate = RATES.get(settings.kind, 3e-3)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings, learning_rate=rate), weight_decay=0.0)
    losses = []
    for step in range(first, first + steps):
        loss = model(input_ids=TOKENS, labels=TOKENS).loss if settings.kind != "adalora" else plain_loss(model)
        loss.backward()
        before_optimizer_step(model)
        optimizer.step()
        after_optimizer_step(model, step)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def plain_loss(model: PeftModel) -> Tensor:
    """Give the loss without the regulariser that peft's own forward adds for AdaLoRA."""
    return model.get_base_model()(input_ids=TOKENS, labels=TOKENS).loss


@pytest.mark.parametrize(("kind", "tied"), [*((kind, True) for kind in KINDS), ("lora", False)])
def test_a_kind_trains_and_is_served_as_it_computes(
    kind: str, tied: bool, tied_model: Path, untied_model: Path
) -> None:
    folder = tied_model if tied else untied_model
    original, settings = load_model(folder), settings_of(kind)
    before = logits(original)
    model = attach(load_model(folder), settings)
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    if kind != "loftq":  # LoftQ alone starts away from the model
        torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=0)
    losses = train(model, settings)
    assert losses[-1] < losses[0] - 0.2
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)
    with reference_disabled(model):
        assert torch.equal(logits(model), before)
    after = logits(model)
    assert (after - before).abs().max() > 0.05
    served = dict(served_tensors(model))
    assert served.keys() == original.state_dict().keys() | {"lm_head.weight"}
    assert {tensor.dtype for tensor in served.values()} == {torch.float32}
    assert torch.equal(logits(model), after)  # merging leaves the model alone
    original.load_state_dict(served)
    torch.testing.assert_close(logits(original.double()), logits(model.double()), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # peft reads them as LoRA's too
@pytest.mark.parametrize("kind", KINDS)
def test_peft_loads_what_was_saved_on_the_original_model(kind: str, tied_model: Path, tmp_path: Path) -> None:
    settings = settings_of(kind, targets=FEW)
    model = attach(load_model(tied_model), settings)
    train(model, settings, steps=16)  # past the last cut of AdaLoRA's ranks, at 15
    if kind in MERGED_ONLY:
        with pytest.raises(LearnerError, match="fits only its own quantised base; save the merged model"):
            save_adapter(model, tmp_path)
        assert not list(tmp_path.iterdir())
        return
    save_adapter(model, tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    loaded = PeftModel.from_pretrained(load_model(tied_model), tmp_path)
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_adapter_goes_on_as_if_it_had_not_stopped(kind: str, tied_model: Path) -> None:
    settings = settings_of(kind, targets=FEW)
    model = attach(load_model(tied_model), settings)
    train(model, settings, steps=6)
    resumed = attach(load_model(tied_model), settings_of(kind, targets=FEW, seed=1))
    load_adapter_state(resumed, copy.deepcopy(adapter_state(model)))
    assert torch.equal(logits(resumed), logits(model))
    assert train(resumed, settings, steps=4, first=7) == train(model, settings, steps=4, first=7)
    assert torch.equal(logits(resumed), logits(model))


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_base_gets_a_float32_adapter(kind: str, tied_model: Path) -> None:
    before = logits(load_model(tied_model, dtype=torch.bfloat16))
    settings = settings_of(kind, targets=FEW)
    model = attach(load_model(tied_model, dtype=torch.bfloat16), settings)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for n, p in model.named_parameters() if n in trained} == {torch.float32}
    assert not any("ranknum" in name or "initial" in name for name in trained)
    losses = train(model, settings, steps=10)
    assert losses[-1] < losses[0]
    with reference_disabled(model):
        assert torch.equal(logits(model), before)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trained
    plain = load_model(tied_model, dtype=torch.float32)
    plain.load_state_dict(dict(served_tensors(model)))
    torch.testing.assert_close(logits(plain).softmax(-1), logits(model).float().softmax(-1), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("lora", 4 * SIDES),
        ("dora", 4 * SIDES + 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64)),  # a magnitude per row
        ("vera", 14 * 4 + 2 * (64 + 32 + 32 + 64 + 96 + 96 + 64)),  # rank and rows
        ("pissa", 4 * SIDES),
        ("adalora", 4 * SIDES + 14 * 4),  # a singular value per rank
    ],
)
def test_what_is_trained_is_counted(kind: str, count: int, untied_model: Path) -> None:
    settings = settings_of(kind)
    (group,) = parameter_groups(attach(load_model(untied_model), settings), settings, learning_rate=1e-4)
    assert sum(p.numel() for p in group["params"]) == count
    assert group["lr"] == 1e-4


def test_lora_plus_trains_b_faster(tied_model: Path) -> None:
    settings = settings_of("lora+", lora_plus_ratio=8.0, targets=("q_proj", "mlp.down_proj"))
    slow, fast = parameter_groups(attach(load_model(tied_model), settings), settings, learning_rate=1e-3)
    assert [(g["lr"], len(g["params"])) for g in (slow, fast)] == [(1e-3, 4), (8e-3, 4)]
    assert sorted({tuple(p.shape) for p in fast["params"]}) == [(64, 4)]  # B: rows by rank
    assert not any(p.any() for p in fast["params"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats(kind: str, tied_model: Path) -> None:
    def start(seed: int) -> dict[str, Tensor]:
        return adapter_state(attach(load_model(tied_model), settings_of(kind, targets=FEW, seed=seed)))

    state = torch.random.get_rng_state()
    first, again, other = start(3), start(3), start(4)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    if kind not in ("pissa", "loftq"):  # whose start the weights decide
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_scale_of_an_adapter_is_alpha_over_the_rank_or_its_root(tied_model: Path) -> None:
    for kind, scale in (("lora", 2.0), ("rslora", 4.0)):
        model = attach(load_model(tied_model), settings_of(kind))
        layer = model.get_base_model().model.layers[0].self_attn.q_proj
        torch.nn.init.normal_(layer.lora_B["default"].weight)
        weight = dict(served_tensors(model))["model.layers.0.self_attn.q_proj.weight"]
        product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(weight - layer.base_layer.weight, scale * product)


def test_pissa_starts_from_the_principal_part(tied_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = attach(load_model(tied_model), settings_of("pissa"))
    theirs = get_peft_model(
        load_model(tied_model), LoraConfig(r=4, lora_alpha=8, init_lora_weights="pissa", target_modules=["up_proj"])
    )
    ours, peer = (m.get_base_model().model.layers[1].mlp.up_proj for m in (model, theirs))
    residual = (ours.base_layer.weight - 2.0 * ours.lora_B["default"].weight @ ours.lora_A["default"].weight).detach()
    assert float(residual.norm()) == pytest.approx(float(peer.base_layer.weight.norm()), rel=1e-6)
    assert float(residual.norm()) < 0.95 * float(ours.base_layer.weight.norm())
    assert torch.equal(dict(served_tensors(model))["model.layers.1.mlp.up_proj.weight"], ours.base_layer.weight)
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)


def test_loftq_starts_nearer_than_its_quantised_base(tied_model: Path) -> None:
    model = attach(load_model(tied_model), settings_of("loftq", rank=16, targets=("gate_proj",)))
    layer = model.get_base_model().model.layers[0].mlp.gate_proj
    original, base = layer.original_weight, layer.base_layer.weight
    served = dict(served_tensors(model))["model.layers.0.mlp.gate_proj.weight"]
    assert 0 < (original - served).norm() < 0.8 * (original - base).norm()
    assert torch.equal(base, nf4_image(original))


def test_four_bits_round_to_the_nearest_of_sixteen_levels_per_block() -> None:
    block = torch.linspace(-3, 3, 64)
    image = nf4_image(torch.cat([block, 10 * block, torch.zeros(64), torch.tensor([0.5])])[None])[0]
    assert len(image[:64].unique()) == 16
    assert (image[0], image[63], image[64], image[-1]) == (-3, 3, -30, 0.5)  # the extremes are exact
    assert not image[128:192].any()
    gap = 3 * 0.3038  # the widest, between -1 and -0.6962
    assert (image[:64] - block).abs().max() <= gap / 2
    torch.testing.assert_close(image[64:128], 10 * image[:64])


def test_adalora_cuts_its_ranks_to_the_schedule(tied_model: Path, tmp_path: Path) -> None:
    settings = settings_of("adalora", target_rank=1)
    model = attach(load_model(tied_model), settings)
    alive = []
    optimizer = torch.optim.AdamW(parameter_groups(model, settings, learning_rate=5e-3))
    for step in range(1, 21):
        plain_loss(model).backward()
        before_optimizer_step(model)
        optimizer.step()
        after_optimizer_step(model, step)
        optimizer.zero_grad()
        alive.append(sum(int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n))
    assert alive[:2] == [14 * 4] * 2  # a tenth of the run at full rank
    assert alive[2:14] == sorted(alive[2:14], reverse=True)
    assert alive[14:] == [14] * 6
    save_adapter(model, tmp_path)
    rows = [t.shape[0] for n, t in load_file(tmp_path / "adapter_model.safetensors").items() if "lora_A" in n]
    assert (len(rows), sum(rows)) == (14, 14)


def test_the_regulariser_is_peft_s(tied_model: Path) -> None:
    model = attach(load_model(tied_model), settings_of("adalora"))
    before_optimizer_step(model)
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    theirs = model(input_ids=TOKENS, labels=TOKENS).loss - plain_loss(model)
    theirs.backward()
    assert len(got) == 28
    for name, parameter in model.named_parameters():
        if name in got:
            torch.testing.assert_close(got[name], parameter.grad, atol=1e-6, rtol=1e-4)
    plain = attach(load_model(tied_model), settings_of("lora"))
    before_optimizer_step(plain)
    assert all(p.grad is None for p in plain.parameters()), "of another kind there is none"


def test_the_reference_can_be_asked_between_forward_and_backward(tied_model: Path) -> None:
    grads = []
    for ask in (False, True):
        model = attach(load_model(tied_model), settings_of("pissa"))
        loss = plain_loss(model)
        if ask:
            with reference_disabled(model):
                logits(model)
        loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(a.any() and torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_checkpointing_without_reentry_gives_a_frozen_base_s_gradients(tied_model: Path) -> None:
    grads = []
    for checkpointing in (False, True):
        model = attach(load_model(tied_model), settings_of("pissa")).train()
        if checkpointing:
            model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        plain_loss(model).backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, saved in zip(*grads, strict=True):
        assert plain.any()
        torch.testing.assert_close(plain, saved)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"kind": "lora", "targets": ("q_prj",)},
            "adapter.targets: 'q_prj' matches no linear layer below the output head; there is q_proj",
        ),
        ({"kind": "lora", "targets": ("q_proj", "lm_head")}, "'lm_head' matches no linear layer below the output head"),
        ({"kind": "vera", "targets": ("layernorm",)}, "'layernorm' matches no linear layer below the output head"),
        (
            {"kind": "dora", "rank": 48},
            "adapter.rank 48 exceeds the shorter side of model.layers.0.self_attn.k_proj: take at most 32",
        ),
        ({"kind": "qlora"}, 'adapter.kind "qlora" needs a model in 4 bits; for another take "lora"'),
    ],
)
def test_a_wrong_adapter_is_one_sentence(settings: dict[str, Any], sentence: str, untied_model: Path) -> None:
    model = load_model(untied_model)
    with pytest.raises(ModelError) as caught:
        attach(model, AdapterSettings(**settings))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(p.requires_grad for p in model.parameters())  # nothing was touched


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "lora", "rank": 0}, "rank of at least 1"),
        ({"kind": "lora", "targets": ()}, "and a target"),
        ({"kind": "adalora"}, "adalora needs total_steps, at least 2"),
        ({"kind": "adalora", "total_steps": 9, "target_rank": 16}, "target_rank 16 must lie between 1 and rank 16"),
        ({"kind": "adalora", "total_steps": 9, "rank": 1}, "target_rank 0 must lie between 1"),
    ],
)
def test_settings_that_cannot_stand_together_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        AdapterSettings(**settings)


def test_vera_may_be_wider_than_a_matrix(tied_model: Path) -> None:
    settings = settings_of("vera", rank=128)
    model = attach(load_model(tied_model), settings)
    losses = train(model, settings, steps=5)
    assert losses[-1] < losses[0]


def test_the_state_of_another_adapter_is_refused(tied_model: Path) -> None:
    model = attach(load_model(tied_model), settings_of("lora"))
    before = logits(model)
    for changes in ({"rank": 8}, {"targets": ("q_proj",)}):
        other = adapter_state(attach(load_model(tied_model), settings_of("lora", **changes)))
        with pytest.raises(CheckpointError, match="adapter is not the one configured: base_model"):
            load_adapter_state(model, other)
    assert torch.equal(logits(model), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU this loads the model")
def test_qlora_without_a_gpu_says_so(tied_model: Path) -> None:
    with pytest.raises(
        ModelError, match='"qlora" needs a CUDA GPU and the package bitsandbytes; elsewhere take "lora"'
    ):
        load_quantized(tied_model)


def test_the_settings_need_no_torch() -> None:
    code = "import sys, rlvr.learner.adapter as a; a.AdapterSettings(kind='lora'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
