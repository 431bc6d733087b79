"""Write the tables of three pages of docs/ from the code: `python docs/make_tables.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlvr.config import EFFECTS, PlugIn, Recipe
from rlvr.observe.metrics import METRICS
from rlvr.presets import PRESETS, Preset

DOCS = Path(__file__).resolve().parent

# What rlvr/config/ does not say of its keys. A key that has a description there must not stand here.
MEANINGS = {
    "name": "the run's name, and its folder under `runs/`",
    "steps": "optimizer steps",
    "seed": "of task order and sampling",
    "environment.name": "a name that `rlvr plugins` lists, or `module:attr`",
    "reward.name": "a name that `rlvr plugins` lists, or `module:attr`",
    "reward.weight": "share of this reward in the score",
    "payoff.correct": "value of a CORRECT reply",
    "payoff.abstained": "value of an ABSTAINED reply",
    "payoff.wrong": "value of a WRONG reply",
    "rollout.prompts_per_step": "tasks in a step",
    "rollout.group_size": "replies to each task",
    "rollout.max_new_tokens": "budget of a reply, tokens, over all turns",
    "rollout.temperature": "of sampling; evaluation is greedy",
    "rollout.workers": "rollout workers, each with an engine of its own",
    "rollout.grading_processes": "grading processes of each worker",
    "rollout.grading_memory_mb": "what grading one reply may map beyond an idle process, MiB",
    "algorithm.preset": "a published algorithm, see [algorithms.md](algorithms.md)",
    "algorithm.baseline": "what a value is compared with: its group's mean, that of the others, nothing, or a critic",
    "algorithm.advantage_scale": "`std`: divide by the group's deviation; `batch`: centre and divide over all tokens",
    "algorithm.advantage_ddof": "of that deviation: divide by n (0) or n - 1 (1)",
    "algorithm.advantage_eps": "added to that deviation",
    "algorithm.discount": "of rewards, by token",
    "algorithm.decay": "lambda of the policy's generalized advantage estimation",
    "algorithm.critic_decay": "lambda of the critic's targets",
    "algorithm.decay_length_factor": "alpha of VAPO: lambda is 1 - 1 / (alpha x length), in the place of `decay`",
    "algorithm.loss": "PPO's clip; one ratio for a reply (GSPO); clipped weights (CISPO); or none of these",
    "algorithm.clip_low": "ratios below 1 - this are clipped; 1: none",
    "algorithm.clip_high": "ratios above 1 + this are clipped",
    "algorithm.clip_dual": "bound on the loss of a bad reply, in advantages (dual clip)",
    "algorithm.loss_per": "what the loss is averaged over: tokens of the step; sequences; or a constant length",
    "algorithm.loss_constant": "that length, in tokens; none: rollout.max_new_tokens",
    "algorithm.kl": "where the divergence from the model before training counts: nowhere, in the loss, in the reward",
    "algorithm.kl_coefficient": "its weight",
    "algorithm.kl_estimator": "-log r; half its square; r - 1 - log r (r: reference / policy)",
    "algorithm.entropy_bonus": "weight of the entropy in the loss",
    "algorithm.positive_nll": "weight of the likelihood of CORRECT replies in the loss (VAPO)",
    "algorithm.old_logprobs": "what ratios are taken against: the engine's, or the learner's before its first update",
    "algorithm.correction": "weights for the gap between engine and learner: truncated by token or by reply, or masks",
    "algorithm.correction_cap": "largest weight",
    "algorithm.correction_low": "a smaller ratio is masked",
    "algorithm.correction_high": "a larger ratio is masked",
    "algorithm.minibatches": "parts of a step, with an optimizer update each",
    "algorithm.epochs": "passes over a step",
    "algorithm.learning_rate": "of AdamW, after the warm-up",
    "algorithm.warmup_steps": "steps over which the learning rate grows linearly",
    "algorithm.weight_decay": "of AdamW",
    "algorithm.beta1": "of AdamW",
    "algorithm.beta2": "of AdamW",
    "algorithm.adam_eps": "of AdamW",
    "algorithm.max_grad_norm": "a longer gradient is scaled down to this norm",
    "critic.learning_rate": "of the critic",
    "adapter.rank": "of each adapter; AdaLoRA starts with it",
    "sft.epochs": "passes over the demonstrations",
    "sft.learning_rate": "of AdamW, after the warm-up",
    "sft.warmup_steps": "steps over which the learning rate grows linearly",
    "weights.transport": "`shm` is shared memory of one host, `disk` a folder that all hosts share, `tcp` for hosts "
    "that share none; `ipc` and `nccl` need a GPU; auto is `shm`, with `hardware.ray_address` `tcp`, on a GPU `ipc` "
    "or `nccl`",
    "weights.deadline_s": "for each part of a push, seconds",
    "hardware.kind": "what engines and learner run on",
    "hardware.tokens_per_microbatch": "longest micro-batch of the learner, tokens; less memory if smaller",
    "eval.tasks": "held-out tasks",
    "checkpoint.keep": "checkpoints that stay",
    "track.wandb": "Weights & Biases; offline without a key",
    "track.trackio": "Trackio, in the run directory",
    "track.tensorboard": "TensorBoard files in the run directory",
}


def recipe_tables() -> str:
    """Give a heading and a table for the top level of a recipe and for each section."""
    top = {name: field for name, field in Recipe.model_fields.items() if _section(field) is None}
    parts = ["## Top level\n\n" + _table([_row("", name, field) for name, field in top.items()])]
    for name, field in Recipe.model_fields.items():
        section = _section(field)
        if section is not None:
            rows = [_row(name, key, inner) for key, inner in section.model_fields.items()]
            heading = f"[[{name}]]" if _repeated(field) else f"[{name}]"
            plug_in = issubclass(section, PlugIn)
            more = "\n\nEvery other key is an option of the plug-in itself." if plug_in else ""
            optional = "" if plug_in or field.is_required() or field.default is not None else " Optional."
            said = "" if plug_in else f"{_first_line(section)}{optional}\n\n"
            parts.append(f"## {heading}\n\n{said}{_table(rows)}{more}")
    return "\n\n".join(parts)


COMMON = ("baseline", "advantage_scale", "loss", "clip_low", "clip_high", "loss_per", "kl")


def algorithm_tables() -> str:
    """Give what each preset sets, what it follows, and which keys have an effect under which choice."""
    head = [f"| preset | {' | '.join(f'`{key}`' for key in COMMON)} | further keys |", "|---" * (len(COMMON) + 2) + "|"]
    rows = [_preset_row(name, preset) for name, preset in PRESETS.items()]
    papers = [
        f"- `{name}`: {p.paper}. Defined by {', '.join(f'`{key}`' for key in p.defining)}. {p.note}"
        for name, p in PRESETS.items()
    ]
    effects = ["| key | has an effect only with |", "|---|---|"]
    effects += [f"| {', '.join(f'`{key}`' for key in effect.keys)} | {_cell(effect.needs)} |" for effect in EFFECTS]
    parts = ("## What each preset sets", "\n".join([*head, *rows]), "\n".join(papers), "## Keys that need others",
             "\n".join(effects))  # fmt: skip
    return "\n\n".join(parts)


def _preset_row(name: str, preset: Preset) -> str:
    common = [_toml(preset.algorithm[key]) if key in preset.algorithm else "" for key in COMMON]
    more = [
        f"{section}.{key} = {_toml(value)}" if section != "algorithm" else f"{key} = {_toml(value)}"
        for section, values in preset.sections().items()
        for key, value in values.items()
        if section != "algorithm" or key not in COMMON
    ]
    return f"| `{name}` | {' | '.join(common)} | {', '.join(f'`{one}`' for one in more)} |"


def metrics_table() -> str:
    """Give the table of what a line of metrics.jsonl holds."""
    rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in METRICS.items()]
    return "\n".join(["| name | meaning |", "|---|---|", *rows])


def recipe_keys() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key of a recipe by its dotted name."""
    for name, field in Recipe.model_fields.items():
        section = _section(field)
        if section is None:
            yield name, field
        else:
            yield from ((f"{name}.{key}", inner) for key, inner in section.model_fields.items())


