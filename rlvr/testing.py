"""Contract suites and builders for authors of plug-ins. Nothing in the product needs them, `rlvr check` excepted."""

from __future__ import annotations

import asyncio
import importlib
import json
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import BoundaryError, boundary
from rlvr.rollout.engine import Completion, Sampling
from rlvr.types import (
    MOST_DEMONSTRATIONS,
    Environment,
    Grade,
    Manifest,
    Message,
    Reward,
    Rollout,
    Span,
    Stop,
    Task,
    Ungraded,
    Verdict,
    messages_of,
)

__all__ = [
    "JUNK",
    "FakeEngine",
    "FakeLearner",
    "check_environment",
    "check_reward",
    "fake_digest",
    "fake_logprobs",
    "fake_scores",
    "rollout",
    "task",
    "tiny_model",
]

JUNK = (
    "\x00",
    "\N{OBJECT REPLACEMENT CHARACTER}\N{GRINNING FACE}\u202e",
    "\ud800",
    "}" * 50 + "\\boxed{" * 50,
    "Answer: " * 200,
    "( " * 2000,
    "9" * 20000,
    "\\frac{1}{" * 300,
    "```python\nraise SystemExit\n```",
    "nan",
    "None",
)
_ROLES = frozenset({"system", "user", "assistant", "tool"})


def task(question: str = "What is 1 + 1?", truth: Any = "2", *, source: str = "test", tags: Sequence[str] = ()) -> Task:
    """Build a task of one question; its id is a hash of its content."""
    identity = blake2b(json.dumps([question, truth]).encode(), digest_size=8).hexdigest()
    return Task(id=identity, messages=messages_of([("user", question)]), truth=truth, source=source, tags=tuple(tags))


def rollout(
    reply: str = "Answer: 2",
    *,
    of: Task | None = None,
    index: int = 0,
    version: int = 0,
    stop: Stop = Stop.END,
) -> Rollout:
    """Build a rollout that says `reply`, a token a byte, all sampled under one version with logprob -1 nat."""
    of = of or task()
    token_ids = np.frombuffer(reply.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int32)
    prompt = "\n".join(message["content"] for message in of.messages)
    return Rollout(
        task_id=of.id,
        index=index,
        prompt_ids=np.frombuffer(prompt.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int32),
        token_ids=token_ids,
        logprobs=np.full(len(token_ids), -1.0, dtype=np.float32),
        spans=(Span(start=0, stop=len(token_ids), version=version),),
        messages=(*of.messages, *messages_of([("assistant", reply)])),
        reply=reply,
        stop=stop,
        seconds=0.0,
    )


def check_environment(environment: Environment, *, tasks: int = 64) -> list[str]:
    """Check the contract on the first `tasks` tasks of both splits. Gives one sentence for each finding.

    A method `demonstrations(*, seed)`, for a warm start, is optional. Its conversations must end with the assistant's
    reply, be the same for the same seed, and hold no question of the split "eval".
    """
    findings: list[str] = []
    splits: dict[str, list[Task]] = {}
    for split in ("train", "eval"):
        with _found(findings, f"tasks({split!r})"):
            splits[split] = list(islice(environment.tasks(split, seed=0), tasks))
            again = list(islice(environment.tasks(split, seed=0), tasks))
            if splits[split] != again:
                findings.append(f"tasks({split!r}) gives other tasks for the same seed")
            findings += _task_findings(split, splits[split])
    shared = {t.id for t in splits.get("train", [])} & {t.id for t in splits.get("eval", [])}
    prompts = {_said(t.messages) for t in splits.get("train", []) if _messages(t.messages)}
    twins = [t.id for t in splits.get("eval", []) if _messages(t.messages) and _said(t.messages) in prompts]
    if shared or twins:
        findings.append(f"train and eval share tasks, such as {next(iter(shared), None) or twins[0]}")
    if callable(getattr(environment, "demonstrations", None)):
        with _found(findings, "demonstrations()"):
            findings += _demonstration_findings(environment, splits.get("eval", []), count=tasks)
    return findings


