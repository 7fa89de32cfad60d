"""The options that several subcommands share, one name each."""

from pathlib import Path
from typing import Annotated

import typer

from ..settings import ModelSpec
from ._flatten import Without

# How the frozen model computes and answers; its name and device are options of their own.
Frozen = Annotated[ModelSpec, "Frozen model", Without({"name", "device"})]
# The same where a stored prompt says what its model is.
FrozenOfPrompt = Annotated[
    ModelSpec, "Frozen model", Without({"name", "device", "answers", "revision", "embedding_scale"})
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Stored = Annotated[
    str,
    typer.Argument(metavar="RUN|PROMPT", help="Run folder with one prompt, prompt folder, or user/name on the hub."),
]
NewModel = Annotated[
    str | None,
    typer.Option("--model", help="Frozen model: hub id, folder, GGUF file, or built in: lab-t5, smollm2 ..."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Frozen model: hub id, folder or GGUF file. Default: the one that the prompt names."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="SOFTPROMPT_DATA_ROOT",
        help="Folder with rows, <root>/glue/sst2/train.jsonl.gz and so on. Default: the hub.",
    ),
]
Delimiter = Annotated[
    str, typer.Option("--delimiter", help="What separates the fields of CSV or TSV. Default: a comma, in .tsv a tab.")
]
Style = Annotated[
    str | None,
    typer.Option(
        "--style",
        rich_help_panel="Frozen model",
        help="How rows are put: numeric, words, instruct, t5 or pet-N (cloze pattern N). Default: numeric for "
        "encoder-decoders, instruct for decoders, else words.",
    ),
]
MaxBadRows = Annotated[
    int,
    typer.Option(
        "--max-bad-rows",
        rich_help_panel="Frozen model",
        min=0,
        help="Malformed rows to drop before it is an error.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ..., or spread over all.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
OwnTask = Annotated[
    str | None,
    typer.Option("--task", help="Name of a task, or a file of rows of the prompt's own. Default: the prompt's own."),
]
OwnStyle = Annotated[
    str | None,
    typer.Option(
        "--style",
        help="numeric, words, instruct, t5 or pet-N (cloze pattern N). Default: as in training, for another task as in "
        "train.",
    ),
]
OwnInstruction = Annotated[
    str | None, typer.Option("--instruction", help="What is to be done, in the place of what the task has.")
]
OwnTemplate = Annotated[
    str | None, typer.Option("--template", help="Text with {column} fields, in the place of the task's.")
]
OwnLabelWords = Annotated[
    list[str] | None, typer.Option("--label-words", help='As in train: "negative,positive", or LABEL=WORD; repeat.')
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task-option",
        metavar="KEY=VALUE",
        help="How many rows a lab task has and how hard they are: train, validation, test, seed, fillers, noise, "
        "label_noise; repeat.",
    ),
]
NewFolder = Annotated[Path, typer.Option("--output", help="Folder to write; must not exist.")]