def with_table(page: str, table: str) -> str:
    """Put a table between the marks of a page."""
    marked = re.compile(r"(?<=<!-- table:begin -->\n).*?(?=<!-- table:end -->)", re.DOTALL)
    return marked.sub(lambda _: f"\n{table}\n\n", page)


def main() -> None:
    """Write the pages anew."""
    tables = {"recipes.md": recipe_tables(), "run-directory.md": metrics_table(), "algorithms.md": algorithm_tables()}
    for name, table in tables.items():
        page = DOCS / name
        page.write_text(with_table(page.read_text(encoding="utf-8"), table), encoding="utf-8")


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Give the model of a section; None for a plain key."""
    candidates = [field.annotation, *get_args(field.annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _repeated(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _row(section: str, key: str, field: FieldInfo) -> str:
    dotted = f"{section}.{key}" if section else key
    meaning = field.description or MEANINGS[dotted]
    default = "required" if field.is_required() else "none" if field.default is None else f"`{_toml(field.default)}`"
    return f"| `{key}` | {_cell(_type(field))} | {default} | {_cell(meaning)} |"


def _table(rows: Sequence[str]) -> str:
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def _type(field: FieldInfo) -> str:
    """Say a key's type and bounds: "number above 0"."""
    name = _type_name(field.annotation)
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    bounds = [f"{words[k]} {v:g}" for m in _metadata(field) for k in words if (v := getattr(m, k, None)) is not None]
    return " ".join([name, *dict.fromkeys(bounds)])


def _metadata(field: FieldInfo) -> list[Any]:
    inner = [m for a in get_args(field.annotation) for m in getattr(a, "__metadata__", ())]
    return [*field.metadata, *inner]


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{_toml(value)}`" for value in get_args(annotation))
    if get_origin(annotation) in (UnionType, Union):
        return " or ".join(_type_name(a) for a in get_args(annotation) if a is not type(None))
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)
        return "list of texts" if inner[-1] is Ellipsis else f"list of {len(inner)} numbers"
    bare = getattr(annotation, "__origin__", annotation)
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[bare]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().partition("\n")[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
