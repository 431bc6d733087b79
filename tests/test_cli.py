"""The command line: help that reads, JSON where asked, and one line on stderr for each mistake."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rlvr import cli

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
QUICKSTART = str(Path(__file__).resolve().parent.parent / "launch" / "quickstart_cpu.toml")


@pytest.fixture(autouse=True)
def _no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with wide output, and leave the environment as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


def rlvr(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line as the program does; give its exit status."""
    monkeypatch.setattr(sys, "argv", ["rlvr", *arguments])
    try:
        cli.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_reads_fine(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    summary = (COMMANDS[command].help or "").strip().splitlines()[0]
    assert summary[0].isupper()
    assert summary.endswith(".")
    assert summary in result.output
    for parameter in COMMANDS[command].params:
        assert parameter.name == "help" or parameter.help, f"{command} {parameter.name} says nothing of itself"


def test_help_lists_every_command_and_no_command_is_help() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)
    assert {"train", "eval", "check", "plugins", "doctor", "report"} <= set(COMMANDS)
    assert "Usage" in CliRunner().invoke(cli.app, []).output


def test_a_dry_run_prints_the_resolved_recipe_and_nothing_else(monkeypatch, capsys) -> None:
    status = rlvr(monkeypatch, "train", QUICKSTART, "--dry-run", "--set", "steps=7", "--set", "payoff.wrong=-2")
    printed = capsys.readouterr()
    assert status == 0
    assert printed.err == ""
    resolved = json.loads(printed.out)
    assert (resolved["steps"], resolved["payoff"]["wrong"], resolved["name"]) == (7, -2.0, "quickstart")
    assert resolved["rollout"]["grading_processes"] == 1, "defaults are spelt out"
    assert list(Path.cwd().iterdir()) == [], "a dry run leaves nothing behind"


MISTAKES: list[tuple[list[str], int, str]] = [
    (["train", "no.toml"], 2, "rlvr: there is no recipe no.toml; launch/ holds some to start from"),
    (["train", "bad.toml"], 2, "rlvr: bad.toml is not valid TOML: "),
    (["train", QUICKSTART, "--dry-run", "--set", "stepz=3"], 2, "unknown key stepz; did you mean steps?"),
    (["train", QUICKSTART, "--set", "steps=three"], 2, "steps = 'three': input should be a valid integer"),
    (["train", QUICKSTART, "--set", "steps"], 2, "rlvr: --set takes a.b=c, not 'steps'"),
    (["train", QUICKSTART, "--inject", "weights.drop"], 2, "--inject takes FAULT@VERSION with FAULT one of weights."),
    (["train", QUICKSTART, "--inject", "disk.full@3"], 2, "--inject takes FAULT@VERSION with FAULT one of weights."),
    (["train", QUICKSTART, "--set", "environment.name=arithmatic"], 2, "did you mean 'arithmetic'?"),
    (["train", QUICKSTART, "--set", "environment.digits=3"], 2, "environment 'arithmetic' has no option 'digits'"),
    (["train", QUICKSTART, "--set", "model.path=smollm"], 2, "there is no model 'smollm': model.path takes a folder"),
    (["train", QUICKSTART, "--resume"], 1, "holds no checkpoint to resume from; start without --resume"),
    (["eval", "no.toml"], 2, "rlvr: there is no recipe no.toml"),
    (["eval", QUICKSTART, "--model", "nowhere"], 2, "there is no model 'nowhere'"),
    (["eval", QUICKSTART, "--model", "."], 2, "model.path '.' is a folder without config.json"),
    (["check", "nothing"], 2, "rlvr: no reward is called 'nothing'"),
    (["check", "no_module:Thing"], 2, "No module named 'no_module'"),
    (["check", "math", "--option", "strict"], 2, "rlvr: --option takes KEY=VALUE, not 'strict'"),
    (["check", "math", "--option", "unheard=1"], 2, "has no option 'unheard'"),
    (["report", "nowhere"], 2, "rlvr: nowhere has no steps in metrics.jsonl"),
]


