"""`softprompt frozen`: what a model does with a task before any prompt is trained."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import BadInput
from ..settings import ModelSpec
from ..tasks import Task, Wording, rephrased, styled
from ._flatten import flatten
from ._held_against import ends, named
from ._rows import OwnRows, with_options
from .options import DataRoot, Device, Frozen, Json, MaxBadRows, NewModel, Style, TaskOption
from .printing import print_json, table

if TYPE_CHECKING:
    from ..inference.frozen import Baseline
    from ..inference.wordings import Put

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
    if model is None:
        raise BadInput("no model; give --model, a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct or a folder")
    from ..inference.frozen import refuse_no_labels

    declared = with_options(rows.task(task), task_option)
    refuse_no_labels(declared)
    spec = dataclasses.replace(frozen, name=model, device=device)
    lines, ways, about = _measured(
        declared, spec, style, rows.wording(task), limit, split, wordings, data_root, max_bad_rows
    )
    if json_lines:
        for line in lines:
            print_json({**about, **line.to_json()})
        for way in ways:
            print_json(_wording(way))
        return
    print(told(lines, ways, about))


def _measured(
    declared: Task,
    spec: ModelSpec,
    style: str | None,
    wording: Wording,
    limit: int,
    split: str,
    wordings: bool,
    data_root: Path | None,
    max_bad_rows: int,
) -> "tuple[list[Baseline], list[Put], dict[str, Any]]":
    """The baselines, the known wordings with their scores, and what was measured on."""
    from ..backbones import load_backbone
    from ..data import limited, load_rows, rows_of, split_rows
    from ..inference.asked import put
    from ..inference.frozen import baselines, fitting_rows
    from ..inference.wordings import compared

    early = rephrased(styled(declared, style), wording)
    splits = split_rows(early, load_rows(early, data_root, max_bad_rows))
    chosen = limited(rows_of(splits, split), limit)
    backbone = load_backbone(spec)
    task = put(declared, backbone.kind, style, wording)
    lines = baselines(backbone, task, chosen, splits.train, calibrate=True)
    ways = []
    if wordings and backbone.answers != "linear-head" and len(splits.train):
        ways = compared(backbone, task, fitting_rows(splits.train))
    about = {"task": task.name, "model": backbone.name, "split": split, "rows": len(chosen)}
    return lines, ways, about


def told(lines: "Sequence[Baseline]", ways: "Sequence[Put]", about: Mapping[str, Any]) -> str:
    """The tables and what follows from them, as a person reads them."""
    from ..inference.frozen import CALIBRATION, FITTED_ROWS

    rows = [
        {
            "without training": named(line),
            "score": line.score,
            "95 % interval": ends(line.interval),
            "calibrated": line.calibrated,
        }
        for line in lines
    ]
    parts = [f"{about['model']} on {about['rows']} {about['split']} rows of {about['task']}", table(rows)]
    if any(line.calibrated is not None for line in lines):
        parts.append(f"calibrated: {CALIBRATION}")
    if ways:
        wordings = [
            {"wording": way.name, "label words": " ".join(way.task.labels), "score": way.score}
            for way in ways[:MOST_WORDINGS]
        ]
        parts += ["", f"known wordings on {FITTED_ROWS} training rows", table(wordings), _advice(ways[0])]
    return "\n".join(parts)


def _advice(best: "Put") -> str:
    """The best wording as it is given on the command line."""
    words = ",".join(best.task.labels)
    template = (best.task.template + (best.task.cue or "")).replace("\n", "\\n")
    instruction = best.task.instruction.replace("\n", "\\n")
    return f'best there: --instruction "{instruction}" --template "{template}" --label-words "{words}"'


def _wording(way: "Put") -> dict[str, Any]:
    return {"wording": way.name, "text": way.text, "label_words": list(way.task.labels), "score": way.score}
