"""The options that several subcommands share, one name each."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Stored = Annotated[
    str,
    typer.Argument(metavar="RUN|PROMPT", help="Run folder with one prompt, prompt folder, or user/name on the hub."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", help="Frozen model: hub id or folder. Default: the one that the prompt names."),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        envvar="SOFTPROMPT_DATA_ROOT",
        help="Folder with rows, <root>/glue/sst2/train.jsonl.gz and so on. Default: the hub.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")]
EmbeddingScale = Annotated[
    float,
    typer.Option(
        "--embedding-scale",
        help="Factor on the frozen model's word embeddings; what it computes stays unchanged (training.md).",
    ),
]
Answers = Annotated[
    str,
    typer.Option("--answers", help="auto; label-words or linear-head (encoder); chat (instruct decoder)."),
]
Revision = Annotated[str | None, typer.Option("--revision", help="Commit of the model on the hub.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Precision of the frozen model: float32 or bfloat16.")]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", help="Passes of a T5: packed, reference (transformers' own), or auto: packed where it can be."
    ),
]
Frozen = Annotated[
    str | None,
    typer.Option("--frozen", help="int8: the frozen linear layers in 8 bits, on a CPU with AVX512-VNNI (training.md)."),
]
MaxBadRows = Annotated[int, typer.Option("--max-bad-rows", min=0, help="Malformed rows to drop before it is an error.")]
# Not a Literal: how many patterns there are is the task's affair.
Style = str
TrainedStyle = Annotated[
    Style | None,
    typer.Option(
        "--style",
        help="How rows are put: numeric, words, t5 or pet-N (cloze pattern N). Default: numeric for encoder-decoders, "
        "else words.",
    ),
]
OwnTask = Annotated[str | None, typer.Option("--task", help="Name of a task. Default: the prompt's own.")]
OwnStyle = Annotated[
    Style | None,
    typer.Option(
        "--style",
        help="numeric, words, t5 or pet-N (cloze pattern N). Default: as in training, for another task as in train.",
    ),
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
