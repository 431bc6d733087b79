"""Turn a step into one flat line of metrics.jsonl, and write run files so that a crash leaves them readable.

A value that nobody knows is absent (or null in JSON), never 0.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.errors import CheckpointError, ResourceError
from rlvr.types import GroupHeader, Receipt, StepReport

__all__ = [
    "METRICS",
    "append_line",
    "as_line",
    "dump_line",
    "keep_until",
    "push_metrics",
    "read_lines",
    "replacing",
    "step_metrics",
    "write_json",
]

# Name -> meaning. The documentation and the report read this table; shares lie in [0, 1].
METRICS: Mapping[str, str] = {
    "step": "optimizer step, from 1",
    "version": "weight version after the step",
    "reward": "mean value of the rollouts that have one (what the learner is paid, after [payoff])",
    "reward_std": "standard deviation of those values over the whole step",
    "correct": "Acc: share of the rollouts with a verdict that are CORRECT",
    "abstained": "Unc: share of the rollouts with a verdict that are ABSTAINED",
    "wrong": "Hall: share of the rollouts with a verdict that are WRONG; Acc, Unc and Hall sum to 1",
    "truthfulness": "T = w1 Acc + w2 Unc - w3 Hall, weights from eval.truthfulness",
    "unformatted": "share of the rollouts without a marked answer or another format that a reward looks for",
    "ungraded": "share of all rollouts that our graders failed to grade; they carry no loss",
    "truncated": "share of all rollouts that the token budget cut",
    "masked": "share of all rollouts that are left out because the token budget cut them (rollout.truncated)",
    "flat": "share of the groups with values whose values are all equal; no gradient under group baselines",
    "groups": "groups in the step, those of refills included",
    "groups_train": "groups that carried gradient",
    "groups_flat": "groups left out because all their values are equal",
    "groups_stale": "groups left out because their weights were older than rollout.max_staleness",
    "groups_ungraded": "groups left out because too few of their replies were graded",
    "groups_masked": "groups left out because too few of their replies came within the token budget",
    "refills": "groups dropped and replaced by others; only with rollout.dynamic_sampling, as is the next line",
    "idle_tokens": "reply tokens of groups that neither train nor count: all alike, stale, ungraded or masked",
    "staleness": "mean over the groups that train of the learner's version less the oldest they were sampled under",
    "staleness_max": "the largest of these",
    "staleness_0": "share of those groups without staleness; staleness_1 and so on, to rollout.max_staleness, likewise",
    "outstanding": "groups that were being sampled, or had come and waited for a later step, as the step was taken",
    "waited": "seconds that the learner waited for groups",
    "rollouts": "rollouts in the step",
    "tokens": "sampled reply tokens",
    "reply_length": "mean sampled reply tokens, a rollout",
    "tokens_per_s": "reply tokens a second of the step, evaluation and checkpoint excluded",
    "loss": "the minimised quantity, reduced as the recipe says",
    "trained": "replies that carried gradient",
    "trained_tokens": "tokens of those replies",
    "computed_tokens": "tokens that the layers computed for them, prompts included: what they share is computed once",
    "scored_tokens": "tokens among those whose log-probability was wanted",
    "positive_tokens": "tokens of CORRECT replies that algorithm.positive_nll makes likelier; 0: it did nothing",
    "learner_seconds": "seconds that the learner itself was busy with the step",
    "grad_norm": "gradient norm before clipping",
    "learner_peak_gb": "most memory that the learner's process has held since it started, GB of 10^9 bytes; of rank 0",
    "entropy": "mean entropy of the policy, nats a token",
    "clipped": "share of the tokens whose ratio the surrogate clipped",
    "mismatch": "mean |learner - engine| log-probability of the sampled tokens, nats",
    "mismatch_lag_0": "that over replies wholly of the learner's own version; above weights.max_mismatch the run ends",
    "mismatch_lag_1": "that over replies that began under the version before; and so on with mismatch_lag_2",
    "kl": "mean estimated divergence from the reference policy, nats a token",
    "value_loss": "loss of the critic",
    "critic_grad_norm": "norm of the critic's gradient before clipping",
    "value_clipped": "share of the tokens whose change in value was clipped",
    "value_mean": "mean value that the critic gives",
    "return_mean": "mean return that it should have given",
    "explained_variance": "share of the variance of the returns that the critic's values explain",
    "correction": "mean weight that the correction gives a token for the gap between engine and learner",
    "correction_kept": "share of the tokens that the correction leaves a weight",
    "effective_sample_size": "of the correction's weights, as a share of the tokens: 1 where all weigh the same",
    "learning_rate": "learning rate of the step",
    "push_stall": "seconds an engine could not generate because of the weight push (the longest of the workers)",
    "push_stall_share": "that, as a share of the seconds of the step",
    "push_seconds": "seconds from the start of a worker's push to its receipt (the longest of the workers)",
    "push_fetch": "seconds of those until the bytes lay on the worker's host",
    "push_bytes": "bytes of the tensors that were pushed",
    "canary_error": "mean |engine - learner| over the canary tokens after the push, nats (the worst of the workers)",
    "proven_tensors": "tensors read back from the live model and found equal (the fewest of the workers)",
    "graders_lost": "grading processes killed from outside and replaced since the run started",
    "eval_accuracy": "held-out accuracy (Acc) measured after the step; absent where nothing was measured",
    "eval_unc": "held-out share of abstentions (Unc)",
    "eval_hall": "held-out share of wrong answers (Hall)",
    "eval_truthfulness": "held-out T",
    "seconds": "wall time by phase: rollout, learn, push, eval, checkpoint, step",
}


def step_metrics(
    headers: Sequence[GroupHeader],
    *,
    learner: Mapping[str, float | None],
    seconds: Mapping[str, float],
    weights: tuple[float, float, float] = (1.0, 0.0, 1.0),
) -> dict[str, float]:
    """Summarise the groups of a step and add the learner's own metrics.

    Units: as in `METRICS`; `seconds` is by phase, `weights` are those of truthfulness.
    Errors: ValueError if the learner uses one of our names, or a graded value is not finite.
    """
    metrics: dict[str, float] = {**_value_metrics(headers), **_count_metrics(headers)}
    if "correct" in metrics:
        acc, unc, hall = weights
        metrics["truthfulness"] = acc * metrics["correct"] + unc * metrics["abstained"] - hall * metrics["wrong"]
    paid = seconds.get("step", 0.0) - seconds.get("eval", 0.0) - seconds.get("checkpoint", 0.0)
    if paid > 0:
        metrics["tokens_per_s"] = metrics["tokens"] / paid
    for name, value in learner.items():
        if name in metrics:
            raise ValueError(f"the learner's metric {name!r} would overwrite the step's own")
        if value is not None:
            metrics[name] = value
    return metrics


def _value_metrics(headers: Sequence[GroupHeader]) -> dict[str, float]:
    """Give reward, verdict shares and flat groups; what has no observation stays absent."""
    found: dict[str, float] = {}
    values: list[float] = []
    verdicts: list[str] = []
    flat: list[bool] = []
    for header in headers:
        paid = [value for value, counted in zip(header.values, header.counted, strict=True) if counted]
        if not all(math.isfinite(value) for value in paid):
            raise ValueError(f"group {header.group_id} has a graded rollout whose value is not finite")
        values += paid
        verdicts += [verdict for verdict, graded in zip(header.verdicts, header.graded, strict=True) if graded]
        if paid:
            flat.append(min(paid) == max(paid))
    if values:
        found |= {"reward": float(np.mean(values)), "reward_std": float(np.std(values))}
    judged = [verdict for verdict in verdicts if verdict]
    for name in ("correct", "abstained", "wrong") if judged else ():
        found[name] = judged.count(name.upper()) / len(judged)
    if flat:
        found["flat"] = sum(flat) / len(flat)
    return found


def _count_metrics(headers: Sequence[GroupHeader]) -> dict[str, float]:
    """Give counts, and the shares whose denominator is all rollouts."""
    rollouts = sum(len(header.lengths) for header in headers)
    tokens = sum(sum(header.lengths) for header in headers)
    found: dict[str, float] = {"groups": len(headers), "rollouts": rollouts, "tokens": tokens}
    if rollouts:
        found["ungraded"] = sum(header.graded.count(False) for header in headers) / rollouts
        found["truncated"] = sum(sum(header.truncated) for header in headers) / rollouts
        found["reply_length"] = tokens / rollouts
    if any(header.masked for header in headers):
        found["masked"] = sum(sum(header.masked) for header in headers) / rollouts
    looked = [flag for header in headers for flag in header.unformatted if flag is not None]
    if looked:
        found["unformatted"] = sum(looked) / len(looked)
    return found


def push_metrics(receipts: Sequence[Receipt], *, step_seconds: float) -> dict[str, float]:
    """Give the worst of what the workers' receipts prove; nothing without a receipt."""
    if not receipts:
        return {}
    stall = max(receipt.stall_seconds for receipt in receipts)
    return {
        "push_stall": stall,
        "push_stall_share": stall / step_seconds,
        "push_seconds": max(receipt.seconds for receipt in receipts),
        "push_fetch": max(receipt.fetch_seconds for receipt in receipts),
        "push_bytes": float(receipts[0].bytes),
        "canary_error": max(receipt.canary_error for receipt in receipts),
        "proven_tensors": min(receipt.proven_tensors for receipt in receipts),
    }


