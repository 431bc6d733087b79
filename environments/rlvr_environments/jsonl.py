"""Tasks from a file of questions and truths: GSM8K, MATH, question answering, code, or a user's own."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rlvr.types import Message, Task

__all__ = ["Jsonl"]


class Jsonl:
    """Ask each question of a JSONL file once, in an order that the seed shuffles.

    Args:
        path: a line each, an object with a question (text, or a list of messages) and a truth.
        eval_path: a file of held-out tasks; without it, `eval_share` of `path` is held out, decided by content alone.
        question: key of the question.
        truth: key of the truth.
        template: what the model is asked; "{question}" stands for the question.
        system: a system message before it.
        tag: key of a text that becomes the task's tag.
        eval_share: share of `path` that is held out where there is no `eval_path`.
    Errors: ValueError where the file or a line is not as described, or a split is empty.
    """

    def __init__(
        self,
        *,
        path: str,
        eval_path: str | None = None,
        question: str = "question",
        truth: str = "truth",
        template: str = "{question}",
        system: str | None = None,
        tag: str | None = None,
        eval_share: float = 0.1,
    ) -> None:
        if "{question}" not in template:
            raise ValueError(f'template must hold "{{question}}", not {template!r}')
        if not 0 < eval_share < 1:
            raise ValueError(f"eval_share must lie between 0 and 1, not {eval_share}")
        self._keys, self._template, self._system, self._tag = (question, truth), template, system, tag
        tasks = self._read(Path(path))
        held_out = self._read(Path(eval_path)) if eval_path else [t for t in tasks if _kept_out(t, eval_share)]
        known = {_asked(task) for task in held_out}
        self._splits = {"train": [task for task in tasks if _asked(task) not in known], "eval": held_out}
        for split, found in self._splits.items():
            if not found:
                raise ValueError(f"{path} leaves no task for the split {split!r}")

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Yield the tasks of a split once. Errors: ValueError for a split that is neither "train" nor "eval"."""
        if split not in self._splits:
            raise ValueError(f"jsonl has the splits train and eval, not {split!r}")
        tasks = list(self._splits[split])
        random.Random(f"{split}:{seed}").shuffle(tasks)
        return iter(tasks)

    def _read(self, path: Path) -> list[Task]:
        """Read a file; a task that stands there twice is one."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise ValueError(f"there is no file {path}") from error
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        lines = enumerate(text.split("\n"), start=1)
        tasks = [self._task(line, path, number) for number, line in lines if line.strip()]
        return list({task.id: task for task in tasks}.values())

    def _task(self, line: str, path: Path, number: int) -> Task:
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        missing = [key for key in self._keys if not isinstance(row, Mapping) or key not in row]
        if missing:
            raise ValueError(f"{where} has no {missing[0]!r}")
        question, truth = (row[key] for key in self._keys)
        messages = self._messages(question, where)
        identity = blake2b(json.dumps([messages, truth], sort_keys=True).encode(), digest_size=8).hexdigest()
        tags = (str(row[self._tag]),) if self._tag and self._tag in row else ()
        return Task(id=identity, messages=messages, truth=truth, source=path.stem, tags=tags)

    def _messages(self, question: Any, where: str) -> tuple[Message, ...]:
        before = (Message(role="system", content=self._system),) if self._system else ()
        if isinstance(question, str):
            return (*before, Message(role="user", content=self._template.replace("{question}", question)))
        if isinstance(question, list) and question and all(_is_message(one) for one in question):
            *earlier, last = (Message(role=one["role"], content=one["content"]) for one in question)
            if last["role"] in ("user", "tool"):
                asked = Message(role=last["role"], content=self._template.replace("{question}", last["content"]))
                return (*before, *earlier, asked)
        raise ValueError(f"{where}: {self._keys[0]!r} must be text, or messages that end with the user's")


def _is_message(one: Any) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(key), str) for key in ("role", "content"))


def _kept_out(task: Task, share: float) -> bool:
    """Tell whether a task is held out: decided by its question, never by a seed or its place in the file."""
    return int(_asked(task), 16) < share * 2**64


def _asked(task: Task) -> str:
    """Name what is asked: the same question with another truth may not stand in both splits."""
    return blake2b(json.dumps(task.messages).encode(), digest_size=8).hexdigest()
