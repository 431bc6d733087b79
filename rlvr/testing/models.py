"""A model of a few thousand parameters, in the layout of a real one."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["tiny_model"]


def tiny_model(folder: Path, *, tied: bool, seed: int = 0) -> Path:
    """Write a random Llama of some 80 000 float32 parameters in Hugging Face layout, with a tokenizer; give its folder.

    A token id below 256 is that byte; 256 begins a text, 257 and 258 (the end token) bracket a message, 259 pads.
    Heads are 32 wide, the least that vLLM's attention for CPUs takes.
    """
    import torch
    from safetensors.torch import save_file

    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32", "vocab_size": 260,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": tied,
        "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 259,
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (260, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (64 if name in "qo" else 32, 64) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}_proj.weight": (96, 64) for name in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (64, 96)
    if not tied:
        shapes["lm_head.weight"] = (260, 64)
    generator = torch.Generator().manual_seed(seed)
    # wide enough that the next-token distribution is far from uniform, so that a wrong mask or position shows
    weights = {name: 0.15 * torch.randn(shape, generator=generator) for name, shape in sorted(shapes.items())}
    weights = {name: 1.0 + weight if "norm" in name else weight for name, weight in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 256, "eos_token_id": 258}))
    _byte_tokenizer(folder)
    return folder


def _byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer without merges, whose ids are the bytes themselves, with four special tokens and a template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    # the byte-level alphabet shows a printable byte as itself and the others, in order, as the letters from 256 on
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte if byte in printable else 256 + hidden.index(byte)) for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(vocab={letter: byte for byte, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[2],
        "pad_token": special[3], "model_max_length": 1024, "clean_up_tokenization_spaces": False,
        "chat_template": "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
