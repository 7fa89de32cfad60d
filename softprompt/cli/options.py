"""The options that several subcommands share, one name each."""

from pathlib import Path
from typing import Annotated, Literal

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
    typer.Argument(
        metavar="RUN|PROMPT",
        help="Folder of a run with one prompt, of a prompt or of trained weights, or user/name on the hub.",
    ),
]
NewModel = Annotated[
    str | None,
    typer.Option(
        "--model", help="Frozen model: hub id, folder, GGUF file, or a built-in name such as lab-t5, smollm2 or minilm."
    ),
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
        help="Folder with the rows of tasks, as in DIR/glue/sst2/train.jsonl.gz. Default: the hub.",
    ),
]
Delimiter = Annotated[
    str,
    typer.Option(
        "--delimiter", help="Character between the fields of CSV or TSV. Default: a comma in .csv, a tab in .tsv."
    ),
]
Style = Annotated[
    str | None,
    typer.Option(
        "--style",
        rich_help_panel="Rows of your own",
        help="Template and label words: numeric, compat, words, instruct, t5 or pet-N (cloze pattern N). Default: "
        "numeric for encoder-decoders, instruct for decoders, else words.",
    ),
]
MaxBadRows = Annotated[
    int,
    typer.Option(
        "--max-bad-rows",
        rich_help_panel="Rows of your own",
        min=0,
        help="Number of malformed rows that may be dropped; more are an error.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:1 and so on, or spread (over all devices).")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")]
OwnTask = Annotated[
    str | None,
    typer.Option(
        "--task", help="Name of a task, or a file with rows of the prompt's own task. Default: the prompt's own task."
    ),
]
OwnStyle = Annotated[
    str | None,
    typer.Option(
        "--style",
        help="Template and label words: numeric, compat, words, instruct, t5 or pet-N (cloze pattern N). Default: as "
        "in training; for another task that of `train`.",
    ),
]
OwnInstruction = Annotated[
    str | None, typer.Option("--instruction", help="Line before each text, in place of the task's instruction.")
]
OwnTemplate = Annotated[
    str | None, typer.Option("--template", help="Text with {column} fields, in place of the task's template.")
]
OwnLabelWords = Annotated[
    list[str] | None,
    typer.Option(
        "--label-words",
        help='Words to answer with, as in `train`: "negative,positive", or LABEL=WORD; may be repeated.',
    ),
]
Decode = Annotated[
    Literal["auto", "scores", "generate"] | None,
    typer.Option(
        "--decode",
        metavar="WORD",
        help="How an answer is found: scores (of the label words), generate, or auto: scores where there are label "
        "words. Default: as in training.",
    ),
]
NewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", min=1, help="Largest number of tokens of a generated answer. Default: as in training."
    ),
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task-option",
        metavar="KEY=VALUE",
        help="Number and difficulty of the rows of a lab task: train, validation, test, seed, fillers, noise, "
        "label_noise; may be repeated.",
    ),
]
NewFolder = Annotated[Path, typer.Option("--output", help="Folder to write. It must not exist.")]
