"""Rows to token ids: rendered, tokenised in large batches, cut to length, kept on disk."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, final

import numpy as np
import torch

from ..errors import BadInput, UnknownName
from ..prompts.batch import SPECIAL, TEMPLATE, UNKNOWN
from ..tasks import Rendered, Task, answer_text, gold
from ._cache import cached, content_key, tokenizer_key
from ._examples import Examples, Gold, Ragged, Windows, shared_ids
from ._table import Rows, uncollected
from ._truncate import Span, kept_tokens, shortened_text, tokens_within
from ._windows import window_with_answer, windows

Answers = Literal["tokens", "chat", "label-words", "linear-head"]
EncodeAnswers = Callable[[Sequence[str]], list[list[int]]]
# Column -> the characters of the text that are its.
Spans = Mapping[str, Span]
# Enough rows to keep the tokenizer's threads busy, few enough that their encodings stay small.
CHUNK = 2048
# What is to be done where the length that was asked for is too short for a row.
LONGER = "raise --max-length"


@final
@dataclass(frozen=True, kw_only=True)
class TextFormat:
    """How a backbone reads the texts and the answers of a task.

    Args:
        tokenizer: of the backbone.
        answers: how the backbone answers.
        encode_answers: words to token ids; not called for a linear head.
        prefix: stands before the rendered text.
        turn: what of the prefix no task chooses, as the opening of a turn in a chat.
        suffix: stands after it.
        mask: what a {mask} of the template becomes; the suffix is then left out. A row's own text that reads like it
            is taken apart, so that the answer's place is the only one. None if the backbone answers at none.
        special_tokens: whether the tokenizer adds its own; a chat template brings them in prefix and suffix.
    """

    tokenizer: Any
    answers: Answers
    encode_answers: EncodeAnswers
    prefix: str = ""
    turn: str = ""
    suffix: str = ""
    mask: str | None = None
    special_tokens: bool = True

    @property
    def encode(self) -> "partial[Any]":
        """The tokenizer as it reads a whole text, which is never cut."""
        # verbose=False: the tokenizer warns of its own limit, which is not ours.
        return partial(
            self.tokenizer, add_special_tokens=self.special_tokens, padding=False, truncation=False, verbose=False
        )


@uncollected()
def tokenize(
    rows: Rows | Iterable[Mapping[str, Any]],
    task: Task,
    text_format: TextFormat,
    *,
    max_length: int | None = None,
    longer: str = LONGER,
    cache: bool = True,
    targets: bool = True,
    places: Sequence[str] | None = None,
) -> Examples:
    """Examples for a backbone: each row's text as token ids, special tokens included, and its answer.

    A row longer than `max_length` loses the last tokens of the columns that the task allows, the longest column
    first; never the template, another column, prefix, suffix or a special token. Token ids are cached on disk under
    the hash of texts, tokenizer and limit. Where the task names a window, a row that is too long is read in windows
    over that column, and nothing is cut (`windows`; tokenizers without offsets cut as for other tasks).
    The task's `opening_ids` count to the limit, but are left out of the rows.

    Args:
        rows: of `load_rows`, or dicts.
        task: renders a row and says what counts as right.
        text_format: the backbone's.
        max_length: tokens; None takes the task's.
        longer: what is to be done where a row has to be longer than that, for messages.
        cache: False reads and writes no file: a server keeps nothing of its users' texts.
        targets: whether rows hold answers; False leaves the examples without targets and gold.
        places: what each row is called in messages, as "rows.csv:3"; None takes its number in its file.

    Raises:
        BadInput: a row without a column that the template names, a row that cannot be cut to `max_length`, an answer
            that the backbone cannot give, or a template with a {mask} for a backbone that answers elsewhere.
    """
    numbers = rows.numbers if isinstance(rows, Rows) else ()
    rows = list(rows)
    named = places or [f"row {number}" for number in numbers or range(1, len(rows) + 1)]
    right = [gold(task, row) for row in rows] if targets else []
    encoded = _targets(task, right, text_format) if targets else None
    limit = task.max_length if max_length is None else max_length
    cut: list[list[Mapping[str, Any]]] = []
    if task.is_cloze:
        _refuse_cloze(task, text_format)
    suffix = "" if task.is_cloze else text_format.suffix
    if task.window and text_format.tokenizer.is_fast:
        cut = _windows(rows, named, task, text_format, suffix, limit, longer)
        rows = [row for part in cut for row in part]
        named = [place for place, part in zip(named, cut, strict=True) for _ in part]
    pieces = [_piece(task, row, place, text_format.mask) for place, row in zip(named, rows, strict=True)]
    texts = [text_format.prefix + piece.text + suffix for piece in pieces]
    spans = [_moved(piece.spans, len(text_format.prefix)) for piece in pieces]

    def make() -> tuple[Ragged, Ragged, int]:
        return _inputs(texts, spans, named, text_format.encode, limit, task, longer)

    if cache:
        reading = [tokenizer_key(text_format.tokenizer), limit, text_format.special_tokens, task.shortened]
        inputs, parts, truncated = cached(content_key([*reading, *zip(texts, spans, strict=True)]), make)
    else:
        inputs, parts, truncated = make()
    if task.opening_ids:
        shared = inputs.shared_with(_held(task, text_format))
        inputs, parts = inputs.without_first(shared), parts.without_first(shared)
    if not cut:
        return Examples(inputs, encoded, right, task.labels, truncated, parts)
    answered = [window_with_answer(task.window, part, right[row]) if targets else 0 for row, part in enumerate(cut)]
    counts = torch.tensor([len(part) for part in cut])
    firsts = counts.cumsum(0) - counts + torch.tensor(answered)
    all_windows = Windows(inputs, torch.repeat_interleave(torch.arange(len(cut)), counts))
    # Nothing is lost: what one window does not hold is in another.
    return Examples(inputs.select(firsts), encoded, right, task.labels, 0, parts.select(firsts), all_windows)


def _held(task: Task, text_format: TextFormat) -> Sequence[int]:
    """The ids that stand in the prompt's place and not in a row: the task's `opening_ids`.

    Of another instruction, which may begin with the same words, the prompt holds only what stands before it.
    """
    whole, without = text_format.encode([text_format.prefix, text_format.turn])["input_ids"]
    if shared_ids(whole, task.opening_ids) == len(task.opening_ids):
        return task.opening_ids
    return task.opening_ids[: shared_ids(without, task.opening_ids)]


def _windows(
    rows: list[Mapping[str, Any]],
    named: Sequence[str],
    task: Task,
    text_format: TextFormat,
    suffix: str,
    limit: int,
    longer: str,
) -> list[list[Mapping[str, Any]]]:
    """The windows of each row, after which the suffix stands.

    Raises:
        BadInput: as in `windows`, or a row without a column of the template.
    """
    for place, row in zip(named, rows, strict=True):
        # A row that cannot be rendered is named here: windows read its column before anything else does.
        _piece(task, row, place, text_format.mask)
    encode = text_format.encode

    def whole(row: Mapping[str, Any]) -> str:
        return text_format.prefix + _piece(task, row, "a window", text_format.mask).text + suffix

    return windows(
        rows,
        named,
        task,
        partial(encode, add_special_tokens=False, return_offsets_mapping=True),
        lambda row: len(encode(whole(row))["input_ids"]),
        limit,
        longer,
    )


def _refuse_cloze(task: Task, text_format: TextFormat) -> None:
    if text_format.mask is None:
        how = "by a linear head" if text_format.answers == "linear-head" else "in tokens"
        raise BadInput(
            f"task {task.name!r} in style {task.style!r} is answered at a {{mask}}, this model answers {how}; choose "
            "another style or template, or an encoder with a masked-LM head (softprompt lab mlm-head trains one)"
        )


def _piece(task: Task, row: Mapping[str, Any], place: str, mask: str | None) -> Rendered:
    try:
        return task.render(row) if mask is None else task.render(_without(mask, row), mask)
    except (BadInput, UnknownName) as error:
        raise BadInput(f"{place}: {error.message}") from error


def _without(mask: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with "[MASK]" in its texts as "[ MASK]": words about masks, which the tokenizer reads as words."""
    apart = f"{mask[:1]} {mask[1:]}"
    return {name: value.replace(mask, apart) if isinstance(value, str) else value for name, value in row.items()}


