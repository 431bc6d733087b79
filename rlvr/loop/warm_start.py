"""The warm start of a run: where its demonstrations come from, and the stage itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.config import Recipe
from rlvr.errors import BoundaryError, ConfigError, NonFiniteError, PluginError, boundary
from rlvr.learner.sft import SftSettings, order_of, updates_of
from rlvr.loop.ledger import Place, RunDirectory
from rlvr.loop.results import evaluation, show
from rlvr.loop.stop import Interrupted, Stop
from rlvr.observe.metrics import append_line
from rlvr.observe.progress import RunView
from rlvr.types import MOST_DEMONSTRATIONS, Message, Task

if TYPE_CHECKING:
    from rlvr.loop.cluster import Cluster

__all__ = [
    "STOPPED_WITHIN",
    "after_warm_start",
    "demonstrations_of",
    "sft_settings_of",
    "warm_start",
    "warm_up",
]

ROLES = {"system", "user", "assistant", "tool"}
STOPPED_WITHIN = "the warm start stops after its update under way, and begins anew with --resume"
Conversation = tuple[Message, ...]


def warm_up(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, *, environment: Any, held_out: Sequence[Task], view: RunView,
    stop: Stop,
) -> None:  # fmt: skip
    """Fine-tune on demonstrations, bring the engines to the result as version 0, and save it. Errors: Interrupted."""
    whole = warm_start(
        recipe, environment=environment, held_out=held_out, cluster=cluster, log=run.path / "sft.jsonl", view=view,
        stop=stop,
    )  # fmt: skip
    if not whole:
        raise Interrupted("stopped within the warm start, which begins anew")
    stop.then = Stop.then
    cluster.publish(0)
    cluster.wait()
    run.save(cluster, recipe, step=0, place=Place())


def after_warm_start(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, *, held_out: Sequence[Task], view: RunView,
    before: list[Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Evaluate the model that reinforcement learning starts from, the reference of a KL; nothing without [sft]."""
    if recipe.sft is None:
        return []
    if recipe.algorithm.kl != "none":
        cluster.refer_to(run.checkpoint(0))
    path = run.path / "eval_after_sft.jsonl"
    if step and not path.exists():
        return []  # by now the weights are others
    lines = evaluation(path, cluster, held_out, reuse=True)
    show(view, "after the warm start", lines, recipe, before=before)
    return lines


def warm_start(
    recipe: Recipe, *, environment: Any, held_out: Sequence[Task], cluster: Any, log: Path, view: RunView, stop: Stop
) -> bool:
    """Fine-tune on the demonstrations, a line of `log` an update. Tell whether it went to its end, unless stopped.

    Errors: ConfigError, PluginError for bad demonstrations; LearnerError.
    """
    began = time.perf_counter()
    found = demonstrations_of(recipe, environment)
    _check_held_out(found, held_out)
    rendered = cluster.render_demonstrations([messages for _, messages in found])
    for (where, _), (prompt, reply) in zip(found, rendered, strict=True):
        if len(prompt) + len(reply) > recipe.rollout.max_model_len:
            raise ConfigError(
                f"{where} takes {len(prompt) + len(reply)} tokens with its prompt, and rollout.max_model_len is "
                f"{recipe.rollout.max_model_len}; raise it or leave that one out"
            )
    settings = sft_settings_of(recipe)
    updates = updates_of(len(found), settings)
    if settings.warmup_steps > updates:
        raise ConfigError(
            f"sft.warmup_steps = {settings.warmup_steps} is above the {updates} updates of the warm start, so that it "
            "never reaches its learning rate; lower it"
        )
    log.unlink(missing_ok=True)  # of a warm start that was stopped, and is done again from its start
    losses: list[float] = []
    try:
        for metrics in cluster.warm_start(rendered, settings):
            append_line(log, metrics)
            losses.append(metrics["loss"])
            view.working(f"warm start, update {len(losses)} of {updates}, loss {losses[-1]:.3f}")
            if stop.asked and len(losses) < updates:
                return False
            if len(losses) == updates - 1:
                stop.then = Stop.then  # the last update makes the stage whole
    except NonFiniteError as error:
        chosen = list(order_of(len(found), settings))[len(losses)][1]
        raise NonFiniteError(f"{error}: {_named([found[index][0] for index in chosen])}") from error
    seconds = time.perf_counter() - began
    view.phase(
        f"warm start on {len(found)} demonstrations: {len(losses)} updates, loss {losses[0]:.3f} to {losses[-1]:.3f}, "
        f"{seconds:.0f} s"
    )
    return True


