"""vLLM's asynchronous engine behind our `Engine` protocol."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import BoundaryError, EngineError, ResourceError, boundary
from rlvr.observe.libraries import bound
from rlvr.rollout.engine import Completion, EngineSettings, Sampling
from rlvr.rollout.proofs import Proofs
from rlvr.types import SIZES, Manifest, Span, Stop, fingerprint

__all__ = ["VllmEngine"]

GIB = 2**30
# The CPU attention kernel wants multiples of 32; the default of 128 is longer than most prompts, so that nothing of
# a prompt would ever be shared.
CPU_BLOCK = 32
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM lays buffers out for
# vLLM would compute in a process of its own, so that OpenMP's threads can be bound there, and import itself once more;
# we bind those of the engine's core process. By its whole name, since on CPU vLLM takes "uni" for "mp".
IN_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
PREPARING_POLL_S = 0.01  # between looks at weights that an engine process makes ready


class VllmEngine:
    """One vLLM engine. On CPU it binds to the cores that it is given."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._engine: Any = None
        self._numbers = itertools.count()
        self._proofs = Proofs()
        self._adapted = False  # then requests go through the adapter
        self._running = {True: 0, False: 0}  # requests with and without it
        self._entry = asyncio.Event()  # not set while the adapter comes or goes: a request must not begin in between
        self._entry.set()
        # Between `load` and the learner's calls, on GPU: paused and ready to receive; everything received.
        self._ready, self._received = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        """Load the model and open the weight transfer channel."""
        self._set_environment()
        import torch
        from vllm import AsyncEngineArgs
        from vllm.config.weight_transfer import WeightTransferConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        channel = None if self._shared else WeightTransferConfig(backend=self.settings.transport)
        args = AsyncEngineArgs(**self._arguments(), weight_transfer_config=channel)
        torch.get_num_threads()  # reads this process's own OpenMP variables, before the engine's are set
        try:
            with boundary("vLLM start-up"), bound(self._cores) if self._shared else nullcontext():
                self._engine = AsyncLLM.from_engine_args(args)
        except BoundaryError as error:
            hint = "its own log, in the logs of the Ray session under the temporary folder, says more"
            raise EngineError(f"vLLM did not start: {error.reason}; {hint}") from error

    async def generate(self, prompt_ids: Sequence[int], *, sampling: Sampling) -> Completion:
        """Sample one reply. A prompt's cached blocks are shared until weights go live and never across."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=sampling.seed, logprobs=0,
            detokenize=False,
        )  # fmt: skip
        output = (await self._final(prompt_ids, params)).outputs[0]
        drawn = zip(output.token_ids, output.logprobs, strict=True)
        versions = await self._proofs.versions(_load(span.version) for span in output.weight_versions)
        spans = zip(output.weight_versions, versions, strict=True)
        return Completion(
            token_ids=np.array(output.token_ids, dtype=np.int32),
            logprobs=np.array([table[token].logprob for token, table in drawn], dtype=np.float32),
            stop=_stop(output.finish_reason),
            spans=tuple(Span(start=s.start, stop=s.end, version=version) for s, version in spans),
        )

    async def score(self, token_ids: Sequence[int], *, base: bool = False) -> NDArray[np.float32]:
        """Give log p of every token but the first, by a forward pass through the serving path, or below its adapter."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        final = await self._final(token_ids, params, base=base)
        tables = zip(token_ids[1:], final.prompt_logprobs[1:], strict=True)
        return np.array([table[token].logprob for token, table in tables], dtype=np.float32)

    async def prepare(self, manifest: Manifest, *, skip: Sequence[str] = ()) -> None:
        """Check the bytes in every engine process; on CPU lay them out there for the kernels, beside the live ones."""
        known = dataclasses.asdict(manifest)
        if not self._in_place(manifest):  # on GPU the tensors travel while the engine stands still
            await self._rpc("rlvr_verify", known)
            return
        await self._rpc("rlvr_prepare", known, list(skip))
        while None in await self._rpc("rlvr_prepared"):
            await asyncio.sleep(PREPARING_POLL_S)

    async def swap(self, manifest: Manifest, *, recompute: bool = False) -> float:
        """Let the prepared weights go live; running requests are kept and wait meanwhile."""
        adapted = manifest.kind == "adapter"
        if adapted == self._adapted:
            return await self._exchange(manifest, recompute=recompute)
        self._entry.clear()
        try:
            if running := self._running[self._adapted]:
                how, change = ("without an adapter", "comes") if adapted else ("through the adapter", "goes")
                raise ValueError(f"{running} requests run {how}; let them end before it {change}")
            stall = await self._exchange(manifest, recompute=recompute)
            self._adapted = adapted
        finally:
            self._entry.set()
        return stall

    async def _exchange(self, manifest: Manifest, *, recompute: bool) -> float:
        with boundary("weight update"):
            try:
                # `pause_generation` would also sleep for 20 ms, for the sake of outputs that we do not wait for here
                await self._engine.engine_core.pause_scheduler_async(mode="keep", clear_cache=recompute)
                start = time.perf_counter()
                # first the label: whatever fails from here on, no token of it passes for one of the old weights
                await self._engine.update_weight_version(f"load-{await self._proofs.begin()}")
                if self._in_place(manifest):
                    await self._rpc("rlvr_swap", fingerprint(manifest))
                else:  # the learner drives these steps itself, through `transfer`
                    self._received.clear()
                    self._ready.set()
                    await self._received.wait()
            finally:
                self._ready.clear()
                await self._engine.resume_generation()
        return time.perf_counter() - start

    async def transfer(self, step: str, payload: Any) -> None:
        """Take one step of a GPU transfer that the learner drives; none starts before the engine is paused."""
        if step == "start":
            await self._ready.wait()
            self._ready.clear()
        with boundary("weight update"):
            await self._transfer(step, payload)
        if step == "finish":
            self._received.set()

    async def _transfer(self, step: str, payload: Any) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

        if step == "init":
            await self._engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=payload))
        elif step == "start":
            await self._engine.start_weight_update()
        elif step == "update":
            await self._engine.update_weights(WeightTransferUpdateRequest(update_info=payload))
        else:
            await self._engine.finish_weight_update()

    async def read_back(self, manifest: Manifest, *, seed: int, whole: bool = False) -> int:
        """Compare live weights with the manifest's bytes, in every engine process."""
        return min(await self._rpc("rlvr_read_back", dataclasses.asdict(manifest), seed, whole))

    async def stamp(self, version: int) -> None:
        """See `Proofs.stamp`."""
        await self._proofs.stamp(version)

    async def reject(self, reason: str) -> None:
        """See `Proofs.reject`."""
        await self._proofs.reject(reason)

    async def stop(self) -> None:
        """Shut vLLM down; it must not be left to the interpreter's exit."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    async def _final(self, prompt_ids: Sequence[int], params: Any, *, base: bool = False) -> Any:
        from vllm.lora.request import LoRARequest

        while not self._entry.is_set():
            await self._entry.wait()
        adapted = self._adapted and not base
        # Both name what the engine must hold already. Had it none, it would look there, find nothing and end.
        adapter = LoRARequest("policy", 1, "pushed by rlvr") if adapted else None
        # not the version: the self-test scores its canary with perturbed weights just before serving the same version
        prompt = {"prompt_token_ids": [int(i) for i in prompt_ids], "cache_salt": str(self._proofs.load)}
        final = None
        self._running[adapted] += 1
        try:
            with boundary("vLLM"):
                async for output in self._engine.generate(
                    prompt, params, request_id=str(next(self._numbers)), lora_request=adapter
                ):
                    final = output
        finally:
            self._running[adapted] -= 1
        if final is None:
            raise EngineError("vLLM ended a request without any output")
        return final

    async def _rpc(self, method: str, *arguments: Any) -> list[Any]:
        with boundary("vLLM"):
            answers = await self._engine.collective_rpc(method, args=arguments)
        for answer in answers:
            if isinstance(answer, str):  # it says what is wrong; an exception there would end the engine
                raise ValueError(answer)
        return list(answers)

    def _arguments(self) -> dict[str, Any]:
        s = self.settings
        common = {
            "model": s.model, "dtype": s.dtype, "max_model_len": s.max_model_len, "max_num_seqs": s.max_num_seqs,
            "logprobs_mode": "processed_logprobs", "enable_prefix_caching": True, "disable_log_stats": True,
            "worker_extension_cls": "rlvr.weights.transport.ProofExtension",
        }  # fmt: skip
        if s.lora_rank:
            rank = next((r for r in LORA_RANKS if r >= s.lora_rank), s.lora_rank)  # of another vLLM names those it has
            common |= {"enable_lora": True, "max_loras": 1, "max_cpu_loras": 1, "max_lora_rank": rank,
                       "lora_target_modules": _matrices(Path(s.model))}  # fmt: skip
        if s.kind != "cpu":
            return common | ({"gpu_memory_utilization": 0.4} if s.transport == "ipc" else {})
        # Chunked prefill would rewind a request's generator, which a CPU generator cannot do; without it a prompt is
        # computed whole, so the budget must hold the longest one.
        return common | {
            "distributed_executor_backend": IN_CORE, "enforce_eager": True, "block_size": CPU_BLOCK,
            "enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, s.max_model_len),
        }  # fmt: skip

    def _in_place(self, manifest: Manifest) -> bool:
        """Tell whether the engine takes the weights from their file by itself; an adapter's are small enough always."""
        return self._shared or manifest.kind == "adapter"

    @property
    def _shared(self) -> bool:
        """Tell whether the bytes lie in a file of this host, as they do on CPU."""
        return self.settings.kind == "cpu"

    @property
    def _cores(self) -> tuple[int, ...]:
        return self.settings.cores or tuple(sorted(os.sched_getaffinity(0)))

    def _set_environment(self) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ["VLLM_NO_USAGE_STATS"] = "1"
        if self.settings.kind == "cpu":
            os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(self.settings.kv_cache_gib)
            self._check_memory()

    def _check_memory(self) -> None:
        need = _cache_bytes(Path(self.settings.model), dtype=self.settings.dtype) * self.settings.max_model_len / GIB
        if need > self.settings.kv_cache_gib:
            raise ResourceError(
                f"too little memory for the KV cache: one sequence of rollout.max_model_len = "
                f"{self.settings.max_model_len} tokens takes {need:.1f} GiB in {self.settings.dtype}, "
                f"rollout.kv_cache_gib is {self.settings.kv_cache_gib}; raise the one or lower the other"
            )
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        with open("/proc/meminfo") as lines:
            free = next((int(x.split()[1]) * 1024 / GIB for x in lines if x.startswith("MemAvailable")), free)
        if self.settings.kv_cache_gib > free:
            raise ResourceError(
                f"rollout.kv_cache_gib asks for {self.settings.kv_cache_gib:g} GiB but only {free:.1f} GiB are free; "
                "lower it or free memory"
            )


