"""What `softprompt demo` prints on a real language model: one table, the prompt beside the instruction, one row."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._answered import answered
from ._layout import width_of
from ._references import comparison_table, ends
from .printing import say

if TYPE_CHECKING:
    from ..lab.reviews import ReviewsDemo, ReviewsReport


def announced(plan: "ReviewsDemo") -> str:
    """What is about to be done."""
    prompts = "1 prompt" if plan.seeds == 1 else f"{plan.seeds} prompts"
    return (
        f"{prompts} on examples/reviews, {plan.steps} steps of {plan.settings.batch_size} rows; each begins as the "
        f"words {plan.task.instruction!r} in front of the frozen {plan.model}"
    )


def verdict(report: "ReviewsReport") -> str:
    """Whether the best prompt is better than the instruction, as far as these rows can tell."""
    comparison = report.comparison
    prompt = next(line for line in comparison.prompts if line.name == report.best.prompt)
    low, high = prompt.difference_interval
    if low > 0:
        decided = "the prompt is better"
    elif high < 0:
        decided = "the prompt is worse"
    else:
        decided = "so few rows do not decide which is better"
    return (
        f"Best on validation: {prompt.name}, {prompt.score:.3f} on the test rows; the instruction has "
        f"{comparison.best.score:.3f}.\n"
        f"The difference is {prompt.difference:+.3f} (95 % interval {ends(prompt.difference_interval, sign='+')}): "
        f"{decided}.\n"
        f"Training put {report.gained} rows right that the instruction had wrong, and {report.lost} the other way."
    )


def next_commands(plan: "ReviewsDemo", report: "ReviewsReport") -> list[str]:
    """The words after `softprompt` of commands that the user can run unchanged."""
    prompt = str(report.run.folder / report.best.prompt / "prompt")
    files, task = {split: _short(file) for split, file in plan.files.items()}, report.task
    rows = ["--data", files["train"], "--validation-data", files["validation"], "--test-data", files["test"],
            "--text-column", "sentence", "--label-column", "label", "--instruction", task.instruction,
            "--template", task.template.replace("\n", "\\n")]  # fmt: skip
    commands = [
        ["predict", prompt, "I would buy it again."],
        ["evaluate", prompt],
        ["frozen", *rows, "--model", plan.model],
    ]
    return [shlex.join(words) for words in commands]


def _short(file: str) -> str:
    """A path from where the program was started, if it leads down from there."""
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def show(plan: "ReviewsDemo", progress: bool, program: str) -> None:
    """Train, and print what was found."""
    say(announced(plan))
    report = plan.show(progress=progress)
    print(comparison_table(report.comparison, width_of(sys.stdout)))
    print(f"\n{verdict(report)}")
    if report.seen is not None:
        print(f"\none row   {report.seen.row['sentence']!r}, right: {report.seen.right}")
        print(f"  instruction  {answered(report.seen.before)}")
        print(f"  prompt       {answered(report.seen.after)}   ({report.best.prompt})")
    print(f"\n{report.seconds:.0f} seconds; written to {plan.output}")
    print("\ntry next")
    for line in next_commands(plan, report):
        print(f"  {program} {line}")