def _moved(spans: Spans, by: int) -> Spans:
    return {name: (start + by, end + by) for name, (start, end) in spans.items()} if by else dict(spans)


def _inputs(
    texts: Sequence[str],
    spans: Sequence[Spans],
    named: Sequence[str],
    tokenizer: partial[Any],
    limit: int,
    task: Task,
    longer: str,
) -> tuple[Ragged, Ragged, int]:
    called: Any = tokenizer.func
    encode = _encode_fast if getattr(called, "is_fast", False) else _encode_slow
    special = called.all_special_ids
    rows: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    truncated = 0
    for start in range(0, len(texts), CHUNK):
        part = slice(start, start + CHUNK)
        for length, ids, members in encode(texts[part], spans[part], tokenizer, limit, task.shortened):
            if ids is None:
                names = ", ".join(map(repr, task.shortened))
                raise BadInput(
                    f"{named[len(rows)]} has {length} tokens, {limit} are allowed, "
                    f"and cutting {names} does not suffice; {longer}"
                )
            rows.append(ids)
            parts.append(np.where(np.isin(ids, special), SPECIAL, members))
            truncated += len(ids) < length
    return Ragged.of(rows), Ragged.of(parts), truncated


# Length before the cut, ids after it (None if the row cannot be cut), and what each id is a part of.
Encoded = tuple[int, np.ndarray | None, np.ndarray | int]


