"""`softprompt demo`: a few methods on two lab tasks, in about a minute on a CPU; or one prompt on a real model."""

import dataclasses
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from ._answered import answered
from ._demo_reviews import show as show_reviews
from ._layout import laid_out, width_of
from ._several import summary
from .options import DataRoot, Device, Quiet
from .printing import cell, say
from .required import default_folder

if TYPE_CHECKING:
    from ..lab.compared import TaskReport
    from ..lab.demo import Demo

# A row of the first task, in the demo's folder.
ROW = "row.jsonl"
# Bytes of a stored number: float32.
BYTES = 4


def demo(
    task: Annotated[
        list[str] | None,
        typer.Option(help="Name from `softprompt tasks list`; may be repeated. Default: lab/entailment, lab/purchase."),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Name from `softprompt methods list`; may be repeated. Default: prompt-tuning, ept-star, residual, "
            "scaled."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of prompts of each method.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: 150; 20 on a real model.")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="Frozen model: a built-in name; or smollm2, a folder or a hub id, for the demonstration on reviews."
        ),
    ] = "lab-t5",
    data_root: DataRoot = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write. Default: runs/demo-<time>.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train prompts by several methods on small tasks, and compare them. Offline, on the CPU.

    Prints tables, one prediction before and after, what was written, and what to try next. On a real model without
    --task, trains prompts that begin as an instruction on the reviews of a checkout, and shows them beside the frozen
    model, the instruction and examples in context, on the same rows.
    """
    from ..builtin import BUILT_IN
    from ..lab.demo import DEMO_METHODS, DEMO_STEPS, DEMO_TASKS, Demo
    from ..lab.reviews import ReviewsDemo

    folder = output or default_folder("demo")
    if model not in BUILT_IN and not task:
        if method:
            raise BadInput("--method goes with --task on a real model; without a task the demo shows prompt tuning")
        plan = ReviewsDemo(model=model, seeds=seeds, output=folder, device=device)
        show_reviews(plan if steps is None else dataclasses.replace(plan, steps=steps), not quiet, program())
        return
    plan = Demo(
        tasks=task or DEMO_TASKS,
        methods=method or DEMO_METHODS,
        seeds=seeds,
        steps=DEMO_STEPS if steps is None else steps,
        model=model,
        output=folder,
        data_root=data_root,
        device=device,
    )
    say(
        f"{len(plan.prompts)} prompts on each of {len(plan.declared)} tasks, {plan.steps} steps, all prompts of a task "
        f"in the same passes of the frozen {plan.model}"
    )
    reports: list[TaskReport] = []

    def tell(report: "TaskReport") -> None:
        reports.append(report)
        _tell(report)

    plan.show(tell, progress=not quiet)
    print(f"\nwritten to {plan.output}")
    print(f"  {reports[0].run.folder}/ and so on   the runs with all prompts")
    print(f"  {plan.output / 'figures'}/   norms over steps, cosines before and after; numbers beside them")
    print(f"  {plan.output / 'results.json'}   all scores")
    print(f"  {plan.output / 'peft'}/   {reports[0].best.prompt} for stock PEFT, with a README")
    print("\ntry next")
    for line in [*next_commands(plan, reports[0]), predict_command(plan, reports)]:
        print(f"  {line}")


def _tell(report: "TaskReport") -> None:
    _say(f"\n{report.task.name}: {report.rows} test rows, answers {' | '.join(report.task.labels) or 'in free text'}")
    _say(f"scores are {metric(report)}; 1.000 is all rows right\n")
    rows = table_rows(report)
    _print(rows, references(report))
    _say(caveat(max(row["prompts"] for row in summary(report.run.results))))
    _say(conclusion(report, rows))
    _say(f"\none row   {report.task.render(report.seen.row).text!r}, right: {report.seen.right}")
    _say(f"  before  {answered(report.seen.before)}")
    _say(f"  after   {answered(report.seen.after)}   ({report.best.prompt})")
    sys.stdout.flush()


def metric(report: "TaskReport") -> str:
    """The name of the score in the table."""
    names = report.task.scores
    return names[0] if len(names) == 1 else f"means of {' and '.join(names)}"


def conclusion(report: "TaskReport", rows: Sequence[Mapping[str, Any]]) -> str:
    """What the table says, and why the instruction scores what it does."""
    scored = [row for row in rows if row["mean"] is not None]
    if not scored:
        return ""
    best = max(scored, key=lambda row: row["mean"])
    from_text = "" if report.unprompted is None else f", from {report.unprompted:.3f} for the text alone"
    reached = f"The best mean is {best['mean']:.3f} ({best['method']}){from_text}."
    if report.instructed is None:
        return reached
    missing = report.instructed - best["mean"]
    rest = f" The missing {missing:.3f} is what training did not find." if missing > 0 else ""
    return (
        f"The instruction scores {report.instructed:.3f} because the frozen model was pretrained on exactly these "
        "words: it can do the task, and the instruction is the ceiling, not a rival. A prompt is not told the words; "
        f"it finds from labelled rows what they do. {reached}{rest}"
    )


def _say(text: str) -> None:
    """Lines of text on standard output, broken at blanks where a terminal is narrower."""
    width = width_of(sys.stdout)
    for line in text.split("\n"):
        print(line if width is None else textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False))


def caveat(seeds: int) -> str:
    """How reliable the table is."""
    if seeds == 1:
        return "Test scores of one prompt a method: a difference between methods may be chance; try --seeds 3."
    return f"Test scores of {seeds} prompts a method: a difference smaller than the deviations says nothing."


def table_rows(report: "TaskReport") -> list[dict[str, Any]]:
    """One row a method: its test scores over seeds, the norm of its prompts, what is trained and stored.

    Stuck is not half of the way from the majority class to the best prompt here, or to the instruction if that is
    better: where nothing learns, the best prompt is no ceiling.
    """
    first = {prompt.method: prompt for prompt in reversed(report.run.results)}
    return [
        {
            "method": row["method"],
            "mean": row["test mean"],
            "deviation": row["deviation"],
            "worst": row["worst"],
            "stuck": row["stuck"],
            "token norms": row["token norms (band 1-10)"],
            "trained": first[row["method"]].trainable,
            "bytes": BYTES * row["stored"],
        }
        for row in summary(report.run.results, report.instructed or 0.0)
    ]


def references(report: "TaskReport") -> list[dict[str, Any]]:
    """The references of the scores, as far as there are any."""
    named = {
        "always the same class": report.majority,
        "frozen model, text alone": report.unprompted,
        f"frozen model, {report.instruction!r}": report.instructed,
    }
    return [{"method": name, "mean": score} for name, score in named.items() if score is not None]


def next_commands(plan: "Demo", report: "TaskReport") -> list[str]:
    """Commands that the user can run unchanged."""
    prompt = str(report.run.folder / report.best.prompt / "prompt")
    model = ["--model", plan.model]
    root = [] if plan.data_root is None else ["--data-root", str(plan.data_root)]
    task = ["--task", report.task.name]
    commands = [
        ["show", str(report.run.folder)],
        ["evaluate", prompt, "--split", "validation", *root],
        ["demo", *task, *model, "--method", "scaled", "--method", "polar", *root],
        ["train", *task, *model, "--method", "prompt-tuning", "--units", "rms", "--steps", str(plan.steps), *root],
    ]
    if not report.task.source.world:
        return [shlex.join([program(), *words]) for words in commands]
    return [
        shlex.join([program(), *words])
        for words in [*commands, ["demo", "--task", "lab/warm", "--task", "lab/item", *model]]
    ]


def predict_command(plan: "Demo", reports: Sequence["TaskReport"]) -> str:
    """A command that answers as it stands: a text, or where every task reads several columns, the row that is shown."""
    for report in reports:
        if len(report.task.columns) == 1:
            prompt, given = report, [report.seen.row[report.task.columns[0]]]
            break
    else:
        prompt, given = reports[0], ["--file", str(plan.output / ROW)]
    return shlex.join([program(), "predict", str(prompt.run.folder / prompt.best.prompt / "prompt"), *given])


def program() -> str:
    """How this program is called here: by its name where the shell finds it, else by its path."""
    return "softprompt" if shutil.which("softprompt") or not sys.argv[0] else sys.argv[0]


def _print(rows: Sequence[Mapping[str, Any]], below: Sequence[Mapping[str, Any]]) -> None:
    """The table of methods, and below it the references."""
    width = width_of(sys.stdout)
    names = list(rows[0])
    lines = [[_cell(value) for value in row.values()] for row in rows]
    print(laid_out(names, lines, [False, *[True] * (len(names) - 1)], width))
    print()
    if below:
        scores = [[row["method"], _cell(row["mean"])] for row in below]
        print(laid_out(["compared with", "score"], scores, [False, True], width))
        print()


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else cell(value)
