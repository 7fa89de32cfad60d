"""The classes of a label column: its distinct values, refused where two of them are one thing to a person."""

import logging
import math
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from ..checks import listed, require_different
from ..errors import BadInput, UnknownName
from ._records import ABSENT, Record, columns_of, text_fault, value_of

log = logging.getLogger("softprompt")

# More distinct values than this in a label column are free text or numbers, not classes.
MOST_LABELS = 500
# So many classes are looked at for whether they are classes at all: half of them with a single row are hardly.
MANY_LABELS = 20
# What programs write for a value that is not there; "none" in small letters is a usual class.
_MISSING = ("NaN", "nan", "NAN", "<NA>", "N/A", "n/a", "NA", "#N/A", "None", "NULL", "null", "NaT")


@final
@dataclass
class Form:
    """A label as it is written, where it stands first, and in how many rows."""

    label: Any
    place: str
    count: int = 0

    def __str__(self) -> str:
        """For messages: the label, its first row, and how many more there are."""
        more = "" if self.count == 1 else f", {self.count} rows"
        return f"{self.label!r} ({self.place}{more})"


def label_values_of(
    rows: Iterable[tuple[str, Record]], column: str, *, named: bool = False, place: str = "rows"
) -> tuple[Any, ...]:
    """The distinct labels of the training rows, sorted (as numbers if all are whole numbers).

    Args:
        rows: each with where it is, in words.
        column: that holds the labels.
        named: whether the user has named each label; then labels that read alike, or like numbers, are taken.
        place: where the rows are, for messages.

    Raises:
        UnknownName: no row has the column.
        BadInput: fewer than two labels, or more than 500; labels that are one thing to a person, that read like a
            missing value, or that are numbers with a fraction; each names rows.
    """
    forms = _forms(rows, column, place)
    if not named:
        _refuse_what_reads_otherwise(list(forms.values()), column)
    labels = [form.label for form in forms.values()]
    # Whole numbers and those with a fraction are one kind.
    if len({float if _is_number(label) else type(label) for label in labels}) > 1:
        labels = [str(label) for label in labels]
    if len(labels) < 2:
        raise BadInput(f"{place!r} has one label only, {labels[0]!r}; at least two are needed")
    try:
        return tuple(sorted(labels, key=_whole))
    except ValueError:
        return tuple(sorted(labels, key=str))


def _whole(label: Any) -> int:
    if isinstance(label, float):
        raise ValueError(label)
    return int(label)


def _forms(rows: Iterable[tuple[str, Record]], column: str, whole: str) -> dict[Hashable, Form]:
    """Each way in which a label is written."""
    forms: dict[Hashable, Form] = {}
    columns: dict[str, None] = {}
    first_fault = ""
    for place, record in rows:
        where = f"{place}:{record.line}"
        if record.fault:
            first_fault = first_fault or f"{where}: {record.fault}"
        value = value_of(record.values, column)
        if value is ABSENT:
            columns.update(dict.fromkeys(columns_of(record.values)))
            continue
        label = _label(value)
        if label is None:
            if value is not None and not isinstance(value, str | int | float):
                kind = type(value).__name__
                first_fault = first_fault or f"{where}: the label is a {kind}; give a text or a whole number"
            continue
        # True, 1 and "1" are different ways of writing; 1 and 1.0 are one number.
        kind = type(label) if isinstance(label, str | bool) else float
        forms.setdefault((kind, label), Form(label, where)).count += 1
        if len(forms) > MOST_LABELS:
            raise BadInput(
                f"{where}: more than {MOST_LABELS} labels in {column!r}; numbers go with --number-column, free text "
                "with --target-column"
            )
    if not forms and columns:
        raise UnknownName("column", column, columns)
    if len(forms) < 2 and first_fault:
        raise BadInput(first_fault)
    if not forms:
        raise BadInput(f"{whole!r} holds no labelled rows")
    return forms


