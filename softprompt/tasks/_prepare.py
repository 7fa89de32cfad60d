"""What a row needs before its columns go into a template: pure functions from row to row, by name."""

import re
import string
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BadInput, UnknownName

Row = Mapping[str, Any]


def nothing(row: Row) -> Row:
    """The row as it is."""
    return row


def mark_spans(row: Row) -> Row:
    """WSC's two spans marked in its text: `* noun *` and `# pronoun #`.

    T5 (Raffel et al., 2020, arXiv:1910.10683), `wsc` in t5/data/preprocessors.py; the same in ATTEMPT. A span
    whose words do not stand at its index stays unmarked, as there.

    Raises:
        UnknownName: the row lacks the text, a span or an index.
        BadInput: an index that is not a number.
    """
    return _with_marks(row, as_in_t5=True)


def mark_spans_in_any_case(row: Row) -> Row:
    """The same for the rows before the hub repaired them, whose span "The table" stands as "the table" in the text.

    Raises:
        UnknownName: the row lacks the text, a span or an index.
        BadInput: an index that is not a number.
    """
    return _with_marks(row, as_in_t5=False)


def _with_marks(row: Row, as_in_t5: bool) -> Row:
    for name in ("text", "span1_index", "span1_text", "span2_index", "span2_text"):
        if name not in row:
            raise UnknownName("column", name, row)
    try:
        first, second = int(row["span1_index"]), int(row["span2_index"])
    except (TypeError, ValueError) as error:
        raise BadInput(f"span indices count words, {row['span1_index']!r} and {row['span2_index']!r} do not") from error
    flags, text = 0 if as_in_t5 else re.IGNORECASE, str(row["text"])
    marked = _marked(text, str(row["span1_text"]), first, "*", flags)
    # The two marks of the first span are words too; T5 counts them even where it has not set them.
    if first < second and (as_in_t5 or marked != text):
        second += 2
    return {**row, "text": _marked(marked, str(row["span2_text"]), second, "#", flags)}


def _marked(text: str, span: str, index: int, mark: str, flags: int) -> str:
    # Escaped, unlike the reference: "Mr. Bond" is no pattern.
    pattern = rf"^((?:\S+\s){{{index}}})({re.escape(span)})"
    return re.sub(pattern, rf"\1{mark} \2 {mark}", text, flags=flags)


def strip_tags(row: Row) -> Row:
    """MultiRC without its HTML: `<br>` becomes a blank, `<b>` and `</b>` vanish, as in T5 and ATTEMPT."""
    return {name: _untagged(value) if isinstance(value, str) else value for name, value in row.items()}


def _untagged(text: str) -> str:
    return re.sub("</?b>", "", text.replace("<br>", " "))


def open_hypothesis(row: Row) -> Row:
    """A hypothesis without its closing punctuation, so that it can be asked: PET's RTE and CB patterns."""
    names = [name for name in ("hypothesis", "sentence2") if name in row]
    return {**row, **{name: str(row[name]).rstrip(string.punctuation) for name in names}}


PREPARATIONS: dict[str, Callable[[Row], Row]] = {
    "nothing": nothing,
    "mark-spans": mark_spans,
    "mark-spans-in-any-case": mark_spans_in_any_case,
    "strip-tags": strip_tags,
    "open-hypothesis": open_hypothesis,
}


def refuse_unregistered(name: str) -> None:
    """Refuse a preparation that this program does not have: no row could be read as the task reads it.

    Raises:
        BadInput: with what to do.
    """
    if name not in PREPARATIONS:
        unknown = UnknownName("preparation", name, PREPARATIONS)
        raise BadInput(
            f"{unknown.message} If it is your own, put it into softprompt.tasks.PREPARATIONS in the program that reads "
            "the rows"
        )
