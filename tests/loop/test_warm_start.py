"""Demonstrations: where they come from, and what is said of bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from rlvr.config import Recipe
from rlvr.errors import ConfigError, PluginError
from rlvr.loop.stop import Stop
from rlvr.loop.warm_start import _check_held_out, demonstrations_of, sft_settings_of, warm_start
from rlvr.observe.metrics import read_lines
from rlvr.observe.progress import RunView
from rlvr.testing import task
from rlvr.types import Message, messages_of


def recipe(source: str | Path, **sft: Any) -> Recipe:
    plain: dict[str, Any] = {
        "name": "r", "steps": 4, "seed": 7, "model": {"path": "m"}, "environment": {"name": "e"},
        "reward": ({"name": "w"},), "sft": {"demonstrations": str(source)} | sft,
    }  # fmt: skip
    return Recipe.model_validate(plain)


class Shows:
    """An environment that shows what a test gives it."""

    def __init__(self, given: Iterable[Any]) -> None:
        self.given = given
        self.seeds: list[int] = []

    def demonstrations(self, *, seed: int) -> Iterable[Sequence[Message]]:
        self.seeds.append(seed)
        return iter(self.given)


ASKED = messages_of([("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2")])


def test_a_file_holds_conversations_or_pairs(tmp_path: Path) -> None:
    path = tmp_path / "shown.jsonl"
    path.write_text(
        json.dumps({"messages": ASKED, "id": 3}) + "\n\n" + json.dumps({"prompt": "1 + 2?", "reply": "3 \ud800"}) + "\n"
    )
    found = demonstrations_of(recipe(path), None)
    assert found == [
        (f"{path} line 1", ASKED),
        (f"{path} line 3", messages_of([("user", "1 + 2?"), ("assistant", "3 \ud800")])),
    ]


def test_an_environment_shows_its_own(tmp_path: Path) -> None:
    shows = Shows([ASKED, list(ASKED)])
    found = demonstrations_of(recipe("environment"), shows)
    assert found == [(f"environment 'e': demonstration {n}", ASKED) for n in (1, 2)]
    assert shows.seeds == [7]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is not JSON: "),
        ('{"messages": []}', "line 2 needs prompt and reply, or messages of role and content that end with the assis"),
        ("[1]", "line 2 needs"),
        ('{"prompt": "a"}', "line 2 needs"),
        ('{"prompt": "a", "reply": 3}', "line 2 needs"),
        ('{"prompt": "a", "reply": ""}', "line 2 needs"),
        ('{"messages": [{"role": "assistant", "content": "b"}]}', "line 2 needs"),
        ('{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]}', "line 2 needs"),
        ('{"messages": [{"role": "boss", "content": "b"}, {"role": "assistant", "content": "a"}]}', "line 2 needs"),
        ('{"messages": "ab"}', "line 2 needs"),
        ('{"messages": [{"role": ["user"], "content": "b"}, {"role": "assistant", "content": "a"}]}', "line 2 needs"),
    ],
)
def test_a_bad_line_is_one_sentence(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.jsonl"
    path.write_text('{"prompt": "a", "reply": "b"}\n' + line + "\n")
    with pytest.raises(ConfigError) as caught:
        demonstrations_of(recipe(path), None)
    assert str(caught.value).startswith(f"{path} {said}")
    assert "\n" not in str(caught.value)


def test_no_file_no_text_and_no_demonstration_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^sft.demonstrations: there is no file .*/missing$"):
        demonstrations_of(recipe(tmp_path / "missing"), None)
    with pytest.raises(ConfigError, match=r"^sft.demonstrations: .* cannot be read: Is a directory$"):
        demonstrations_of(recipe(tmp_path), None)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match=r"^sft.demonstrations: .*/empty holds no demonstration$"):
        demonstrations_of(recipe(tmp_path / "empty"), None)
    (tmp_path / "binary").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(ConfigError, match="binary line 1 is not JSON: "):
        demonstrations_of(recipe(tmp_path / "binary"), None)


def test_what_an_environment_does_wrong_is_one_sentence() -> None:
    with pytest.raises(PluginError, match="needs a method demonstrations, which environment 'e' has not; name a JSONL"):
        demonstrations_of(recipe("environment"), object())
    with pytest.raises(PluginError, match=r"^environment 'e': demonstration 2 must be messages of role and content"):
        demonstrations_of(recipe("environment"), Shows([ASKED, ASKED[:2]]))
    with pytest.raises(PluginError, match=r"^environment 'e': ZeroDivisionError"):
        demonstrations_of(recipe("environment"), Shows(1 / 0 for _ in range(1)))
    with pytest.raises(ConfigError, match="environment 'e' holds no demonstration"):
        demonstrations_of(recipe("environment"), Shows([]))


def test_the_recipe_says_how_they_are_learned() -> None:
    settings = sft_settings_of(recipe("environment", epochs=3, batch_size=4, learning_rate=1e-4, warmup_steps=2))
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (3, 4, 1e-4)
    assert (settings.warmup_steps, settings.seed) == (2, 7)


class Renders:
    """A cluster that renders to a given number of tokens, and learns."""

    def __init__(self, prompt: int, reply: int) -> None:
        self.sizes = prompt, reply

    def render_demonstrations(self, conversations: Sequence[Any]) -> list[Any]:
        return [tuple(np.arange(size) for size in self.sizes) for _ in conversations]

    def warm_start(self, demonstrations: Sequence[Any], settings: Any) -> Iterable[dict[str, float]]:
        yield from ({"update": n + 1, "loss": 1.0} for n in range(len(demonstrations)))


def stage(folder: Path, *, prompt: int = 2, reply: int = 2, held_out: str = "other", stop: Stop | None = None) -> bool:
    with (folder / "said").open("w") as file, RunView("r", steps=4, console=Console(file=file, width=300)) as view:
        return warm_start(
            recipe("environment", batch_size=1),
            environment=Shows([messages_of([("user", "1 + 1?"), ("assistant", "2")])] * 3),
            held_out=[task(held_out)], cluster=Renders(prompt, reply), log=folder / "sft.jsonl", view=view,
            stop=stop or Stop(),
        )  # fmt: skip


def test_a_stage_writes_a_line_an_update_and_starts_its_file_anew(tmp_path: Path) -> None:
    for _ in range(2):
        assert stage(tmp_path)
        assert [line["update"] for line in read_lines(tmp_path / "sft.jsonl")] == [1, 2, 3]
    assert "warm start on 3 demonstrations: 3 updates, loss 1.000 to 1.000" in (tmp_path / "said").read_text()


def test_a_stage_stops_after_the_update_under_way(tmp_path: Path) -> None:
    stop = Stop()
    stop.asked = True
    assert not stage(tmp_path, stop=stop)
    assert len(read_lines(tmp_path / "sft.jsonl")) == 1


def test_a_demonstration_that_the_engine_could_not_take_is_refused(tmp_path: Path) -> None:
    assert stage(tmp_path, prompt=500, reply=12)
    with pytest.raises(ConfigError, match=r"^environment 'e': demonstration 1 takes 513 tokens .*max_model_len is 512"):
        stage(tmp_path, prompt=500, reply=13)


def test_demonstrations_without_an_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.loop.warm_start.MOST_DEMONSTRATIONS", 3)
    assert len(demonstrations_of(recipe("environment"), Shows([ASKED] * 3))) == 3
    with pytest.raises(PluginError, match=r"^environment 'e': demonstrations gives more than 3, or never ends$"):
        demonstrations_of(recipe("environment"), Shows(repeat(ASKED)))


def test_the_order_of_keys_hides_no_held_out_task(tmp_path: Path) -> None:
    held_out = task("1 + 1?")
    turned = tuple(Message(content=one["content"], role=one["role"]) for one in held_out.messages)
    assert json.dumps(turned) != json.dumps(held_out.messages)
    path = tmp_path / "shown.jsonl"
    path.write_text(json.dumps({"prompt": "1 + 1?", "reply": "2"}) + "\n")
    found = demonstrations_of(recipe(path), None)
    for messages in (held_out.messages, turned):
        with pytest.raises(ConfigError, match="answers a held-out task"):
            _check_held_out(found, [replace(held_out, messages=messages)])


def test_a_demonstration_of_a_held_out_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^environment 'e': demonstration 1 answers a held-out task"):
        stage(tmp_path, held_out="1 + 1?")
    assert not (tmp_path / "sft.jsonl").exists()
