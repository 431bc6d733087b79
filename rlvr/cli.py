"""The command line. Every failure that we can explain is one line on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlvr.errors import ConfigError, GradingError, PluginError, RlvrError, WeightProofError

BEGAN = time.perf_counter()

app = typer.Typer(
    help="Reinforcement learning of language models with rewards that can be checked.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
)  # fmt: skip

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a TOML file; launch/ holds some to start from.")]
Override = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one key of the recipe. Can be given several times."),
]

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the plug-in, its value JSON or plain text."),
]


@app.command()
def train(
    recipe: RecipePath,
    set_: Override = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept. Default: runs/NAME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of the run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe as JSON and stop.")] = False,
    inject: Annotated[
        str | None,
        typer.Option(metavar="FAULT@VERSION", help="Break a weight push on purpose, to see it caught (weights.corrupt, "
                     "drop, partial, stale_head) or survived (weights.kill, hang, slow, duplicate, reorder)."),
    ] = None,
) -> None:  # fmt: skip
    """Train a model by a recipe, with held-out evaluation before and after."""
    from rlvr.config import load_recipe

    resolved = load_recipe(recipe, overrides=set_ or ())
    if dry_run:
        typer.echo(json.dumps(resolved.model_dump(mode="json"), indent=2))
        return
    from rlvr.observe.progress import RunView

    _require_training()
    from rlvr.loop.driver import Interrupted
    from rlvr.loop.driver import train as run
    from rlvr.weights.faults import parse_fault

    try:
        fault = parse_fault(inject) if inject else None
    except ValueError as error:
        raise ConfigError(str(error)) from error
    folder = run_dir or Path("runs") / resolved.name
    with RunView(resolved.name, steps=resolved.steps) as view:
        view.header(
            {
                "model": resolved.model.path,
                "algorithm": resolved.algorithm.preset,
                "environment": resolved.environment.name,
                "hardware": resolved.hardware.kind,
            }
        )
        try:
            summary = run(resolved, run_dir=folder, resume=resume, fault=fault, view=view, began=BEGAN)
        except Interrupted as stopped:
            again = ["rlvr", "train", str(recipe), *(part for one in set_ or () for part in ("--set", one))]
            again += ["--run-dir", str(run_dir)] if run_dir else []
            view.warn(f"{stopped}; go on with: {shlex.join([*again, '--resume'])}")
            raise typer.Exit(130) from None
    if fault:
        if fault.version > summary["steps"]:
            typer.echo(f"the injected fault {inject} was never reached", err=True)
            raise typer.Exit(1)
        if not fault.survived:
            raise WeightProofError("all", fault.version, "the injected fault was pushed and nothing noticed")
        typer.echo(f"the injected fault {inject} was survived")


@app.command(name="eval")
def evaluate(
    recipe: RecipePath,
    set_: Override = None,
    model: Annotated[str | None, typer.Option(help="A model (a checkpoint, say) instead of the recipe's.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies per task; above 1 sampled, for pass@k.")] = 1,
    out: Annotated[Path, typer.Option(help="Where the replies are written.")] = Path("eval.jsonl"),
) -> None:
    """Evaluate a model on the recipe's held-out tasks, with 95 % intervals."""
    from rlvr.config import load_recipe

    overrides = [*(set_ or ()), *([f"model.path={json.dumps(model)}"] if model else [])]
    resolved = load_recipe(recipe, overrides=overrides)
    _require_training()
    from rlvr.loop.driver import evaluate_model
    from rlvr.loop.evaluate import accuracy_of, pass_at
    from rlvr.observe.progress import RunView

    with RunView(resolved.name, steps=0) as view:
        lines = evaluate_model(resolved, view=view, samples=samples, out=out)
        if samples == 1:  # replies to one task are no independent observations
            view.evaluation("accuracy", accuracy_of(lines))
        for k, share in pass_at(lines, samples=samples).items():
            view.phase(f"pass@{k}: {100 * share.estimate:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]")
        view.phase(f"replies in {out}")


