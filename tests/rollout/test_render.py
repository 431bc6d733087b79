"""Between messages and token ids: a prompt is the template's, and turns join without a seam."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from rlvr.errors import ModelError
from rlvr.rollout.render import Renderer
from rlvr.types import Message, messages_of

END = 258
TRIMMING = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for message in messages %}{% if message['role'] != 'assistant' or loop.last %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = messages_of([("system", "Be brief."), ("user", "What is 1 + 1?")])


def with_template(folder: Path, to: Path, template: str) -> Path:
    shutil.copytree(folder, to)
    settings = json.loads((to / "tokenizer_config.json").read_text())
    (to / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    (to / "chat_template.jinja").unlink(missing_ok=True)
    return to


def joined(renderer: Renderer, before: tuple[Message, ...], reply: str, after: tuple[Message, ...], *,
           ended: bool) -> np.ndarray:  # fmt: skip
    """Give the tokens of a conversation as the runner makes them: prompt, sampled reply, what lies between."""
    sampled = [*reply.encode(), *([END] if ended else [])]
    said = (*before, *messages_of([("assistant", reply)]))
    return np.concatenate([renderer.prompt(before), sampled, renderer.between(said, after, ended=ended)])


def test_a_prompt_is_what_the_template_gives(tied_model: Path) -> None:
    ids = Renderer(tied_model).prompt(ASKED)
    assert ids.dtype == np.int32
    tokenizer = AutoTokenizer.from_pretrained(tied_model)
    whole = tokenizer.apply_chat_template(list(ASKED), add_generation_prompt=True, tokenize=True, return_dict=False)
    assert ids.tolist() == list(whole)
    assert ids.tolist()[:8] == [257, *b"system\n"]
    assert ids.tolist()[-11:] == [257, *b"assistant\n"]


def test_special_tokens_of_a_reply_are_not_read(tied_model: Path) -> None:
    renderer = Renderer(tied_model)
    assert renderer.decode(np.array([*"Answer: \u00e9".encode(), END], np.int32)) == "Answer: \u00e9"
    assert renderer.decode(np.array([END], np.int32)) == ""


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    "reply",
    ["2", "", " 2 \n", "1 + 1?", "What is 1 + 1?", "\u00fcber", "assistant\n", "two\n\nlines", "<|im_end", "\n"],
)
def test_turns_join_to_what_rendering_all_at_once_gives(tied_model: Path, reply: str, ended: bool) -> None:
    renderer = Renderer(tied_model)
    after = messages_of([("user", "And 2 + 2?")])
    whole = renderer.prompt((*ASKED, *messages_of([("assistant", reply)]), *after))
    assert joined(renderer, ASKED, reply, after, ended=ended).tolist() == whole.tolist()


def test_several_messages_and_several_turns_join_too(tied_model: Path) -> None:
    renderer = Renderer(tied_model)
    first = messages_of([("tool", "42"), ("user", "Go on.")])
    said = messages_of([("assistant", "one")])
    one = joined(renderer, ASKED, "one", first, ended=True)
    longer = (*ASKED, *said, *first)
    assert one.tolist() == renderer.prompt(longer).tolist()
    second = messages_of([("user", "More.")])
    two = joined(renderer, longer, "one", second, ended=True)
    assert two.tolist() == renderer.prompt((*longer, *said, *second)).tolist()


@pytest.mark.parametrize("reply", ["2", "  2\n", " ", ""])
def test_a_template_that_trims_replies_still_closes_them(tied_model: Path, tmp_path: Path, reply: str) -> None:
    """Llama 3's template trims contents. What was sampled stays as it was, and only the closing is written."""
    renderer = Renderer(with_template(tied_model, tmp_path / "trims", TRIMMING))
    said = (*ASKED, *messages_of([("assistant", reply)]))
    gap = renderer.between(said, messages_of([("user", "And?")]), ended=True)
    assert gap.tolist() == [10, 257, *b"user\nAnd?", END, 10, 257, *b"assistant\n"]


def test_a_template_that_drops_earlier_turns_is_refused(tied_model: Path, tmp_path: Path) -> None:
    renderer = Renderer(with_template(tied_model, tmp_path / "forgets", FORGETFUL))
    with pytest.raises(ModelError, match="the chat template rewrites earlier turns"):
        joined(renderer, ASKED, "2", messages_of([("user", "And?")]), ended=True)


@pytest.mark.parametrize("reply", ["2", " 2 \n", "\u00fcber", "1 <|im_end", "two\n\nlines"])
def test_a_demonstrated_reply_is_what_the_model_would_sample(tied_model: Path, reply: str) -> None:
    renderer = Renderer(tied_model)
    said = (*ASKED, *messages_of([("assistant", reply)]))
    ids = renderer.reply(said)
    assert ids.dtype == np.int32
    assert ids.tolist() == [*reply.encode(), END]
    # what was sampled so continues without a seam
    after = messages_of([("user", "And?")])
    whole = np.concatenate([renderer.prompt(ASKED), ids, renderer.between(said, after, ended=True)])
    assert whole.tolist() == renderer.prompt((*said, *after)).tolist()


def test_a_template_that_ends_no_reply_is_refused(tied_model: Path, tmp_path: Path) -> None:
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    renderer = Renderer(with_template(tied_model, tmp_path / "plain", plain))
    with pytest.raises(ModelError, match="ends no reply with a special token"):
        renderer.reply((*ASKED, *messages_of([("assistant", "2")])))


def test_a_folder_without_tokenizer_or_template_is_one_sentence(tied_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer can be loaded from"):
        Renderer(tmp_path)
    with pytest.raises(ModelError, match="has no chat template; use an instruction-tuned model"):
        Renderer(with_template(tied_model, tmp_path / "bare", ""))