def as_line(report: StepReport) -> dict[str, Any]:
    """Give a step as the flat object of metrics.jsonl."""
    return {"step": report.step, "version": report.version, **report.metrics, "seconds": dict(report.seconds)}


def dump_line(value: Mapping[str, Any]) -> bytes:
    """Encode one JSON line; a non-finite number becomes null, a lone surrogate (junk from a model) an escape."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", errors="backslashreplace") + b"\n"


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON line with one write; a line that does not fit is taken back.

    Errors: ResourceError where the disk is full or cannot be written.
    """
    data = dump_line(value)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: the write is one system call, and nothing is left to flush.
        with open(path, "ab", buffering=0) as file:
            start = file.tell()
            if file.write(data) != len(data):
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file; a last line that a crash cut short is left out, a missing file has no lines.

    Errors: CheckpointError where any other line is not a JSON object.
    """
    if not path.exists():
        return []
    pieces = path.read_bytes().split(b"\n")
    found = []
    for number, piece in enumerate(pieces, start=1):
        try:
            value = json.loads(piece) if piece else None
        except ValueError:  # bad JSON or bad UTF-8
            if number == len(pieces):
                break
            value = ()
        if isinstance(value, dict):
            found.append(value)
        elif piece:
            raise CheckpointError(
                f"{path} line {number} is not a JSON object; mend or delete that line, then try again"
            )
    return found


def keep_until(path: Path, step: int) -> int:
    """Drop the lines of steps after `step`, as a resumed run will write them again, and any cut-off last line.

    Gives how many lines stay. Errors: CheckpointError, ResourceError.
    """
    lines = read_lines(path)
    if any(not isinstance(line.get("step"), int) for line in lines):
        raise CheckpointError(f"{path} has a line without a step; mend or delete that line, then try again")
    kept = [line for line in lines if line["step"] <= step]
    if path.exists():
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(dump_line(line) for line in kept))
    return len(kept)


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file under a temporary name, then rename it: readers see the old file or the new one."""
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="backslashreplace") + b"\n")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path` and rename it into place; after a failure the old file stays.

    Errors: ResourceError where the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # the rename must not reach the disk before the bytes do
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"cannot write {path}: the disk is full; free some space or choose another --run-dir, then use --resume"
            ) from error
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write {path}: {reason}; choose a --run-dir that can be written") from error


def _plain(value: Any) -> Any:
    """Make JSON values of numpy scalars, paths and tuples; a number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
