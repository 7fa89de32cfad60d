"""Tasks as they are put to a language model in words: an instruction, a template that ends in a cue, and label words.

They are the style "instruct". Decoders continue a text, so a row has to end where the answer is the next word. The
wording follows the patterns of PET (Schick and Schütze, 2021, arXiv:2001.07676) where it has any for the task. Most
label words are one token after a blank. How they were chosen, and what they score, is in docs/log.md.
"""

import dataclasses
from dataclasses import dataclass

from ..errors import BadInput
from ._base import Task
from ._lab_instruction import lab_instruction


@dataclass(frozen=True, kw_only=True)
class Instruct:
    """How one task is put.

    Args:
        instruction: stands on a line before the text of each row.
        template: text with {column} fields that ends where the answer follows.
        labels: label words by class id; none where the answer is a number or a text.
    """

    instruction: str
    template: str
    labels: tuple[str, ...] = ()


_YES_NO, _NO_YES = ("yes", "no"), ("no", "yes")

_SENTIMENT = "Is the sentiment of this review positive or negative?"
_IMPLIES = "Does the passage imply the hypothesis?"
_SAME = "Do the two sentences mean the same?"

_WSC = Instruct(
    instruction="Does the pronoun between # refer to the words between *?",
    template='{text}\nDoes "{span2_text}" refer to "{span1_text}"? Answer:',
    labels=_NO_YES,
)
_WINOGRANDE = Instruct(
    instruction="Which words belong in the place of _, 1 or 2?",
    template="{sentence}\n1: {option1}\n2: {option2}\nAnswer:",
    labels=("1", "2"),
)
_QUESTION = Instruct(
    instruction="Answer the question with words of the passage.",
    template="{context}\nQuestion: {question}\nAnswer:",
)

_GLUE: dict[str, Instruct] = {
    "glue/cola": Instruct(
        instruction="Is this sentence correct English? Answer yes or no.",
        template="Sentence: {sentence}\nAnswer:",
        labels=_NO_YES,
    ),
    "glue/mrpc": Instruct(
        instruction=_SAME,
        template="1: {sentence1}\n2: {sentence2}\nSame meaning? Answer:",
        labels=_NO_YES,
    ),
    "glue/rte": Instruct(
        instruction=_IMPLIES,
        template="{sentence1}\nHypothesis: {sentence2}\nTrue or false? Answer:",
        labels=("true", "false"),
    ),
    "glue/stsb": Instruct(
        instruction="How similar are the two sentences, from 0.0 (not at all) to 5.0 (the same)?",
        template="1: {sentence1}\n2: {sentence2}\nSimilarity:",
    ),
    "glue/mnli": Instruct(
        instruction="Does the passage imply the hypothesis? yes, maybe or no.",
        template="{premise}\nHypothesis: {hypothesis}\nAnswer:",
        labels=("yes", "maybe", "no"),
    ),
    "glue/qnli": Instruct(
        instruction="Does the sentence answer the question?",
        template="Question: {question}\nSentence: {sentence}\nIs the question answered? Answer:",
        labels=_YES_NO,
    ),
    "glue/qqp": Instruct(
        instruction="Do the two questions ask the same?",
        template="1: {question1}\n2: {question2}\nSame question? Answer:",
        labels=_NO_YES,
    ),
    "glue/sst2": Instruct(
        instruction=_SENTIMENT,
        template="Review: {sentence}\nSentiment:",
        labels=("negative", "positive"),
    ),
}

_SUPER_GLUE: dict[str, Instruct] = {
    "super_glue/boolq": Instruct(
        instruction="Read the passage and answer yes or no.",
        template="{passage}\nQuestion: {question}?\nAnswer:",
        labels=_NO_YES,
    ),
    "super_glue/cb": Instruct(
        instruction="Does the passage imply the hypothesis? yes, no or maybe.",
        template="{premise}\nHypothesis: {hypothesis}\nAnswer:",
        labels=("yes", "no", "maybe"),
    ),
    "super_glue/wic": Instruct(
        instruction="Does the word mean the same in both sentences?",
        template="1: {sentence1}\n2: {sentence2}\nSame meaning of {word}? Answer:",
        labels=_NO_YES,
    ),
    "super_glue/wsc.fixed": _WSC,
    "super_glue/wsc": _WSC,
    "super_glue/multirc": Instruct(
        instruction="Read the passage and say whether the answer to the question is correct.",
        template="{paragraph}\nQuestion: {question}\nIs it {answer}? Answer:",
        labels=_NO_YES,
    ),
    "super_glue/rte": Instruct(
        instruction=_IMPLIES,
        template="{premise}\nHypothesis: {hypothesis}\nTrue or false? Answer:",
        labels=("true", "false"),
    ),
    "super_glue/copa": Instruct(
        instruction="Which is the more likely cause or effect, 1 or 2?",
        template="{premise}\nWhat is the {question}?\n1: {choice1}\n2: {choice2}\nAnswer:",
        labels=("1", "2"),
    ),
}

_OTHERS: dict[str, Instruct] = {
    "yelp_polarity": Instruct(
        instruction=_SENTIMENT, template="Review: {text}\nSentiment:", labels=("negative", "positive")
    ),
    "scitail": Instruct(
        instruction=_IMPLIES, template="{premise}\nHypothesis: {hypothesis}\nYes or no? Answer:", labels=_YES_NO
    ),
    "paws": Instruct(
        instruction=_SAME, template="1: {sentence1}\n2: {sentence2}\nSame meaning? Answer:", labels=_NO_YES
    ),
    **{f"winogrande/{size}": _WINOGRANDE for size in ("xs", "s", "m", "l", "xl")},
    **{f"mrqa/{name}": _QUESTION for name in ("nq", "hotpotqa", "searchqa", "newsqa", "squad", "squad-dev")},
}

_FEW_GLUE = {
    f"fewglue/{name}": _SUPER_GLUE[f"super_glue/{name}"]
    for name in ("boolq", "cb", "copa", "multirc", "rte", "wic", "wsc")
}

INSTRUCT: dict[str, Instruct] = {**_GLUE, **_SUPER_GLUE, **_OTHERS, **_FEW_GLUE}


def has_instruct(task: Task) -> bool:
    """Whether the task has a wording of its own for the style "instruct"."""
    return task.name in INSTRUCT or lab_instruction(task) is not None


def instruct(task: Task) -> Task:
    """The task in style "instruct"; a task of the lab keeps its words and gets the lab's own instruction.

    Raises:
        BadInput: a task without one.
    """
    if task.name in INSTRUCT:
        wording = INSTRUCT[task.name]
        return dataclasses.replace(
            task,
            style="instruct",
            instruction=wording.instruction,
            template=wording.template,
            cue="",
            labels=wording.labels,
        )
    if (words := lab_instruction(task)) is not None:
        return dataclasses.replace(task, style="instruct", instruction=words)
    raise BadInput(
        f"task {task.name!r} has no instruction of its own; write one with --instruction, --template and --label-words"
    )