def _named(places: Sequence[str]) -> str:
    """List the first few of an update's demonstrations."""
    more = f" and {len(places) - 4} others" if len(places) > 4 else ""
    return ", ".join(places[:4]) + more


def sft_settings_of(recipe: Recipe) -> SftSettings:
    """Give how demonstrations are learned."""
    if recipe.sft is None:
        raise ValueError("the recipe has no section [sft]")
    return SftSettings(**recipe.sft.model_dump(exclude={"demonstrations"}), seed=recipe.seed)


def demonstrations_of(recipe: Recipe, environment: Any) -> list[tuple[str, Conversation]]:
    """Read the demonstrations: each with words that say where it stands. Errors: ConfigError, PluginError."""
    source = recipe.sft.demonstrations if recipe.sft else ""
    if source == "environment":
        what = f"environment '{recipe.environment.name}'"
        found = list(_given(environment, what, seed=recipe.seed))
    else:
        what = source
        found = list(_read(Path(source)))
    if not found:
        raise ConfigError(f"sft.demonstrations: {what} holds no demonstration")
    return found


def _given(environment: Any, what: str, *, seed: int) -> Iterator[tuple[str, Conversation]]:
    method = getattr(environment, "demonstrations", None)
    if not callable(method):
        raise PluginError(
            f'sft.demonstrations = "environment" needs a method demonstrations, which {what} has not; name a JSONL file'
        )
    try:
        with boundary(what):
            found = [list(messages) for messages in islice(method(seed=seed), MOST_DEMONSTRATIONS + 1)]
    except BoundaryError as error:
        raise PluginError(str(error)) from error
    if len(found) > MOST_DEMONSTRATIONS:
        raise PluginError(f"{what}: demonstrations gives more than {MOST_DEMONSTRATIONS:,}, or never ends")
    for place, messages in enumerate(found, start=1):
        where = f"{what}: demonstration {place}"
        if not _is_conversation(messages):
            raise PluginError(f"{where} must be messages of role and content, both text, the last by the assistant")
        yield where, tuple(messages)


def _read(path: Path) -> Iterator[tuple[str, Conversation]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"sft.demonstrations: there is no file {path}") from error
    except OSError as error:
        raise ConfigError(f"sft.demonstrations: {path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:  # bad JSON or bad UTF-8
            raise ConfigError(f"{where} is not JSON: {error}") from error
        messages = _messages_of(value)
        if not _is_conversation(messages):
            raise ConfigError(
                f"{where} needs prompt and reply, or messages of role and content that end with the assistant's, "
                "all of them text that is not empty"
            )
        yield where, tuple(Message(role=one["role"], content=one["content"]) for one in messages)


def _messages_of(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    if set(value) >= {"prompt", "reply"}:
        return [{"role": "user", "content": value["prompt"]}, {"role": "assistant", "content": value["reply"]}]
    return value.get("messages")


def _is_conversation(messages: Any) -> bool:
    shaped = isinstance(messages, list | tuple) and all(map(_is_message, messages))
    return shaped and len(messages) > 1 and messages[-1]["role"] == "assistant"


def _is_message(one: Any) -> bool:
    texts = isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("role", "content"))
    return bool(texts and one["role"] in ROLES and one["content"])


def _check_held_out(found: Sequence[tuple[str, Conversation]], held_out: Sequence[Task]) -> None:
    """See that no demonstration answers what the evaluation asks."""
    questions = {_said(task.messages) for task in held_out}
    for where, messages in found:
        if _said(messages[:-1]) in questions:
            raise ConfigError(f"{where} answers a held-out task, so that evaluation would measure memory; leave it out")


def _said(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)