def check_reward(reward: Reward, tasks: Iterable[Task], *, seconds: float = 5.0) -> list[str]:
    """Check the contract on some tasks. Gives one sentence for each finding.

    The reward can be found again by module and name (as a worker process does) and pickled; its gold earns CORRECT; the
    empty reply does not; nothing raises; the same reply earns the same grade twice, within `seconds` each.
    """
    findings = list(_origin_findings(type(reward)))
    with _found(findings, "pickling"):
        pickle.loads(pickle.dumps(reward))  # noqa: S301 - what we have just written
    gold = getattr(reward, "gold", None)
    for one in tasks:
        for reply in ("", *JUNK):
            grade = _graded(reward, one, reply, findings, seconds=seconds)
            if not reply and isinstance(grade, Grade) and grade.verdict is Verdict.CORRECT:
                findings.append(f"task {one.id}: the empty reply earns CORRECT")
        if gold is not None:
            with _found(findings, f"task {one.id}: gold"):
                grade = _graded(reward, one, gold(one), findings, seconds=seconds)
                if isinstance(grade, Ungraded) or (grade and grade.verdict not in (Verdict.CORRECT, None)):
                    findings.append(f"task {one.id}: the gold reply earns {grade}")
    return findings


def _graded(reward: Reward, one: Task, reply: str, findings: list[str], *, seconds: float) -> Grade | Ungraded | None:
    """Grade a reply twice and note what is wrong with that; None where it raised."""
    where = f"task {one.id}, reply {reply[:20]!r}"
    said = rollout(reply, of=one)
    started = time.monotonic()
    with _found(findings, where):
        first, second = reward.grade(one, said), reward.grade(one, said)
        if time.monotonic() - started > 2 * seconds:
            findings.append(f"{where}: grading takes more than {seconds} s")
        if not isinstance(first, Grade | Ungraded):
            findings.append(f"{where}: grade() gives {type(first).__name__}, not Grade or Ungraded")
        elif first != second:
            findings.append(f"{where}: the same reply earns {first} and then {second}")
        return first
    return None


def _origin_findings(cls: type) -> Iterator[str]:
    path = f"{cls.__module__}:{cls.__qualname__}"
    found: Any = None
    if "<locals>" not in cls.__qualname__:
        found = importlib.import_module(cls.__module__)
        for attribute in cls.__qualname__.split("."):
            found = getattr(found, attribute, None)
    if found is not cls:
        yield f"{path} cannot be imported by that name, so worker processes cannot make it"


