"""Extractive question answering: the four MRQA tasks of the Explosive Prompt Tuning paper, and SQuAD.

MRQA (Fisch et al., 2019, arXiv:1910.09753) keeps one context a line with all its questions; the hub has one question
a row. Templates follow ATTEMPT and T5's `squad` (t5/data/preprocessors.py). A long context is read in windows.
"""

from collections.abc import Iterable, Iterator

from ._base import Task
from ._records import Record
from ._source import Source

# The name of a set below `mrqa/`, and its value in the hub's column `subset`.
SUBSETS = {
    "nq": "NaturalQuestionsShort",
    "hotpotqa": "HotpotQA",
    "searchqa": "SearchQA",
    "newsqa": "NewsQA",
    "squad": "SQuAD",
}


def questions(records: Iterable[Record]) -> Iterator[Record]:
    """The records of MRQA's own files with one question each; records of the hub stay as they are.

    The header line is left out. A record keeps the line of its context.
    """
    for record in records:
        values = record.values
        if "header" in values:
            continue
        if "qas" not in values:
            yield record
            continue
        if not isinstance(values["qas"], list):
            yield Record(record.line, {}, "column 'qas' is no list of questions")
            continue
        for question in values["qas"]:
            if not isinstance(question, dict):
                yield Record(record.line, {}, "column 'qas' holds something that is no question")
                continue
            yield Record(record.line, {**question, "context": values.get("context")}, record.fault)


def _task(name: str, source: Source) -> Task:
    return Task(
        name=f"mrqa/{name}",
        source=source,
        template="question: {question} context: {context}",
        t5_template="question: {question} context: {context}",
        answer="text",
        target="answers",
        truncate=("context",),
        window="context",
        metrics=("squad-f1", "exact-match"),
        max_length=512,
    )


def _source(name: str) -> Source:
    return Source(
        hub="mrqa-workshop/mrqa",
        config="plain_text",
        folder=f"mrqa/{name}",
        layout="mrqa",
        where={"subset": SUBSETS[name]},
    )


# SQuAD's development set alone, cut by context: for a data root that has nothing else of MRQA.
SQUAD_DEV = _task(
    "squad-dev",
    Source(
        hub="mrqa-workshop/mrqa",
        config="plain_text",
        folder="mrqa/squad",
        train="validation",
        validation="",
        layout="mrqa",
        where={"subset": SUBSETS["squad"]},
        grouped="context",
    ),
)

MRQA = (*(_task(name, _source(name)) for name in SUBSETS), SQUAD_DEV)
