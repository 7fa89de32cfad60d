"""A task is data: where its rows are, how a row becomes text, how it is answered and scored. No torch."""

import dataclasses
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..checks import listed, require_different, require_numbers
from ..errors import BadInput, UnknownName, pick
from ._later import tupled, without_later
from ._prepare import PREPARATIONS
from ._records import text_fault
from ._source import Source
from ._stored import check_stored
from ._template import MASK, pieces, template_columns, template_tail

Answer = Literal["label", "number", "text"]


@dataclass(frozen=True)
class Rendered:
    """A row as text, with each column's span of characters: truncation shortens columns, never the template."""

    text: str
    spans: Mapping[str, tuple[int, int]]


def same_text(text: Any) -> Any:
    """A text in the one form (NFC) of those that look the same: an accented letter is one character, or two."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) else text


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to read, what to ask, what counts as right.

    Args:
        name: as on the command line, "glue/sst2".
        source: where the rows are.
        template: text with {column} fields; without a task prefix. Where a field {mask} stands, a masked-LM head
            answers there; without one it answers after the text.
        t5_template: the same as T5 was trained on it, with its prefix and column order.
        answer: "label" (one of the label words), "number" or "text".
        target: column that holds the answer.
        labels: label words by class id.
        label_values: the value in the target column for each class id; empty means 0, 1, 2 ...
        class_names: what the classes are called in the training rows, where a `datasets.Dataset` numbers them.
        truncate: columns that may be shortened, the longest first; empty means all of them.
        metrics: names in METRICS, all reported.
        headline: the metrics whose mean is the task's score; empty means the first.
        prepare: name in PREPARATIONS, applied to each row before rendering.
        extra_columns: columns that the preparation reads besides the template's.
        window: a column of which a row that is too long is read in windows, in place of losing its end, where the
            answer is free text; empty for none.
        stride: tokens that two neighbouring windows share.
        max_length: tokens of the rendered text, special tokens included, the prompt not.
        style: how the label words and the template were chosen: "numeric", "words", "instruct", "t5",
            "pet-0", "pet-1" ..., or "own" where the user wrote some of it.
        decimals: of a number that is written as an answer; None rounds it to the nearest 0.2, as T5 does for STS-B.
        instruction: says what is to be done, on a line of its own before the text of each row; empty is none.
        cue: stands between the rendered text and the answer of a decoder. None is the decoder's own (" answer:", in
            a chat nothing); "" where the template holds its cue itself.
        opening_ids: token ids that prompts of this task hold in their own place: beginning of sequence, the opening of
            a chat, the instruction. Rows are read without them. Empty for prompts that stand before the whole input.

    Raises:
        BadInput: a text where several are meant and it is not one of them, a label twice or that is no text, a length
            below 1, label values, headline or window that do not go with labels, metrics and template, or no metric.
        UnknownName: another kind of answer.
    """

    name: str
    source: Source
    template: str
    t5_template: str = ""
    answer: Answer = "label"
    target: str = "label"
    labels: tuple[str, ...] = ()
    label_values: tuple[Any, ...] = ()
    class_names: tuple[str, ...] = ()
    truncate: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    headline: tuple[str, ...] = ()
    prepare: str = "nothing"
    extra_columns: tuple[str, ...] = ()
    window: str = ""
    stride: int = 128
    max_length: int = 256
    style: str = "words"
    decimals: int | None = None
    instruction: str = ""
    cue: str | None = None
    opening_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Make tuples of what is several things, and refuse what cannot be."""
        for name in ("labels", "label_values", "class_names"):
            # One label is no choice: ("positive") is a tuple that lost its comma.
            object.__setattr__(self, name, tuple(listed(name, getattr(self, name), single=())))
        for name in ("truncate", "metrics", "headline", "extra_columns"):
            object.__setattr__(self, name, tuple(listed(name, getattr(self, name))))
        require_different("labels", self.labels)
        require_different("labels (in one Unicode form)", [same_text(label) for label in self.labels])
        require_numbers({"max_length": self.max_length}, whole=True)
        self._refuse_what_does_not_agree()

    def _refuse_what_does_not_agree(self) -> None:
        pick("answer of a task", self.answer, dict.fromkeys(get_args(Answer)))
        wrong = next((label for label in self.labels if not isinstance(label, str)), None)
        if wrong is not None:
            raise BadInput(
                f"label {wrong!r} is no text; give what the model answers as labels, as {str(wrong)!r}, and what the "
                "column holds as label_values"
            )
        for name in ("label_values", "class_names"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.labels):
                raise BadInput(f"{len(getattr(self, name))} {name} for {len(self.labels)} labels; give one for each")
        if not self.metrics:
            raise BadInput("a task needs a metric; give at least one, as metrics=('accuracy',)")
        for name in self.headline:
            if name not in self.metrics:
                raise BadInput(f"headline {name!r} is no metric of the task ({', '.join(self.metrics)}); name it there")
        if self.window and self.window not in self.columns:
            raise BadInput(f"window {self.window!r} is no column of template {self.template!r}; write it there, or ''")
        if self.window and self.answer != "text":
            raise BadInput(
                f"window {self.window!r} is for answers in free text, and a {self.answer} would be that of the first "
                "window alone; leave the window out"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template reads, in its order."""
        return template_columns(self.template)

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that the task reads: the template's, those of its preparation, and the answer's."""
        return tuple(dict.fromkeys((*self.columns, *self.extra_columns, self.target)))

    @property
    def is_cloze(self) -> bool:
        """Whether the template says where the answer stands: at its {mask}."""
        return any(name == MASK for _, name in pieces(self.template))

    @property
    def opening(self) -> str:
        """What stands before the text of each row: the instruction and the end of its line, or nothing."""
        return f"{self.instruction}\n" if self.instruction else ""

    @property
    def tail(self) -> str:
        """The template's own text after its last column; it stands right before the answer."""
        return template_tail(self.template)

    @property
    def shortened(self) -> tuple[str, ...]:
        """The columns that may lose their end where a row is too long."""
        return self.truncate or self.columns

    def prepared(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row as the template reads it: spans marked, tags stripped, as the task's preparation says."""
        return pick("preparation", self.prepare, PREPARATIONS)(row)

    def render(self, row: Mapping[str, Any], mask: str = "[MASK]") -> Rendered:
        """The row as text, with the span of each column (the last one where a template repeats a column).

        Args:
            row: values by column.
            mask: what {mask} becomes: the tokenizer's mask token.

        Raises:
            UnknownName: the template names a column that the row lacks.
            BadInput: a column is empty (None).
        """
        row = self.prepared(row)
        text, spans = "", {}
        for literal, name in pieces(self.template):
            text += literal + (mask if name == MASK else "")
            if name in (None, MASK):
                continue
            if name not in row:
                raise UnknownName("column", name, row)
            if row[name] is None or row[name] != row[name]:
                raise BadInput(f"column {name!r} is empty; fill it or drop the row")
            if not isinstance(row[name], str | int | float):
                raise BadInput(f"column {name!r} holds a {type(row[name]).__name__}, text is needed")
            if fault := text_fault(str(row[name])):
                raise BadInput(f"column {name!r} holds {fault}")
            start = len(text)
            text += str(row[name])
            spans[name] = (start, len(text))
        return Rendered(text, spans)

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics whose mean is the score by which checkpoints are chosen."""
        return self.headline or self.metrics[:1]

    def to_json(self) -> dict[str, Any]:
        """Plain values, enough to render, answer and score without the table of tasks.

        What came later and says nothing is left out: the identity of a stored study is a hash of these values.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return without_later(self, {**values, "source": self.source.to_json()})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Task":
        """The task that `to_json` wrote.

        Raises:
            UnknownName: a setting that does not exist.
            BadInput: a value of another kind or out of its range, or more than the limits allow.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise UnknownName("task setting", name, known)
        check_stored(cls, values)
        return cls(**{**tupled(values), "source": Source.from_json(values["source"])})
