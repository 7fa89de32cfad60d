"""Cloze patterns: a task put so that one word is missing, and the words that may fill it.

Pattern-exploiting training, PET (Schick and Schütze, 2021, arXiv:2001.07676 and arXiv:2009.07118), pet/pvp.py in
timoschick/pet. Patterns have its numbers and its label words. What differs, by our choice:

- A pattern is one segment here; PET separates some of them with [SEP] before the mask, with token types to match.
- Only the columns that the task lets go are shortened where a row is too long; PET shortens the question, too.
- PET compares label words among themselves; here they are scored, and trained, against the whole vocabulary.
- WSC's answer in PET is a name of several tokens at as many masks. Ours asks for one word, yes or no.

COPA's answers are whole sentences, which one mask cannot hold: it has no pattern here.
"""

import dataclasses
import string
from dataclasses import dataclass

from ..errors import BadInput, UnknownName
from ._base import Task
from ._template import MASK


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """A template with a {mask}, and the word for each class that may stand there.

    Args:
        template: text with {column} fields and one {mask}.
        labels: label words by class id, one token each.
        prepare: name in PREPARATIONS; empty keeps the task's.
    """

    template: str
    labels: tuple[str, ...]
    prepare: str = ""


def _with_words(templates: tuple[str, ...], *labels: tuple[str, ...], prepare: str = "") -> tuple[Pattern, ...]:
    """Each template with each verbaliser, in PET's order of numbers."""
    return tuple(Pattern(template=t, labels=words, prepare=prepare) for t in templates for words in labels)


_BOOLQ = _with_words(
    (
        "{passage}. Question: {question}? Answer: {mask}.",
        "{passage}. Based on the previous passage, {question}? {mask}.",
        "Based on the following passage, {question}? {mask}. {passage}",
    ),
    ("No", "Yes"),
    ("false", "true"),
)


def _asked(premise: str, hypothesis: str) -> tuple[str, ...]:
    """PET's four ways to ask whether a hypothesis follows from a premise."""
    return (
        f'"{hypothesis}"? {{mask}}, "{premise}"',
        f"{hypothesis}? {{mask}}, {premise}",
        f'"{hypothesis}"? {{mask}}. "{premise}"',
        f"{hypothesis}? {{mask}}. {premise}",
    )


def _entailed(premise: str, hypothesis: str) -> tuple[Pattern, ...]:
    """PET's patterns of RTE over these two columns."""
    question = _asked(premise, hypothesis)
    last = f"{premise} question: {hypothesis} True or False? answer: {{mask}}"
    return (
        *_with_words(question, ("Yes", "No"), prepare="open-hypothesis"),
        Pattern(template=last, labels=("true", "false")),
    )


_RTE = _entailed("{sentence1}", "{sentence2}")
_SUPER_RTE = _entailed("{premise}", "{hypothesis}")

_CB = (
    *_with_words(_asked("{premise}", "{hypothesis}"), ("Yes", "No", "Maybe"), prepare="open-hypothesis"),
    Pattern(
        template="{premise} question: {hypothesis} true, false or neither? answer: {mask}",
        labels=("true", "false", "neither"),
    ),
)

_WIC = (
    Pattern(
        template='"{sentence1}" / "{sentence2}" Similar sense of "{word}"? {mask}.',
        labels=("No", "Yes"),
    ),
    Pattern(
        template="{sentence1} {sentence2} Does {word} have the same meaning in both sentences? {mask}",
        labels=("No", "Yes"),
    ),
    Pattern(template='{word} . Sense (1) (a) "{sentence1}" ({mask}) "{sentence2}"', labels=("2", "b")),
)

_MULTIRC = (
    *_with_words(
        (
            "{paragraph}. Question: {question}? Is it {answer}? {mask}.",
            '{paragraph}. Question: {question}? Is the correct answer "{answer}"? {mask}.',
            '{paragraph}. Based on the previous passage, {question}? Is "{answer}" a correct answer? {mask}.',
        ),
        ("No", "Yes"),
    ),
    Pattern(template="{paragraph} {question} - [{mask}] {answer}", labels=("False", "True")),
)

# PET's own asks for the noun itself.
_WSC = (Pattern(template='{text} Does "{span2_text}" refer to "{span1_text}"? {mask}.', labels=("No", "Yes")),)

PATTERNS: dict[str, tuple[Pattern, ...]] = {
    "super_glue/boolq": _BOOLQ,
    "super_glue/cb": _CB,
    "super_glue/wic": _WIC,
    "super_glue/wsc.fixed": _WSC,
    "super_glue/multirc": _MULTIRC,
    "super_glue/wsc": _WSC,
    "super_glue/rte": _SUPER_RTE,
    "glue/rte": _RTE,
    "fewglue/boolq": _BOOLQ,
    "fewglue/cb": _CB,
    "fewglue/wic": _WIC,
    "fewglue/wsc": _WSC,
    "fewglue/multirc": _MULTIRC,
    "fewglue/rte": _SUPER_RTE,
}


def open_ended(task: Task) -> Task:
    """The task for a model that goes on from a text: a template that ends in its {mask} ends before it.

    Punctuation after the {mask} falls away. A template that goes on after it stays as it is: such a model has not
    read the rest when it answers.
    """
    before, mask, behind = task.template.partition(f"{{{MASK}}}")
    if not (task.is_cloze and mask) or behind.strip(string.punctuation + string.whitespace):
        return task
    return dataclasses.replace(task, template=before.rstrip(" \t"), cue="")


def patterned(task: Task, style: str) -> Task:
    """The task put as one of its patterns, "pet-0", "pet-1" ...

    Raises:
        BadInput: a task without patterns.
        UnknownName: no pattern of that number.
    """
    known = {f"pet-{number}": pattern for number, pattern in enumerate(PATTERNS.get(task.name, ()))}
    if not known:
        raise BadInput(
            f"task {task.name!r} has no cloze pattern; those of {', '.join(PATTERNS)} do, "
            "and rows of your own may say {mask} in --template"
        )
    if style not in known:
        raise UnknownName(f"pattern of {task.name!r}", style, known)
    pattern = known[style]
    return dataclasses.replace(
        task,
        style=style,
        template=pattern.template,
        labels=pattern.labels,
        prepare=pattern.prepare or task.prepare,
    )
