"""Compare the truthfulness graders with human verdicts on answers to open questions.

python benchmarks/qa_grader.py --cases qa_cases.jsonl                                  rules alone
python benchmarks/qa_grader.py --cases qa_cases.jsonl --scripted                       then a stand-in for a judge
python benchmarks/qa_grader.py --cases qa_cases.jsonl --judge-url URL --model NAME     then a real judge

A line of the file holds question, pred, gold (a list) and expected ("correct" or "incorrect"). The stand-in answers
what the rules leave open from the human verdicts, so it shows that the path to a judge works and what the rules decide
wrongly for good, which no judge can mend. `--errors` has it err at a rate.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlvr.core.stats import wilson_interval
from rlvr.testing import rollout, task
from rlvr.types import Grade, Reward, Ungraded, Verdict
from rlvr_rewards.abstention import final_answer
from rlvr_rewards.judge import Judge
from rlvr_rewards.truth import Truth

Case = dict[str, Any]


def graded(reward: Reward, cases: Sequence[Case], *, at_once: int) -> list[Grade | Ungraded]:
    """Judge all cases, in order."""

    def one(case: Case) -> Grade | Ungraded:
        posed = task(case["question"], {"answers": case["gold"]})
        return reward.grade(posed, rollout(case["pred"], of=posed))

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(one, cases))


def report(title: str, cases: Sequence[Case], grades: Sequence[Grade | Ungraded]) -> None:
    """Print agreement with its 95 % interval, and both kinds of error."""
    pairs = [
        (g.verdict is Verdict.CORRECT, c["expected"] == "correct")
        for c, g in zip(cases, grades, strict=True)
        if isinstance(g, Grade)
    ]
    if not pairs:
        print(f"{title}: nothing could be graded")
        return
    agreed = sum(said == meant for said, meant in pairs)
    interval = wilson_interval(agreed, len(pairs))
    right, wrong = sum(meant for _, meant in pairs), sum(not meant for _, meant in pairs)
    paid, missed = sum(said and not meant for said, meant in pairs), sum(meant and not said for said, meant in pairs)
    print(
        f"{title}: agrees on {agreed}/{len(pairs)} = {100 * agreed / len(pairs):.1f} % "
        f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]; pays {paid} of {wrong} wrong ones "
        f"({100 * paid / max(wrong, 1):.1f} %), misses {missed} of {right} right ones "
        f"({100 * missed / max(right, 1):.1f} %); ungraded {len(grades) - len(pairs)}"
    )


def listed(cases: Sequence[Case], grades: Sequence[Grade | Ungraded]) -> None:
    """Print every disagreement, what is wrongly paid first."""
    wrong = [
        (isinstance(g, Grade) and g.verdict is not Verdict.CORRECT, c, g)
        for c, g in zip(cases, grades, strict=True)
        if not isinstance(g, Grade) or (g.verdict is Verdict.CORRECT) != (c["expected"] == "correct")
    ]
    for missed, case, grade in sorted(wrong, key=lambda row: row[0]):
        what = "MISSED" if missed else "PAID" if isinstance(grade, Grade) else "UNGRADED"
        print(f"{what:8} {case['question']} | {case['pred']} | {case['gold']}")


@contextlib.contextmanager
def scripted(cases: Sequence[Case], *, errors: float) -> Iterator[str]:
    """Serve a stand-in for a judge on this machine; give its address. A case errs or not for good."""
    expected = {(c["question"].strip(), final_answer(c["pred"])): c["expected"] == "correct" for c in cases}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][1]["content"]
            nonce = re.findall(r"<verdict-([0-9a-f]+)>", asked)[-1]
            question = asked.partition("Question:\n")[2].partition("\n\nReference answers")[0]
            answer = asked.partition(f"<reply-{nonce}>\n")[2].partition(f"\n</reply-{nonce}>")[0]
            key = (question, answer)
            errs = int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32 < errors
            word = "CORRECT" if expected[key] != errs else "WRONG"
            content = f"<verdict-{nonce}>{word}</verdict-{nonce}>"
            body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--judge-url")
    parser.add_argument("--model", default="judge")
    parser.add_argument("--api-key-env")
    parser.add_argument("--cache")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--scripted", action="store_true", help="a stand-in that knows the human verdicts")
    parser.add_argument("--errors", type=float, default=0.0, help="share of the stand-in's answers that are wrong")
    parser.add_argument("--list", action="store_true", help="print every disagreement of the rules")
    options = parser.parse_args()
    cases = [json.loads(line) for line in options.cases.read_text(encoding="utf-8").splitlines() if line.strip()]
    started = time.perf_counter()
    by_rule = graded(Truth(), cases, at_once=1)
    print(f"{len(cases)} cases, {(time.perf_counter() - started) * 1e3 / len(cases):.2f} ms each by rule")
    report("rules alone", cases, by_rule)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(scripted(cases, errors=options.errors)) if options.scripted else options.judge_url
        if url:
            judge = Judge(
                url=url, model=options.model, api_key_env=options.api_key_env, cache=options.cache,
                concurrency=options.concurrency,
            )  # fmt: skip
            judged = graded(judge, cases, at_once=options.concurrency)
            clear = [i for i, grade in enumerate(judged) if isinstance(grade, Grade) and not grade.parts["judged"]]
            report("what the rules decide for good", [cases[i] for i in clear], [judged[i] for i in clear])
            who = f"a stand-in that errs on {100 * options.errors:g} %" if options.scripted else options.model
            report(f"rules, then {who}", cases, judged)
    if options.list:
        listed(cases, by_rule)


if __name__ == "__main__":
    main()
