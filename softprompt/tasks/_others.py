"""The tasks that the Explosive Prompt Tuning paper calls "Others": WinoGrande, Yelp-2, SciTail and PAWS-Wiki.

Templates follow ATTEMPT (attempt/data/tasks.py) without its prefix. T5 was not trained on these tasks, so they have no
T5 template. Class ids are the hub's, except that SciTail's and WinoGrande's classes are words and options.
"""

from ._base import Task
from ._source import Source

WINOGRANDE_SIZES = ("xs", "s", "m", "l", "xl")


def _winogrande(size: str) -> Task:
    config = f"winogrande_{size}"
    return Task(
        name=f"winogrande/{size}",
        source=Source(hub="allenai/winogrande", config=config, folder=f"winogrande/{config}"),
        template="sentence: {sentence} option0: {option1} option1: {option2}",
        target="answer",
        labels=("option0", "option1"),
        label_values=("1", "2"),
        truncate=("sentence",),
    )


WINOGRANDE = tuple(map(_winogrande, WINOGRANDE_SIZES))

YELP = Task(
    name="yelp_polarity",
    # The hub has no validation rows: they are drawn from the training rows, and the test rows are reported.
    source=Source(
        hub="fancyzhx/yelp_polarity",
        config="plain_text",
        folder="yelp_polarity/plain_text",
        validation="",
        test="test",
    ),
    template="sentence: {text}",
    labels=("negative", "positive"),
)

SCITAIL = Task(
    name="scitail",
    source=Source(hub="allenai/scitail", config="tsv_format", folder="scitail/tsv_format", test="test"),
    template="premise: {premise} hypothesis: {hypothesis}",
    labels=("entailment", "neutral"),
    label_values=("entails", "neutral"),
    truncate=("premise",),
)

PAWS = Task(
    name="paws",
    source=Source(
        hub="google-research-datasets/paws", config="labeled_final", folder="paws/labeled_final", test="test"
    ),
    template="sentence1: {sentence1} sentence2: {sentence2}",
    labels=("different", "paraphrase"),
)

OTHERS = (*WINOGRANDE, YELP, SCITAIL, PAWS)