def _label(value: Any) -> Any:
    """A row's label, or None where the row is malformed: loading the rows will name it."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value if math.isfinite(value) else None
    if not isinstance(value, str | int) or (isinstance(value, str) and (not value.strip() or text_fault(value))):
        return None
    return value


def _refuse_what_reads_otherwise(forms: Sequence[Form], column: str) -> None:
    """Refuse labels that a person would not take for classes of their own."""
    for form in forms:
        if isinstance(form.label, str) and form.label.strip() != form.label:
            raise BadInput(f"label {form} has blanks around it; take them off, so that it is one label everywhere")
    for form in forms:
        if form.label in _MISSING:
            raise BadInput(
                f"label {form} reads like a missing value; leave such rows out, or name a word for each label "
                f"({form.label}=WORD) if it is a class"
            )
    _refuse_alike(forms)
    _refuse_fractions(forms, column)
    rows = sum(form.count for form in forms)
    if len(forms) > MANY_LABELS and 2 * sum(form.count == 1 for form in forms) > len(forms):
        log.warning("column %r has %d labels in %d rows; are they classes, not numbers or texts?",
                    column, len(forms), rows)  # fmt: skip


def _refuse_alike(forms: Sequence[Form]) -> None:
    first: dict[Hashable, Form] = {}
    for form in forms:
        other = first.setdefault(_meaning(form.label), form)
        if other is not form:
            raise BadInput(
                f"labels {other} and {form} read alike but would be two classes; write them alike, or name a word "
                "for each label"
            )


def _meaning(label: Any) -> Hashable:
    """Equal for labels that a person reads as one: numbers by their value, words whatever their case."""
    number = _number(label)
    if number is not None:
        return number
    return " ".join(unicodedata.normalize("NFKC", str(label)).casefold().split())


def _number(label: Any) -> float | None:
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        return None
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_number(label: Any) -> bool:
    return isinstance(label, int | float) and not isinstance(label, bool)


def place_of_label(labels: Sequence[Any], written: Any) -> int | None:
    """The place of the label that a row or a user has written so; None if it is none of them.

    `"1"`, `"1.0"`, 1.0 and `True` are found where 1 is known, but of two texts only the same.
    """
    for place, label in enumerate(labels):
        if written == label or str(written) == str(label):
            return place
    number = _number(written)
    for place, label in enumerate(labels if number is not None else ()):
        if (_is_number(written) or _is_number(label)) and _number(label) == number:
            return place
    return None


def _refuse_fractions(forms: Sequence[Form], column: str) -> None:
    numbers = [_number(form.label) for form in forms]
    for form, number in zip(forms, numbers, strict=True):
        if None not in numbers and number is not None and not number.is_integer():
            raise BadInput(
                f"column {column!r} holds numbers with a fraction, as {form}, and {len(forms)} different ones; numbers "
                "go with --number-column, and as classes they need a word for each"
            )


@final
class LabelledWords(dict[str, str]):
    """Texts LABEL=WORD, as its keys, that hold further "=": where a label ends is known from the labels alone."""

    def by_label(self, values: Sequence[Any]) -> dict[str, str]:
        """The words by their labels: a label is the longest of `values` that stands before a "=" of its text.

        Raises:
            BadInput: two words for one label.
        """
        pairs: list[tuple[str, str]] = []
        for text in self:
            known = [str(value) for value in values if text.startswith(f"{value}=")]
            label = max(known, key=len, default=text.partition("=")[0])
            pairs.append((label, text[len(label) + 1 :]))
        require_different("--label-words", [label for label, _ in pairs])
        return dict(pairs)


def label_words_of(values: tuple[Any, ...], given: Mapping[Any, str] | Sequence[str] | None) -> tuple[str, ...]:
    """The word that a model answers for each label: the one given, without blanks around it, or the label itself.

    Raises:
        UnknownName: a word for a label that no row has.
        BadInput: words that are too few, too many, empty or equal.
    """
    words = _given_words(values, given)
    for value, word in zip(values, words, strict=True):
        if not isinstance(word, str):
            raise BadInput(f"the label word of {value!r} is {word!r}; give a text, as {str(word)!r}")
        if not word.strip():
            raise BadInput(f"the label word of {value!r} is empty; give each label a word")
    stripped = [word.strip() for word in words]
    for value, word in zip(values, stripped, strict=True):
        if stripped.count(word) > 1:
            raise BadInput(f"label word {word!r} of {value!r} is also another label's; give each label its own word")
    return tuple(stripped)


def _given_words(values: tuple[Any, ...], given: Mapping[Any, str] | Sequence[str] | None) -> tuple[str, ...]:
    if given is None:
        return tuple(str(value) for value in values)
    if isinstance(given, LabelledWords):
        given = given.by_label(values)
    if isinstance(given, Mapping):
        by_place: dict[int, str] = {}
        for label, word in given.items():
            place = place_of_label(values, label)
            if place is None:
                raise UnknownName("label", str(label), map(str, values))
            by_place[place] = word
        missing = [value for place, value in enumerate(values) if place not in by_place]
        if missing:
            raise BadInput(f"no label word for {', '.join(map(repr, missing))}")
        return tuple(by_place[place] for place in range(len(values)))
    if len(given := listed("--label-words", given, single=())) != len(values):
        raise BadInput(
            f"label words {given!r} for {len(values)} labels ({', '.join(map(repr, values))}); one each is needed"
        )
    return tuple(given)
