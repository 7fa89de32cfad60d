"""The tasks of the study: their rows cut from a data root, and how they are put to the model."""

import dataclasses
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt.errors import BadInput
from softprompt.store import write_file
from softprompt.tasks import TASKS, Source, Task, styled, with_difficulty

from ..common.places import ROOT

# First rows of the training file, of which the last DEVELOPMENT choose the best prompt.
POOL, DEVELOPMENT, FEWEST = 6000, 300, 50
# Rows that are scored; BoolQ's and yelp's are long.
SCORED = {"super_glue/boolq": 500, "yelp": 300, "yelp-short": 300, "glue/qqp": 300}
MAX_LENGTH = 128
SPLITS = ("train", "validation", "test")
YELP = Task(
    name="yelp",
    source=Source(),
    template="Review: {text}\nSentiment:",
    cue="",
    instruction="Is the sentiment of this review positive or negative?",
    labels=("negative", "positive"),
    max_length=96,
    style="instruct",
)
# Written for this repository: messages to the support of a shop, in the columns text and label.
DEPARTMENTS = ("account", "billing", "delivery", "returns", "technical")
TICKETS = Task(
    name="tickets",
    source=Source(files={split: str(ROOT / "examples" / "tickets" / f"{split}.csv") for split in SPLITS}),
    template="Message: {text}\nDepartment:",
    cue="",
    instruction="Which department should answer this message: billing, delivery, returns, account or technical?",
    labels=DEPARTMENTS,
    label_values=DEPARTMENTS,
)
# Tasks that the package does not have.
OWN = {
    "yelp": YELP,
    "yelp-short": dataclasses.replace(YELP, name="yelp-short", max_length=48),
    "tickets": TICKETS,
}
# Task -> files of its rows below the data root, to train on and to score; none for rows in this repository.
PLACES = {
    **{name: (f"{name}/train.jsonl.gz", f"{name}/validation.jsonl.gz")
       for name in ("glue/sst2", "glue/rte", "glue/mrpc", "glue/qqp", "super_glue/cb", "super_glue/boolq")},
    **dict.fromkeys(("yelp", "yelp-short"), ("yelp_polarity/plain_text/test.jsonl.gz",) * 2),
    "tickets": (),
}  # fmt: skip


def study_task(name: str, folder: Path, *, bare: bool = False) -> Task:
    """A task on the rows that `cut_rows` left in a folder, in the words of style "instruct".

    Args:
        name: of the task.
        folder: with its rows.
        bare: leave the instruction out.
    """
    task = OWN.get(name) or styled(TASKS[name], "instruct")
    length = min(task.max_length, MAX_LENGTH)
    task = dataclasses.replace(task, instruction="") if bare else task
    task = dataclasses.replace(task, metrics=("accuracy",), headline=(), max_length=length)
    if not PLACES[name]:
        return task
    place = folder / name.replace("/", "-")
    files = {split: str(place / f"{split}.jsonl") for split in SPLITS}
    return dataclasses.replace(task, source=Source(files=files))


def task_of(cell: str, data_root: Path | None, folder: Path) -> Task:
    """The task of a cell MODEL:TASK of a small experiment, with 300 test rows: one of the laboratory, or cut rows."""
    _, _, name = cell.partition(":")
    if name.startswith("lab/"):
        return with_difficulty(TASKS[name], validation=100, test=300)
    if data_root is None:
        raise SystemExit(f"{cell} needs --data-root (docs/tasks.md)")
    cut_rows(name, data_root, folder)
    return study_task(name, folder)


def cut_rows(name: str, data_root: Path, folder: Path, scored_rows: int | None = None) -> None:
    """Write the rows of a task that the study uses: train, validation (of training rows) and test.

    A task of rows in this repository has all three as they are.

    Args:
        name: of the task.
        data_root: folder with the rows of all tasks.
        folder: where the rows of the study are; those that are there stay.
        scored_rows: most rows to score, for a try; None is as many as the study scores.

    Raises:
        BadInput: the data root lacks the task.
    """
    place = folder / name.replace("/", "-")
    if not PLACES[name] or (place / "test.jsonl").is_file():
        return
    learned, scored = (_read(data_root / path) for path in PLACES[name])
    if PLACES[name][0] == PLACES[name][1]:
        learned, scored = learned[SCORED[name] :], learned[: SCORED[name]]
    learned = learned[:POOL]
    random.Random(0).shuffle(learned)
    held = min(DEVELOPMENT, max(FEWEST, len(learned) // 10))
    splits = {"train": learned[held:], "validation": learned[:held], "test": scored[: scored_rows or SCORED.get(name)]}
    # Whole or not at all, and the test rows last: where they are, all are, for every process.
    for split, rows in splits.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_file(place / f"{split}.jsonl", lines.encode(), what="the rows", replace=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise BadInput(f"{path} is not there; give --data-root, a folder with the rows (docs/tasks.md)")
    with gzip.open(path, "rt") as lines:
        rows: Sequence[dict[str, Any]] = [json.loads(line) for line in lines]
    # Rows of -1 are those of hidden labels.
    return [row for row in rows if row["label"] >= 0]
