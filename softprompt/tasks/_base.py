"""A task is data: where its rows are, how a row becomes text, how it is answered and scored. No torch."""

import dataclasses
import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, Literal, get_args

from ..checks import listed, require_different, require_numbers
from ..documents import NOT_STORED, check_shape
from ..errors import BadInput, UnknownName, pick
from ._memory import MemoryRows
from ._prepare import PREPARATIONS
from ._records import text_fault
from ._stored import check_stored

Answer = Literal["label", "number", "text"]
# Fields that came later are left out of JSON at their defaults, so that hashes of studies made before stay as they are.
_LATER = ("blanks", "delimiter", "memory", "beside", "train", "test", "layout", "where", "grouped", "window", "stride",
          "instruction", "cue", "opening_ids", "drawn", "class_names")  # fmt: skip
# The field of a template that is no column: where a masked-LM head answers.
MASK = "mask"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from: a set on the hub, the same as a folder below the data root, the user's files, or the lab.

    Args:
        hub: repository on the hub, empty for files.
        config: its configuration.
        revision: branch or commit on the hub.
        folder: path below the data root, laid out as `<folder>/<split>.jsonl.gz`.
        train: name of the training split.
        validation: name of the validation split ("validation_matched" for MNLI); empty where there is none.
        test: name of a test split with answers, or its path from the folder; empty where there is none.
        layout: name in LAYOUTS, how records of a file become rows.
        where: column -> value; the hub's other rows are left out.
        grouped: a column whose rows of one value stay in one split where a split is drawn.
        files: split -> path, or several, for the user's own data.
        delimiter: what separates the fields of their CSV or TSV; empty is what the file's name says.
        memory: split -> rows that the user's program gave.
        beside: split -> the same files as seen from the folder of the run that this is stored in.
        drawn: column -> fingerprint of the rows that the test rows of a run were drawn from; empty where none were.
        world: family of the lab's rows, which are made when they are needed; empty for all others.
        options: what that family needs, and how many rows, and how hard.
        blanks: whether their texts may be empty, as those of published sets may (QQP has a few).
        is_foreign: whether a prompt from elsewhere names the files, which are then read only after `allowed`.
    """

    hub: str = ""
    config: str | None = None
    revision: str | None = None
    folder: str = ""
    train: str = "train"
    validation: str = "validation"
    test: str = ""
    layout: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    grouped: str = ""
    files: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    delimiter: str = ""
    memory: Mapping[str, MemoryRows] = field(default_factory=dict)
    # Not compared: two runs on one file may be in folders of different depth.
    beside: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, compare=False)
    drawn: Mapping[str, str] = field(default_factory=dict, compare=False)
    world: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    blanks: bool = False
    # Never stored: a file cannot say of itself that it is trusted.
    is_foreign: bool = field(default=False, compare=False, metadata=NOT_STORED)

    def paths(self, split: str) -> tuple[str, ...]:
        """The files of a split, in the order in which they are read."""
        given = self.files[split]
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def allows_blanks(self) -> bool:
        """Whether a text may be empty: in published sets, and in copies of them."""
        return self.blanks or not self.is_own

    @property
    def is_own(self) -> bool:
        """Whether the rows are the user's own."""
        return bool(self.files or self.memory)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the user's own rows, those to train on first."""
        return tuple(split for split in SPLITS if split in self.files or split in self.memory)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without later fields that say nothing new."""
        values = dataclasses.asdict(self)
        values["memory"] = {split: rows.to_json() for split, rows in self.memory.items()}
        del values["is_foreign"]
        return _without_later(self, values)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Source":
        """The source that `to_json` wrote.

        Raises:
            UnknownName: a setting that does not exist.
            BadInput: a value of another kind.
        """
        known = {f.name for f in dataclasses.fields(cls)} - {"is_foreign"}
        for name in values:
            if name not in known:
                raise UnknownName("setting of a task's source", name, known)
        check_shape(cls, values, memory=Mapping[str, Mapping[str, int | str]])
        plain: dict[str, Any] = {
            name: _plain(value) if isinstance(value, Mapping) else value for name, value in values.items()
        }
        plain["memory"] = {split: MemoryRows.from_json(rows) for split, rows in plain.get("memory", {}).items()}
        return cls(**plain)


@dataclass(frozen=True)
class Rendered:
    """A row as text, with each column's span of characters: truncation shortens columns, never the template."""

    text: str
    spans: Mapping[str, tuple[int, int]]


@functools.lru_cache(maxsize=64)
def _pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"template {template!r}: {error}; write columns as {{column}}, braces doubled") from error
    for _, name, spec, conversion in pieces:
        if spec or conversion:
            raise BadInput(
                f"template {template!r}: a format after {{{name}}} means nothing here; write {{{name}}} alone"
            )
    if sum(name == MASK for _, name, _, _ in pieces) > 1:
        raise BadInput(f"template {template!r} holds {{mask}} more than once; an answer is given at one")
    return tuple((literal, name) for literal, name, _, _ in pieces)


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template reads, in its order."""
    return tuple(dict.fromkeys(name for _, name in _pieces(template) if name not in (None, MASK)))


def template_shown(template: str) -> tuple[str, ...]:
    """The parts of a template around its {mask}, as a row shows them: doubled braces single, and columns in braces."""
    parts = [""]
    for literal, name in _pieces(template):
        parts[-1] += literal
        if name == MASK:
            parts.append("")
        elif name is not None:
            parts[-1] += f"{{{name}}}"
    return tuple(parts)


def template_tail(template: str) -> str:
    """The text behind the last field of a template."""
    pieces = _pieces(template)
    return pieces[-1][0] if pieces and pieces[-1][1] is None else ""


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
            answers there; without one it answers behind the text.
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
        window: a column of which a row that is too long is read in windows, in place of losing its end; empty for none.
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
        return any(name == MASK for _, name in _pieces(self.template))

    @property
    def opening(self) -> str:
        """What stands before the text of each row: the instruction and the end of its line, or nothing."""
        return f"{self.instruction}\n" if self.instruction else ""

    @property
    def tail(self) -> str:
        """The template's own text behind its last column; it stands right before the answer."""
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
        for literal, name in _pieces(self.template):
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
        return _without_later(self, {**values, "source": self.source.to_json()})

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
        return cls(**{**_plain(values), "source": Source.from_json(values["source"])})


def _without_later(of: "Source | Task", values: dict[str, Any]) -> dict[str, Any]:
    defaults = {f.name: f.default for f in dataclasses.fields(of)}
    return {name: value for name, value in values.items() if name not in _LATER or value not in ({}, defaults[name])}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
