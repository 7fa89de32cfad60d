"""The SuperGLUE tasks (Wang et al., 2019, arXiv:1905.00537): the Explosive Prompt Tuning paper's five, and three more.

Templates follow ATTEMPT (attempt/data/tasks.py) without its prefix; T5 templates and class words follow T5
(t5/data/preprocessors.py, glue and wsc). Class ids are the hub's.
"""

import dataclasses

from ._base import Task
from ._source import Source


def _source(config: str) -> Source:
    # The main branch holds a loading script, which `datasets` no longer runs; this branch holds the rows.
    return Source(hub="aps/super_glue", config=config, revision="refs/convert/parquet", folder=f"super_glue/{config}")


BOOLQ = Task(
    name="super_glue/boolq",
    source=_source("boolq"),
    template="question: {question} passage: {passage}",
    t5_template="boolq passage: {passage} question: {question}",
    labels=("False", "True"),
    truncate=("passage",),
)

CB = Task(
    name="super_glue/cb",
    source=_source("cb"),
    template="premise: {premise} hypothesis: {hypothesis}",
    t5_template="cb hypothesis: {hypothesis} premise: {premise}",
    labels=("entailment", "contradiction", "neutral"),
    truncate=("premise",),
    metrics=("macro-f1", "accuracy"),
    headline=("macro-f1", "accuracy"),
)

WIC = Task(
    name="super_glue/wic",
    source=_source("wic"),
    template="sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    t5_template="wic sentence1: {sentence1} sentence2: {sentence2} word: {word}",
    labels=("False", "True"),
    truncate=("sentence1", "sentence2"),
)

WSC = Task(
    name="super_glue/wsc.fixed",
    source=_source("wsc.fixed"),
    template="text: {text}",
    t5_template="wsc text: {text}",
    labels=("False", "True"),
    prepare="mark-spans",
    extra_columns=("span1_index", "span2_index", "span1_text", "span2_text"),
)

MULTIRC = Task(
    name="super_glue/multirc",
    source=_source("multirc"),
    template="question: {question} answer: {answer} paragraph: {paragraph}",
    t5_template="multirc question: {question} answer: {answer} paragraph: {paragraph}",
    labels=("False", "True"),
    truncate=("paragraph",),
    metrics=("f1a", "accuracy"),
    prepare="strip-tags",
    max_length=348,
)

COPA = Task(
    name="super_glue/copa",
    source=_source("copa"),
    template="premise: {premise} choice1: {choice1} choice2: {choice2} question: {question}",
    t5_template="copa choice1: {choice1} choice2: {choice2} premise: {premise} question: {question}",
    labels=("choice1", "choice2"),
    truncate=("premise",),
)

# The rows of GLUE's RTE in SuperGLUE's columns.
SUPER_RTE = Task(
    name="super_glue/rte",
    source=_source("rte"),
    template="premise: {premise} hypothesis: {hypothesis}",
    t5_template="rte hypothesis: {hypothesis} premise: {premise}",
    labels=("entailment", "not_entailment"),
    truncate=("premise",),
)

# The rows of wsc.fixed, before the hub repaired its spans.
WSC_PLAIN = dataclasses.replace(WSC, name="super_glue/wsc", source=_source("wsc"), prepare="mark-spans-in-any-case")

SUPER_GLUE = (BOOLQ, CB, WIC, WSC, MULTIRC, COPA, SUPER_RTE, WSC_PLAIN)