@pytest.mark.parametrize(("arguments", "status", "sentence"), MISTAKES, ids=[" ".join(m[0][::2]) for m in MISTAKES])
def test_a_mistake_is_one_line_on_stderr(monkeypatch, capfd, arguments, status: int, sentence: str) -> None:
    def must_not_start(*_: Any, **__: Any) -> None:
        pytest.fail("nothing may be started before the mistake is found")

    monkeypatch.setattr("rlvr.loop.driver.Cluster", must_not_start)
    Path("bad.toml").write_text("name = \n")
    assert rlvr(monkeypatch, *arguments) == status
    printed = capfd.readouterr()
    said = printed.err.strip().splitlines()
    assert sentence in said[-1]
    assert said[-1].startswith("rlvr: ")
    assert "Traceback" not in printed.err + printed.out
    assert len(said) == 1
    assert [path.name for path in Path.cwd().iterdir()] == ["bad.toml"], "a mistake leaves no run behind"


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", QUICKSTART, "--no-such"], ["eval", QUICKSTART, "--samples", "0"]]
)
def test_wrong_usage_exits_with_two_and_points_to_help(monkeypatch, capfd, arguments: list[str]) -> None:
    assert rlvr(monkeypatch, *arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "--help" in printed.err


def test_plugins_lists_what_is_installed_with_its_origin(monkeypatch, capsys) -> None:
    assert rlvr(monkeypatch, "plugins") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["environment", "arithmetic", "rlvr_environments.arithmetic:Arithmetic", "(rlvr)"] in rows
    assert ["reward", "math", "rlvr_rewards.math:Math", "(rlvr)"] in rows


@pytest.mark.parametrize("plugin", ["arithmetic", "math", "rlvr_environments.arithmetic:Arithmetic"])
def test_our_own_plug_ins_keep_their_contract(monkeypatch, capsys, plugin: str) -> None:
    assert rlvr(monkeypatch, "check", plugin) == 0
    assert capsys.readouterr().out == f"{plugin} keeps its contract\n"


def test_check_hands_options_over(monkeypatch, capsys) -> None:
    assert rlvr(monkeypatch, "check", "arithmetic", "--option", "examples=2", "--option", 'operations=["add2"]') == 0
    assert "keeps its contract" in capsys.readouterr().out


def test_a_broken_plug_in_is_told_what_is_wrong(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "forgetful_plugin.py").write_text(
        "class Forgetful:\n    def tasks(self, split, *, seed):\n        return iter(())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert rlvr(monkeypatch, "check", "forgetful_plugin:Forgetful") == 2
    printed = capsys.readouterr()
    assert "- tasks('train') gives no task" in printed.out
    assert printed.err == "rlvr: forgetful_plugin:Forgetful breaks its contract in 2 place(s)\n"


@pytest.mark.parametrize(("state", "status"), [("ok", 0), ("note", 0), ("missing", 1)])
def test_doctor_says_what_it_found(monkeypatch, capsys, state: str, status: int) -> None:
    from rlvr.observe.doctor import Fact

    monkeypatch.setattr("rlvr.observe.doctor.examine", lambda: [Fact("torch", state, "pip install rlvr[gpu]")])
    assert rlvr(monkeypatch, "doctor", "--json") == status
    assert json.loads(capsys.readouterr().out) == [{"name": "torch", "state": state, "text": "pip install rlvr[gpu]"}]
    assert rlvr(monkeypatch, "doctor") == status
    assert capsys.readouterr().out.endswith(" torch: pip install rlvr[gpu]\n"), "brackets are no markup"


def test_doctor_examines_this_machine(monkeypatch, capsys) -> None:
    rlvr(monkeypatch, "doctor", "--json")
    facts = json.loads(capsys.readouterr().out)
    assert {"python", "cores", "memory", "torch", "ray", "vllm"} <= {fact["name"] for fact in facts}
    assert {fact["state"] for fact in facts} <= {"ok", "note", "missing"}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let training end at once after 2 steps; give what it was called with."""
    calls: list[dict[str, Any]] = []

    def train(_: Any, **settings: Any) -> dict[str, Any]:
        calls.append(settings)
        return {"steps": 2}

    monkeypatch.setattr("rlvr.loop.driver.train", train)
    return calls


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [
        (0, 3, "WeightProofError: worker=all version=0 the injected fault was pushed and nothing noticed"),
        (2, 3, "WeightProofError: worker=all version=2 the injected fault was pushed and nothing noticed"),
        (3, 1, "the injected fault weights.drop@3 was never reached"),
    ],
)
def test_a_fault_that_did_not_end_the_run_is_told(monkeypatch, capsys, trained, version, status, said) -> None:
    assert rlvr(monkeypatch, "train", QUICKSTART, "--inject", f"weights.drop@{version}") == status
    assert capsys.readouterr().err.strip() == said
    assert trained[0]["fault"].version == version


def test_a_fault_that_a_run_goes_on_behind_is_told(monkeypatch, capsys, trained) -> None:
    assert rlvr(monkeypatch, "train", QUICKSTART, "--inject", "weights.kill@2") == 0
    assert capsys.readouterr().out.strip().endswith("the injected fault weights.kill@2 was survived")


def test_the_command_after_ctrl_c_repeats_the_whole_recipe(monkeypatch, capsys) -> None:
    from rlvr.loop.driver import Interrupted

    def train(*_: Any, **__: Any) -> None:
        raise Interrupted("stopped after step 1 of 3 and saved in run")

    monkeypatch.setattr("rlvr.loop.driver.train", train)
    Path("my recipe.toml").write_text(Path(QUICKSTART).read_text())
    arguments = ["train", "my recipe.toml", "--set", "steps=3", "--set", 'environment.operations=["add2"]']
    arguments += ["--run-dir", "my run"]
    assert rlvr(monkeypatch, *arguments) == 130
    (command,) = re.findall("go on with: (.*)", capsys.readouterr().out)
    assert shlex.split(command) == ["rlvr", *arguments, "--resume"]


def evaluation(folder: Path, *tasks: str, verdicts: tuple[str, ...] = ("CORRECT",)) -> list[dict[str, Any]]:
    """Write a run's last evaluation, with one reply per verdict to each task."""
    lines = [{"task_id": task, "verdict": verdict, "why": ""} for task in tasks for verdict in verdicts]
    folder.mkdir(exist_ok=True)
    (folder / "eval_after.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def test_runs_that_share_no_task_cannot_be_compared(monkeypatch, capsys, tmp_path: Path) -> None:
    evaluation(tmp_path / "one", "a", "b")
    evaluation(tmp_path / "two", "c")
    assert rlvr(monkeypatch, "compare", "one", "two") == 2
    said = "rlvr: one and two were evaluated on different tasks, so that there is nothing to pair\n"
    assert capsys.readouterr().err == said
    evaluation(tmp_path / "two", "b")
    assert rlvr(monkeypatch, "compare", "one", "two") == 0
    assert "of 1, p = 1" in capsys.readouterr().out


@pytest.mark.parametrize(("samples", "said"), [(1, ["eval accuracy"]), (2, ["pass@1", "pass@2"])])
def test_replies_to_one_task_get_no_interval_as_if_they_were_independent(
    monkeypatch, capsys, tmp_path: Path, samples: int, said: list[str]
) -> None:
    lines = evaluation(tmp_path / "run", "a", "b", verdicts=("CORRECT", "WRONG")[:samples])
    monkeypatch.setattr("rlvr.loop.driver.evaluate_model", lambda *_, **__: lines)
    assert rlvr(monkeypatch, "eval", QUICKSTART, "--samples", str(samples)) == 0
    printed = capsys.readouterr().out
    assert [name for name in ("eval accuracy", "pass@1", "pass@2") if name in printed] == said


def test_a_second_ctrl_c_promises_nothing_that_may_not_be_there(monkeypatch, capsys) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", stopped)
    assert rlvr(monkeypatch, "train") == 130
    assert capsys.readouterr().err == "rlvr: stopped at once; what was saved before is kept\n"


def test_an_environment_with_too_few_tasks_is_one_sentence(monkeypatch, capsys) -> None:
    assert rlvr(monkeypatch, "train", QUICKSTART, "--set", 'environment.operations=["mul12"]') == 2
    said = capsys.readouterr().err
    assert said.startswith("rlvr: environment 'arithmetic': mul12 have only ")
    assert len(said.splitlines()) == 1


def test_grade_writes_verdicts_and_says_how_many(tmp_path: Path, monkeypatch, capsys) -> None:
    cases = [{"reply": f"Answer: {i}", "truth": "1", "id": i} for i in range(3)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    command = ("grade", "math", "--in", "cases.jsonl", "--out", "verdicts.jsonl", "--payoff", "ternary")
    assert rlvr(monkeypatch, *command, "--option", "marked_only=true") == 0
    lines = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    assert [(line["id"], line["verdict"], line["value"]) for line in lines] == [
        (0, "WRONG", -1.0), (1, "CORRECT", 1.0), (2, "WRONG", -1.0),
    ]  # fmt: skip
    said = capsys.readouterr()
    assert re.search(r"CORRECT +33\.3 % \[6\.1, 79\.2\] of 3", said.err)
    assert said.out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence", "status"),
    [
        (("math", "--in", "no.jsonl"), "there is no file no.jsonl to grade", 2),
        (("maths", "--in", "cases.jsonl"), "no reward is called 'maths' (did you mean 'math'?)", 2),
        (("math", "--in", "cases.jsonl", "--payoff", "all"), "--payoff: a payoff is one of ternary", 2),
        (("math", "--in", "cases.jsonl", "--timeout-s", "0"), "--timeout-s must be above 0, not 0", 2),
        (("math", "--in", "cases.jsonl", "--option", "speed=1"), "reward 'math' has no option 'speed'", 2),
        (("math", "--in", "cases.jsonl"), "none of the 1 replies could be graded", 1),
    ],
)
def test_what_grade_cannot_do_is_one_sentence(
    arguments: tuple[str, ...], sentence: str, status: int, tmp_path: Path, monkeypatch, capsys
) -> None:
    (tmp_path / "cases.jsonl").write_text('{"reply": "4", "truth": null}\n')
    assert rlvr(monkeypatch, "grade", *arguments, "--out", "verdicts.jsonl") == status
    assert f"rlvr: {sentence}" in capsys.readouterr().err