def _encode_fast(
    texts: Sequence[str], spans: Sequence[Spans], tokenizer: partial[Any], limit: int, shortened: Sequence[str]
) -> Iterable[Encoded]:
    encodings = tokenizer(list(texts)).encodings
    for text, row_spans, encoding in zip(texts, spans, encodings, strict=True):
        ids, members = np.asarray(encoding.ids, np.int32), _members(text, row_spans, encoding)
        if len(ids) <= limit:
            yield len(ids), ids, members
            continue
        keep = kept_tokens(text, encoding.offsets, [row_spans[n] for n in shortened if n in row_spans], limit)
        yield (len(ids), None, UNKNOWN) if keep is None else (len(ids), ids[keep], members[keep])


def _members(text: str, spans: Spans, encoding: Any) -> np.ndarray:
    """The column of each token, counted from 1; the template and what the tokenizer adds apart."""
    members = np.full(len(encoding.ids), TEMPLATE, np.int32)
    for number, span in enumerate(spans.values(), 1):
        members[tokens_within(text, encoding.offsets, span)] = number
    return np.where(np.asarray(encoding.special_tokens_mask, bool), SPECIAL, members)


def _encode_slow(
    texts: Sequence[str], spans: Sequence[Spans], tokenizer: partial[Any], limit: int, shortened: Sequence[str]
) -> Iterable[Encoded]:
    """The same without offsets: long rows are shortened as text and tokenised again."""

    def encode(text: str) -> list[int]:
        return tokenizer(text)["input_ids"]

    for text, row_spans in zip(texts, spans, strict=True):
        ids = encode(text)
        length = len(ids)
        if length > limit:
            cut = [row_spans[name] for name in shortened if name in row_spans]
            text = shortened_text(text, cut, lambda shorter: len(encode(shorter)) <= limit)
            ids = None if text is None else encode(text)
        yield length, None if ids is None else np.asarray(ids, np.int32), UNKNOWN


def _targets(task: Task, right: list[Gold], text_format: TextFormat) -> Ragged | torch.Tensor:
    if text_format.answers == "linear-head":
        if task.answer == "text":
            raise BadInput(f"task {task.name!r} is answered in free text, a linear head gives classes or numbers")
        return torch.tensor(right, dtype=torch.float32 if task.answer == "number" else torch.long)
    if text_format.answers == "label-words" and task.answer != "label":
        how = "--answers=linear-head" if task.answer == "number" else "a model that writes text"
        raise BadInput(f"task {task.name!r} has no label words, and this model answers by one of them; choose {how}")
    if task.answer == "label":
        words = list(task.labels)
        places = [int(r) for r in right if not isinstance(r, list)]
    else:
        # Each distinct answer once: numbers and texts repeat.
        spoken = [answer_text(task, r) for r in right]
        words = list(dict.fromkeys(spoken))
        index = {word: place for place, word in enumerate(words)}
        places = [index[word] for word in spoken]
    return Ragged.of(text_format.encode_answers(words)).select(places)