def _task_findings(split: str, tasks: Sequence[Task]) -> Iterator[str]:
    if not tasks:
        yield f"tasks({split!r}) gives no task"
    seen: set[str] = set()
    for one in tasks:
        if one.id in seen:
            yield f"tasks({split!r}) gives id {one.id} twice"
        seen.add(one.id)
        if not _well_formed(one):
            yield f"task {one.id}: messages must be role and content, both text, and end with a user's or a tool's"
        try:
            json.dumps(one.truth, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"task {one.id}: truth is not JSON: {error}"


def _demonstration_findings(environment: Any, held_out: Sequence[Task], *, count: int) -> Iterator[str]:
    first, again = (list(islice(environment.demonstrations(seed=0), count)) for _ in range(2))
    if not first:
        yield "demonstrations() gives none"
    if first != again:
        yield "demonstrations() gives others for the same seed"
    if sum(1 for _ in islice(environment.demonstrations(seed=0), MOST_DEMONSTRATIONS + 1)) > MOST_DEMONSTRATIONS:
        yield f"demonstrations() gives more than {MOST_DEMONSTRATIONS:,}, or never ends"
    questions = {_said(one.messages) for one in held_out if _messages(one.messages)}
    for place, messages in enumerate(first):
        if len(messages) < 2 or not _messages(messages) or messages[-1]["role"] != "assistant":
            yield f"demonstration {place}: messages must be role and content, both text, and end with the assistant's"
        elif _said(messages[:-1]) in questions:
            yield f"demonstration {place} answers a task of the split eval"


def _messages(found: Any) -> bool:
    return isinstance(found, Sequence) and all(
        isinstance(message, Mapping) and set(message) == {"role", "content"}
        and all(isinstance(text, str) for text in message.values()) and message["role"] in _ROLES
        for message in found
    )  # fmt: skip


def _said(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _well_formed(one: Task) -> bool:
    return bool(one.id and one.messages) and _messages(one.messages) and one.messages[-1]["role"] in ("user", "tool")


@contextmanager
def _found(findings: list[str], where: str) -> Iterator[None]:
    """Note what foreign code raises as a finding."""
    try:
        with boundary(where):
            yield
    except BoundaryError as error:
        findings.append(f"{where}: raises {error.reason}")


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


class FakeEngine:
    """An `Engine` of a few tensors: what it samples follows from live tensors, prompt and seed, and from nothing else.

    A test switches failures on in `faults`: "drop" (a load changes nothing), "partial" (a load stops half-way and says
    nothing), "hang" (a load waits for `released`), "slow" (a load takes `delay_s`), "blind" (reading back finds no
    difference), "deaf" (the canary is answered with NaN). No load changes a tensor named in `keep`.
    """

    def __init__(self, *, vocabulary: int = 260, end: int = 258, longest: int = 12) -> None:
        self.vocabulary, self.end, self.longest = vocabulary, end, longest
        self.live: dict[str, Any] = {}
        self.version = -1
        self.faults: set[str] = set()
        self.keep: set[str] = set()
        self.delay_s = 0.01
        self.script: list[Sequence[int]] = []  # replies to give, in this order, instead of sampled ones
        self.calls: list[str] = []
        self.requests: list[tuple[list[int], Sampling]] = []
        self.sampled: list[tuple[int, str]] = []  # of every token: version stamped, digest of the tensors it came from
        self.released = asyncio.Event()
        self._digest = ""
        self._unpaused = asyncio.Event()
        self._unpaused.set()

    async def start(self) -> None:
        """Hold no tensors yet."""
        self.calls.append("start")

    async def stop(self) -> None:
        """Hold nothing to release."""
        self.calls.append("stop")

    async def generate(self, prompt_ids: Sequence[int], *, sampling: Sampling) -> Completion:
        """Sample token by token; other tasks, a load among them, get their turn after each."""
        self.calls.append("generate")
        ids = [int(i) for i in prompt_ids]
        self.requests.append((list(ids), sampling))
        script = list(self.script.pop(0)) if self.script else None
        length = len(script) if script else 1 + _seed_of(ids, sampling.seed) % self.longest
        reply: list[int] = []
        logprobs: list[float] = []
        spans: list[Span] = []
        while len(reply) < min(length, sampling.max_tokens):
            await asyncio.sleep(0)
            await self._unpaused.wait()
            row = fake_logprobs(self.live, (ids + reply)[-1], vocabulary=self.vocabulary)
            token = (
                script[len(reply)] if script else self._draw(row, ids + reply, sampling, last=length - 1 - len(reply))
            )
            reply.append(token)
            logprobs.append(float(row[token]))
            self.sampled.append((self.version, self._digest))
            start = spans.pop().start if spans and spans[-1].version == self.version else len(reply) - 1
            spans.append(Span(start=start, stop=len(reply), version=self.version))
        return Completion(
            token_ids=np.array(reply, dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            stop=Stop.END if reply[-1] == self.end else Stop.LENGTH,
            spans=tuple(spans),
        )

    async def score(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Give log p of every token but the first, whether or not the engine is paused."""
        self.calls.append("score")
        await asyncio.sleep(0)
        if "deaf" in self.faults:
            return np.full(len(token_ids) - 1, np.nan, dtype=np.float32)
        return fake_scores(self.live, token_ids, vocabulary=self.vocabulary)

    async def verify(self, manifest: Manifest) -> None:
        """Check the bytes as the real engine does."""
        from rlvr.weights.manifest import check, open_tensors

        self.calls.append("verify")
        await asyncio.sleep(0)
        check(manifest, open_tensors(manifest.path))

    async def load(self, manifest: Manifest, *, skip: Sequence[str] = ()) -> float:
        """Replace the live tensors, a tensor at a time; running requests are kept and wait."""
        from rlvr.weights.manifest import open_tensors

        self.calls.append("load")
        self._unpaused.clear()
        if "hang" in self.faults:
            await self.released.wait()
        if "slow" in self.faults:
            await asyncio.sleep(self.delay_s)
        tensors = open_tensors(manifest.path)
        names = sorted(tensors)[: len(tensors) // 2] if "partial" in self.faults else sorted(tensors)
        for name in [] if "drop" in self.faults else names:
            await asyncio.sleep(0)
            if name not in self.keep and name not in skip:
                self.live[name] = tensors[name]
        self._digest = fake_digest(self.live)
        self._unpaused.set()
        return 0.001

    async def read_back(self, manifest: Manifest, *, seed: int) -> int:
        """Compare every live tensor with the manifest's bytes."""
        import torch

        from rlvr.weights.manifest import open_tensors

        self.calls.append("read_back")
        await asyncio.sleep(0)
        for name, sent in open_tensors(manifest.path).items():
            if "blind" not in self.faults and not (name in self.live and torch.equal(self.live[name], sent)):
                raise ValueError(f"{name} differs between engine and learner")
        return len(manifest.tensors)

    async def stamp(self, version: int) -> None:
        """Mark all tokens from now on."""
        self.calls.append("stamp")
        self.version = version

    def _draw(self, row: NDArray[np.float64], ids: list[int], sampling: Sampling, *, last: int) -> int:
        if not last:
            return self.end
        if not sampling.temperature:
            return int(row.argmax())
        noise = np.random.default_rng(_seed_of([*ids, *self._digest.encode()], sampling.seed)).gumbel(size=len(row))
        return int((row / sampling.temperature + noise).argmax())


class FakeLearner:
    """The learner's side of the weight service: bfloat16 tensors that follow from the version alone."""

    SHAPES: Mapping[str, tuple[int, ...]] = {
        "lm_head.weight": (16, 16),
        "model.embed_tokens.weight": (16, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 16),
        "model.norm.weight": (16,),
    }

    def __init__(self, *, vocabulary: int = 260) -> None:
        self.vocabulary = vocabulary

    def tensors(self, version: int, *, perturbed: bool = False) -> dict[str, Any]:
        """Give all tensors of a version, or that copy of them which the self-test pushes."""
        import torch

        noise = torch.Generator().manual_seed(version)
        named = {}
        for place, (name, shape) in enumerate(self.SHAPES.items()):
            base = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + place))
            named[name] = base + 0.1 * torch.randn(shape, generator=noise)
            if perturbed:
                named[name] *= 1.0 + 0.2 * torch.randn(shape, generator=noise)
        return {name: tensor.bfloat16() for name, tensor in named.items()}

    async def export(
        self, *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]], perturbed: bool
    ) -> tuple[Manifest, list[NDArray[np.float32]]]:
        """Write the tensors and score the canary with the same ones."""
        from rlvr.weights.export import export

        tensors = self.tensors(version, perturbed=perturbed)
        manifest = export(tensors.items(), version=version, folder=folder)
        return manifest, [fake_scores(tensors, ids, vocabulary=self.vocabulary) for ids in sequences]