@app.command()
def grade(
    reward: Annotated[str, typer.Argument(help="A name that `rlvr plugins` lists, or module:attr.")],
    source: Annotated[Path, typer.Option("--in", help='Cases, a line each: {"reply", "truth"[, "id", "question"]}.')],
    out: Annotated[Path, typer.Option(help="Verdicts, a line each, in the same order.")],
    option: Options = None,
    payoff: Annotated[
        str | None,
        typer.Option(help="What verdicts pay: ternary, binary, out_of_knowledge or calibrated. Default: what the "
                     "reward says of itself; else the value is its score."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Default: one for each core.")] = os.cpu_count() or 1,
    timeout_s: Annotated[float | None, typer.Option(help="Seconds for one reply. Default: as in training.")] = None,
    memory_mb: Annotated[int, typer.Option(min=1, help="MiB that grading one reply may take.")] = 2048,
) -> None:  # fmt: skip
    """Grade a file of replies, to test a reward before training with it."""
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from rlvr import plugins
    from rlvr.core.payoff import Payoff
    from rlvr.core.stats import wilson_interval
    from rlvr.loop.grade import cases_in, grade_file
    from rlvr.observe.progress import interval_text
    from rlvr.rollout.grading import GradingPool, RewardSpec

    options = dict(_option(text) for text in option or ())
    try:
        paid = Payoff(kind=payoff) if payoff else plugins.default_payoff(reward, options)
    except ValueError as error:
        raise ConfigError(f"--payoff: {error}") from error
    if timeout_s is not None and not timeout_s > 0:
        raise ConfigError(f"--timeout-s must be above 0, not {timeout_s:g}")
    spec = RewardSpec(name=reward, options=options)
    console = Console(stderr=True, highlight=False)
    total = cases_in(source)
    pool = GradingPool([spec], processes=min(processes, total), timeout_s=timeout_s, memory_mb=memory_mb)
    try:
        pool.start()
        with Progress(
            *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=console,
            transient=True, disable=not console.is_terminal,
        ) as bar:  # fmt: skip
            row = bar.add_task(reward, total=total)
            counts = grade_file(pool, source=source, target=out, payoff=paid, advance=lambda: bar.advance(row))
    finally:
        pool.close()
    graded = total - counts["UNGRADED"]
    for verdict in ("CORRECT", "ABSTAINED", "WRONG") if graded > counts[""] else ():
        share = wilson_interval(counts[verdict], graded)
        console.print(f"{verdict:<9} {interval_text(share.estimate, share.low, share.high, n=share.n)}")
    if pool.lost:
        console.print(f"[yellow]! {pool.lost} grading processes were killed from outside and replaced[/]")
    if counts["UNGRADED"]:
        console.print(f"[yellow]! {counts['UNGRADED']} of {total} went ungraded: {out} says why[/]")
    if not graded:
        raise GradingError(f"none of the {total} replies could be graded; {out} says why")


@app.command()
def check(
    plugin: Annotated[str, typer.Argument(help="A name that `rlvr plugins` lists, or module:attr.")],
    environment: Annotated[
        str | None,
        typer.Option(help="For a reward: whose tasks it grades. Default: that of the same name, else arithmetic."),
    ] = None,
    option: Options = None,
) -> None:
    """Run the contract suite on an environment or a reward."""
    from itertools import islice

    from rlvr import plugins, testing

    options = dict(_option(text) for text in option or ())
    group = _group_of(plugin)
    made = plugins.create(group, plugin, options)
    if group == plugins.ENVIRONMENTS:
        findings = testing.check_environment(made)
    else:
        named = plugin if plugin in plugins.known(plugins.ENVIRONMENTS) else "arithmetic"
        tasks = plugins.create(plugins.ENVIRONMENTS, environment or named, {}).tasks("eval", seed=0)
        findings = testing.check_reward(made, list(islice(tasks, 64)))
    for finding in findings:
        typer.echo(f"- {finding}")
    if findings:
        raise PluginError(f"{plugin} breaks its contract in {len(findings)} place(s)")
    typer.echo(f"{plugin} keeps its contract")


@app.command(name="plugins")
def list_plugins() -> None:
    """List the environments and rewards that are installed."""
    from rlvr import plugins

    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "where"):
        table.add_column(heading)
    for group in (plugins.ENVIRONMENTS, plugins.REWARDS):
        for name, where in plugins.known(group).items():
            table.add_row(group.removeprefix("rlvr.").rstrip("s"), name, where)
    Console().print(table)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at this machine: what a run would find, and what is missing."""
    from rlvr.observe.doctor import examine

    facts = examine()
    if as_json:
        typer.echo(json.dumps([fact._asdict() for fact in facts], indent=2))
    else:
        for fact in facts:
            mark = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "missing": "[red]✗[/]"}[fact.state]
            Console(highlight=False).print(f"{mark} {fact.name}: {escape(fact.text)}")
    if any(fact.state == "missing" for fact in facts):
        raise typer.Exit(1)


@app.command()
def view(
    run: Annotated[Path, typer.Argument(help="A run directory, of a run that is over or still going on.")],
) -> None:
    """Print a run's steps and results as they were shown while it ran."""
    from rlvr.observe.progress import RunView
    from rlvr.observe.report import load_run

    reports, summary, steps = load_run(run)
    with RunView(run.name, steps=steps) as shown:
        for one in reports:
            shown.step(one)
        if summary:
            shown.finish(summary, run_dir=run)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A run directory.")],
    second: Annotated[Path, typer.Argument(help="Another, evaluated on the same tasks.")],
) -> None:
    """Compare the final accuracy of two runs, paired by task, with a 95 % interval."""
    from rlvr.loop.evaluate import accuracy_of, compare, read
    from rlvr.loop.truthfulness import truthfulness_gains
    from rlvr.observe.progress import RunView, gain_lines
    from rlvr.observe.report import truthfulness_weights

    before, after = (read(run / "eval_after.jsonl") for run in (first, second))
    for run, lines in ((first, before), (second, after)):
        if not lines:
            raise ConfigError(f"{run} has no eval_after.jsonl: it is no run directory, or the run has not ended")
    gain = compare(before, after)
    if gain is None:
        raise ConfigError(f"{first} and {second} were evaluated on different tasks, so that there is nothing to pair")
    with RunView("compare", steps=0) as shown:
        shown.evaluation(str(first), accuracy_of(before))
        shown.evaluation(str(second), accuracy_of(after))
        interval = f"[{gain.low:+.1f}, {gain.high:+.1f}]"
        shown.phase(f"second - first: {gain.points:+.1f} points {interval} of {gain.n}, p = {gain.p_value:.2g}")
        if any(line["verdict"] == "ABSTAINED" for line in (*before, *after)):
            weights, other = (truthfulness_weights(run) for run in (first, second))
            if weights != other:
                shown.warn(f"the runs weigh T differently ({weights} and {other}); here the first one's weights count")
            for line in gain_lines(truthfulness_gains(before, after, weights=weights)):
                shown.phase(": ".join(line))


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="The run directory of a run whose learner failed.")],
    step: Annotated[int, typer.Option(min=1, help="The step that failed.")],
) -> None:
    """Compute a step that was not finite again, reply by reply. Exit status 1 where it is not finite again."""
    _require_training("torch", "transformers")
    from rich.progress import MofNCompleteColumn, Progress

    from rlvr.loop.replay import replay as compute
    from rlvr.observe.progress import replay_table

    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)

    def warn(text: str) -> None:
        errors.print(f"[yellow]! {escape(text)}[/]", soft_wrap=True)

    with Progress(
        *Progress.get_default_columns()[:2], MofNCompleteColumn(), console=errors, transient=True,
        disable=not errors.is_terminal,
    ) as bar:  # fmt: skip
        row = bar.add_task(f"replies of step {step}", total=None)
        found = compute(
            run, step=step, say=warn, progress=lambda done, of: bar.update(row, completed=done, total=of)
        )  # fmt: skip
    console.print(replay_table(found.samples))
    if not found.error:
        loss, norm = (found.metrics.get(name, 0.0) for name in ("loss", "grad_norm"))
        console.print(f"step {step} is finite here: loss {loss:.4g}, gradient norm {norm:.4g}", soft_wrap=True)
        return
    broken = [one for one in found.samples if one.broken]
    console.print(escape(found.error), style="red", soft_wrap=True)
    if broken:
        first = broken[0]
        many = f", and in {len(broken) - 1} others" if broken[1:] else ""
        said = f"first not finite: {first.broken}, in reply {first.index} of group {first.group_id}{many}"
        console.print(escape(said), style="red", soft_wrap=True)
    else:
        console.print("each reply alone is finite: their sum is not, or the critic is not", style="red")
    raise typer.Exit(1)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html: curves, intervals, replies."""
    from rlvr.observe.report import render_report

    typer.echo(str(render_report(run)))


def main() -> None:
    """Run the command line; turn what we can explain into one line and an exit status."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        app()
    except WeightProofError as error:
        print(f"WeightProofError: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except RlvrError as error:
        print(f"rlvr: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("rlvr: stopped at once; what was saved before is kept", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _require_training(*names: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in names or ("torch", "ray", "vllm", "transformers") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}: run `make setup` or pip install rlvr[gpu]")


def _group_of(plugin: str) -> str:
    from rlvr import plugins

    if ":" in plugin:
        return plugins.ENVIRONMENTS if hasattr(plugins.load(plugins.ENVIRONMENTS, plugin), "tasks") else plugins.REWARDS
    found = [g for g in (plugins.ENVIRONMENTS, plugins.REWARDS) if plugin in plugins.known(g)]
    if not found:
        plugins.load(plugins.REWARDS, plugin)  # says what is known
    return found[0]


def _option(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise ConfigError(f"--option takes KEY=VALUE, not {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    main()
