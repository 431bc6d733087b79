"""Write the tables of docs/recipes.md and docs/run-directory.md from the code: `python docs/make_tables.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rlvr.config import PlugIn, Recipe
from rlvr.observe.metrics import METRICS

DOCS = Path(__file__).resolve().parent

# What rlvr/config.py does not say of its keys. A key that has a description there must not stand here.
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
    "algorithm.preset": "the estimator",
    "algorithm.advantage_scale": "divide a group's advantages by its standard deviation (`std`) or not (`none`)",
    "algorithm.advantage_ddof": "of that deviation: divide by G (0) or G - 1 (1)",
    "algorithm.advantage_eps": "added to that deviation",
    "algorithm.clip_low": "the surrogate clips ratios below 1 - this",
    "algorithm.clip_high": "the surrogate clips ratios above 1 + this",
    "algorithm.loss_per": "what the loss is averaged over: tokens of the step; sequences; or a constant length",
    "algorithm.learning_rate": "of AdamW, after the warm-up",
    "algorithm.warmup_steps": "steps over which the learning rate grows linearly",
    "algorithm.weight_decay": "of AdamW",
    "algorithm.beta1": "of AdamW",
    "algorithm.beta2": "of AdamW",
    "algorithm.max_grad_norm": "a longer gradient is scaled down to this norm",
    "weights.mode": "what is pushed: `full` is every tensor",
    "weights.transport": "`shm` is shared memory, for CPU; `ipc` and `nccl` need a GPU",
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
    """Write both pages anew."""
    for name, table in (("recipes.md", recipe_tables()), ("run-directory.md", metrics_table())):
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
        return _type_name(next(a for a in get_args(annotation) if a is not type(None)))
    if get_origin(annotation) is tuple:
        return f"list of {len(get_args(annotation))} numbers"
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