def _stop(reason: str | None) -> Stop:
    """Say why a reply ended. Errors: EngineError where vLLM gave it up, so that no cut reply passes for a whole one."""
    known = {"stop": Stop.END, "length": Stop.LENGTH}
    if reason not in known:
        raise EngineError(f"vLLM ended a reply with {reason!r}")
    return known[reason]


def _cache_bytes(model: Path, *, dtype: str) -> int:
    """Give the KV cache of one token in bytes; 0 where the model's config does not tell."""
    config = json.loads((model / "config.json").read_text())
    heads = config.get("num_attention_heads", 0)
    size = config.get("head_dim") or (config.get("hidden_size", 0) // heads if heads else 0)
    return 2 * SIZES[dtype] * config.get("num_hidden_layers", 0) * (config.get("num_key_value_heads") or heads) * size


def _matrices(model: Path) -> list[str]:
    """List the last names of a model's matrices, embedding and output head left out.

    No adapter is on those, and vLLM, with room for one on the head, dies of prompt log-probabilities that are asked
    for while other requests run (it takes the adapters of the tokens sampled for those of the prompt's).
    """
    found = set()
    for path in model.glob("*.safetensors"):
        with open(path, "rb") as file:
            tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        matrices = (name for name, told in tensors.items() if len(told.get("shape", ())) == 2)
        found |= {name.removesuffix(".weight").rpartition(".")[2] for name in matrices}
    return sorted(name for name in found if "embed" not in name and name != "lm_head")


def _load(label: str) -> int:
    """Give the number of the load that a token's label names; vLLM says "default" until it is given one."""
    return int(label.removeprefix("load-")) if label.startswith("load-") else 0
