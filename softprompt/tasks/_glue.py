"""The eight GLUE tasks of the Explosive Prompt Tuning paper (Wang et al., 2018, arXiv:1804.07461).

Templates follow ATTEMPT (attempt/data/tasks.py) without its prefix; T5 templates and class words follow T5
(t5/data/preprocessors.py, glue). Class ids are the hub's.
"""

from ._base import Task
from ._source import Source


def _source(config: str, validation: str = "validation") -> Source:
    return Source(hub="nyu-mll/glue", config=config, folder=f"glue/{config}", validation=validation)


COLA = Task(
    name="glue/cola",
    source=_source("cola"),
    template="sentence: {sentence}",
    t5_template="cola sentence: {sentence}",
    labels=("unacceptable", "acceptable"),
    metrics=("matthews", "accuracy"),
)

MRPC = Task(
    name="glue/mrpc",
    source=_source("mrpc"),
    template="sentence1: {sentence1} sentence2: {sentence2}",
    t5_template="mrpc sentence1: {sentence1} sentence2: {sentence2}",
    labels=("not_equivalent", "equivalent"),
    metrics=("accuracy", "f1"),
)

RTE = Task(
    name="glue/rte",
    source=_source("rte"),
    template="sentence1: {sentence1} sentence2: {sentence2}",
    t5_template="rte sentence1: {sentence1} sentence2: {sentence2}",
    labels=("entailment", "not_entailment"),
    truncate=("sentence1",),
)

STSB = Task(
    name="glue/stsb",
    source=_source("stsb"),
    template="sentence1: {sentence1} sentence2: {sentence2}",
    t5_template="stsb sentence1: {sentence1} sentence2: {sentence2}",
    answer="number",
    metrics=("pearson", "spearman"),
)

MNLI = Task(
    name="glue/mnli",
    source=_source("mnli", validation="validation_matched"),
    template="premise: {premise} hypothesis: {hypothesis}",
    t5_template="mnli hypothesis: {hypothesis} premise: {premise}",
    labels=("entailment", "neutral", "contradiction"),
    truncate=("premise",),
)

QNLI = Task(
    name="glue/qnli",
    source=_source("qnli"),
    template="question: {question} sentence: {sentence}",
    t5_template="qnli question: {question} sentence: {sentence}",
    labels=("entailment", "not_entailment"),
    truncate=("sentence",),
)

QQP = Task(
    name="glue/qqp",
    source=_source("qqp"),
    template="question1: {question1} question2: {question2}",
    t5_template="qqp question1: {question1} question2: {question2}",
    labels=("not_duplicate", "duplicate"),
    metrics=("accuracy", "f1"),
)

SST2 = Task(
    name="glue/sst2",
    source=_source("sst2"),
    template="sentence: {sentence}",
    t5_template="sst2 sentence: {sentence}",
    labels=("negative", "positive"),
)

GLUE = (COLA, MRPC, RTE, STSB, MNLI, QNLI, QQP, SST2)
