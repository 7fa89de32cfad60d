"""`softprompt frozen`: what a model does with a task before any prompt is trained."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from ._flatten import flatten
from ._references import ends, named
from ._rows import OwnRows, with_options
from .options import DataRoot, Device, Frozen, Json, MaxBadRows, NewModel, Style, TaskOption
from .printing import print_json, table
from .required import required_model

if TYPE_CHECKING:
    from ..inference.frozen_report import FrozenReport
    from ..inference.wordings import ScoredWording

# So many wordings are shown; --json has all.
MOST_WORDINGS = 6


@flatten
def frozen(
    task: Annotated[str | None, typer.Argument(help="Name from `softprompt tasks list`, or a file of rows.")] = None,
    *,
    model: NewModel = None,
    limit: Annotated[int, typer.Option(min=2, help="Number of rows of the split, drawn by seed 0.")] = 200,
    split: Annotated[str, typer.Option(help="Split: validation or test, by the split rule of training.")] = "test",
    wordings: Annotated[
        bool, typer.Option(help="Also compare known templates and casings of the label words, on training rows.")
    ] = True,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Largest number of tokens of a text. Default: the task's value.")
    ] = None,
    task_option: TaskOption = None,
    data_root: DataRoot = None,
    json_lines: Json = False,
    device: Device = "auto",
    rows: Annotated[OwnRows, "Rows of your own"],
    style: Style = None,
    max_bad_rows: MaxBadRows = 0,
    frozen: Frozen,
) -> None:
    """Score a frozen model on a task without a prompt, with an instruction, and with examples in context.

    All are scored on the same rows, with 95 % intervals. A trained prompt has to be better.
    """
    model = required_model(model, example="HuggingFaceTB/SmolLM2-135M-Instruct")
    from ..inference.frozen_report import measure_frozen

    report = measure_frozen(
        with_options(rows.task(task), task_option),
        dataclasses.replace(frozen, name=model, device=device),
        style=style,
        wording=rows.wording(task),
        split=split,
        limit=limit,
        wordings=wordings,
        max_length=max_length,
        data_root=data_root,
        max_bad_rows=max_bad_rows,
    )
    if json_lines:
        for line in report.to_json():
            print_json(line)
    else:
        print(format_report(report))


def format_report(report: "FrozenReport") -> str:
    """The tables and what follows from them, as a person reads them."""
    rows = [
        {
            "without training": named(line),
            "score": line.score,
            "95 % interval": ends(line.interval),
            "calibrated": line.calibrated,
        }
        for line in report.baselines
    ]
    parts = [f"{report.model} on {report.rows} {report.split} rows of {report.task}", table(rows)]
    if any(line.calibrated is not None for line in report.baselines):
        parts.append(f"calibrated: a bias for each class, fitted on {report.fitted_rows} training rows")
    if report.wordings:
        wordings = [
            {"wording": way.name, "label words": " ".join(way.task.labels), "score": way.score}
            for way in report.wordings[:MOST_WORDINGS]
        ]
        parts += [
            "",
            f"known wordings on {report.fitted_rows} training rows",
            table(wordings),
            _advice(report.wordings[0]),
        ]
    return "\n".join(parts)


def _advice(best: "ScoredWording") -> str:
    """The best wording as it is given on the command line."""
    words = ",".join(best.task.labels)
    template = (best.task.template + (best.task.cue or "")).replace("\n", "\\n")
    instruction = best.task.instruction.replace("\n", "\\n")
    return f'best there: --instruction "{instruction}" --template "{template}" --label-words "{words}"'
