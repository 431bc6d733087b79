"""Between messages and token ids, with the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import BoundaryError, ModelError, boundary
from rlvr.types import Message

__all__ = ["Renderer"]

_MARK = "<<reply>>"


class Renderer:
    """Renders conversations; keeps what was sampled to the token."""

    def __init__(self, folder: Path | str) -> None:
        from transformers import AutoTokenizer

        try:
            with boundary("tokenizer"):
                self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except BoundaryError as error:
            raise ModelError(f"no tokenizer can be loaded from {folder}: {error.reason}") from error
        if not self._tokenizer.chat_template:
            raise ModelError(f"the tokenizer in {folder} has no chat template; use an instruction-tuned model")

    def prompt(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Give the token ids [P] of a conversation that the model is to continue."""
        return self._encode(self._text(messages, open_reply=True))

    def between(self, before: Sequence[Message], after: Sequence[Message], *, ended: bool) -> NDArray[np.int32]:
        """Give the token ids that lead from the end of `before`'s last reply to the start of the next one.

        `ended` tells whether the reply's own end token was sampled, and so need not be written again.
        """
        # a mark stands for the reply, which may be empty, be found twice, or be trimmed by the template
        marked = [*before[:-1], Message(role=before[-1]["role"], content=_MARK)]
        start = self._text(marked, open_reply=False)
        whole = self._text([*marked, *after], open_reply=True)
        if _MARK not in start or not whole.startswith(start):
            raise ModelError(
                "the chat template rewrites earlier turns, so a conversation of several turns is not possible"
            )
        closing = start[start.rindex(_MARK) + len(_MARK) :]
        end = self._tokenizer.eos_token or ""
        gap = closing.removeprefix(end) if ended else closing
        return self._encode(gap + whole[len(start) :])

    def reply(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Give the token ids [T] of a conversation's last message as the model would sample them, end token included.

        Errors: ModelError where the chat template does not say what ends a reply.
        """
        *before, last = messages
        text = self._text([*before, Message(role=last["role"], content=_MARK)], open_reply=False)
        closing = self._encode(text[text.rindex(_MARK) + len(_MARK) :] if _MARK in text else "")
        special = np.flatnonzero(np.isin(closing, self._tokenizer.all_special_ids))
        if not len(special):
            raise ModelError("the chat template ends no reply with a special token, so that none can be demonstrated")
        return np.concatenate([self._encode(last["content"]), closing[special[0] : special[0] + 1]])

    def decode(self, token_ids: NDArray[np.int32]) -> str:
        """Give the text of a reply without special tokens."""
        return str(self._tokenizer.decode(token_ids.tolist(), skip_special_tokens=True))

    def _text(self, messages: Sequence[Message], *, open_reply: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=open_reply, tokenize=False)
        )

    def _encode(self, text: str) -> NDArray[np.int32]:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False), dtype=np.int32)