def fake_digest(tensors: Mapping[str, Any]) -> str:
    """Give one digest of names and bytes."""
    from rlvr.weights.manifest import digest

    return blake2b("".join(f"{n}{digest(t)}" for n, t in sorted(tensors.items())).encode(), digest_size=8).hexdigest()


def fake_logprobs(tensors: Mapping[str, Any], token: int, *, vocabulary: int) -> NDArray[np.float64]:
    """Give log p of every next token [V]: random features of all tensors, turned by the token before."""
    weights = np.concatenate([t.float().numpy().ravel() for _, t in sorted(tensors.items())])
    logits = 4.0 * _features(vocabulary, len(weights)) @ np.roll(weights, token) / np.sqrt(len(weights))
    return logits - np.logaddexp.reduce(logits)


def fake_scores(tensors: Mapping[str, Any], token_ids: Iterable[int], *, vocabulary: int) -> NDArray[np.float32]:
    """Give log p of every token but the first [T-1], nats."""
    pairs = pairwise(int(i) for i in token_ids)
    return np.array([fake_logprobs(tensors, a, vocabulary=vocabulary)[b] for a, b in pairs], dtype=np.float32)


@lru_cache(maxsize=4)
def _features(vocabulary: int, size: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((vocabulary, size))


def _seed_of(ids: Sequence[int], seed: int | None) -> int:
    return int.from_bytes(blake2b(f"{list(ids)} {seed}".encode(), digest_size=6).digest(), "big")
