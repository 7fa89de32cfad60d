"""Answers to a file of any size: several prompts in passes that they share, constant memory, resumable after a kill.

Answers go to a journal beside the output, `.OUT.partial`, pass by pass. When all rows are answered, the output is
written from the journal, which is then removed. A command that was killed goes on with the first pass that is not
whole in the journal. The passes of a chunk of rows follow from its rows alone, so the output has the same bytes as that
of a command that never stopped.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..backbones import AbstractBackbone
from ..checks import refuse_exists, require_numbers
from ..errors import BadInput, StorageFailure
from ..prompts.prompt import SoftPrompt
from ..prompts.tuned import Stored
from ..settings import ModelSpec
from ..store import held_alone, refuse_no_place
from ..tasks import FORMATS, Task, plain_cell, records, text_fault
from ._journal import Journal
from ._written import refuse_no_format, write_rows
from .decoding import Decode
from .predict import BLANK, as_row, is_blank
from .prompt_model import LoadedModels
from .together import Group, Responder

log = logging.getLogger("softprompt")

# The column that numbers the rows, where no column of theirs is kept.
ROW = "row"
# Rows are answered in chunks of so many batches, the longest rows of a chunk first.
CHUNK = 8
# Of the journal; a journal of another version is of another command.
VERSION = 3


class _Row(NamedTuple):
    """A row of the file: its number from 0, its place as "rows.csv:3", and what identifies it in the output."""

    number: int
    place: str
    given: Any
    identity: Any


def predict_file(
    prompts: Mapping[str, Stored],
    source: "str | Path",
    output: "str | Path",
    *,
    id_column: str | None = None,
    delimiter: str = "",
    model: ModelSpec | AbstractBackbone | None = None,
    batch_size: int = 32,
    decode: Decode | None = None,
    calibrate: bool = True,
    max_new_tokens: int | None = None,
    tell: "Callable[[int, float], None] | None" = None,
) -> int:
    """Answer each row of a file with each prompt, and return the number of rows.

    The output has one row for each row of the file: its number, or the kept column, then for each prompt NAME a column
    NAME with the answer, and NAME.LABEL with the probability of each label. Prompts of one model share its passes.

    Args:
        prompts: stored prompts by the names of their columns. Each model is loaded once.
        source: CSV, TSV, JSON Lines, JSON (all also .gz or .zst), Parquet, or one text a line.
        output: .jsonl, .csv or .tsv (also .gz or .zst), or .parquet; must not exist.
        id_column: a column of the file that is kept in place of the row's number.
        delimiter: what separates the fields of CSV or TSV.
        model: how the models compute, which the prompts name; or one that is loaded.
        batch_size: rows in one pass, of all prompts together.
        decode: as in `predict`.
        calibrate: as in `predict`.
        max_new_tokens: as in `predict`.
        tell: sees the number of answered rows and the rows per second of this command after each pass.

    Raises:
        BadInput: no prompts, a malformed row, a row without the kept column, two columns of one name, an output that
            exists or whose folder does not, a journal of another command, or another command that answers into the
            output now.
        ModelMismatch: a prompt that belongs to another model.
        StorageFailure: the disk is full or not writable.
        DamagedFile: the journal was changed while this command worked.
    """
    require_numbers({"batch_size": batch_size, "max_new_tokens": max_new_tokens}, whole=True)
    source, output = Path(source), Path(output)
    if not prompts:
        raise BadInput("there is no prompt to answer with; give at least one")
    refuse_no_format(output)
    _refuse_no_folder(output.absolute().parent)
    with _alone(output):
        partial = output.with_name(f".{output.name}.partial")
        if not partial.exists():
            refuse_exists(output, "the answers")
        rows = _identified_rows(source, delimiter, id_column)
        responders = _responders(
            prompts, model, {"decode": decode, "calibrate": calibrate, "max_new_tokens": max_new_tokens}
        )
        columns = {responder.name: responder.columns for responder in responders}
        refuse_equal_columns(id_column or ROW, columns)
        facts = _facts(source, responders, [id_column, delimiter, batch_size, decode, calibrate, max_new_tokens])
        with _storing(output):
            journal = Journal(partial, facts, columns, CHUNK * batch_size)
            if not output.exists():
                try:
                    with journal, _each_warning_once():
                        _answer_all(rows, journal, Group.all_of(responders), batch_size, tell)
                except BadInput:
                    # Of a first chunk that cannot be answered nothing is left: the mended file is another.
                    if journal.count == 0:
                        partial.unlink()
                    raise
                write_rows(output, lambda: journal.lines(id_column or ROW), numbered=id_column is None)
            # The command was killed when all but the removal of its journal was done; or the file is another's.
            elif journal.rows != sum(1 for _ in rows):
                refuse_exists(output, "the answers")
            partial.unlink()
        return journal.rows


@contextlib.contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Within, no other command answers into this file.

    Raises:
        BadInput: another one does.
        StorageFailure: the folder cannot be written.
    """
    lock = output.with_name(f".{output.name}.lock")
    taken = BadInput(f"another command is writing answers into {str(output)!r}; wait for it, or choose another place")
    with held_alone(lock, taken, to=f"write the answers to {str(output)!r}", remedy="choose another place"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _refuse_no_folder(folder: Path) -> None:
    """Refuse a folder for the output that is not there or cannot be written, before a model is loaded."""
    refuse_no_place(folder, "the answers")
    if not folder.exists():
        raise BadInput(f"no folder {str(folder)!r} for the answers; make it, or choose another place")


@contextlib.contextmanager
def _storing(output: Path) -> Iterator[None]:
    """Within the block, a disk that fails is one line.

    Raises:
        StorageFailure: the disk is full or not writable.
    """
    try:
        yield
    except OSError as error:
        raise StorageFailure(
            f"could not write the answers to {str(output)!r}: {error.strerror or error}; free some space, then repeat "
            "the command: it goes on where it stopped"
        ) from error


def _answer_all(
    rows: Iterator[_Row],
    journal: Journal,
    groups: Sequence[Group],
    batch_size: int,
    tell: "Callable[[int, float], None] | None",
) -> None:
    """Answer the rows that the journal does not hold."""
    start, before = time.monotonic(), journal.count
    tasks = [responder.task for group in groups for responder in group.responders]
    for part in _chunks(_telling_blank(itertools.islice(rows, journal.begun, None), tasks), journal.chunk):
        for group in groups:
            with group.ready() as prompt_batch:
                for passed in group.passes([row.given for row in part], batch_size, [row.place for row in part]):
                    cells = [(part[row].number, group.responders[number].name) for row, number in passed.cells]
                    if journal.known.issuperset(cells):
                        continue
                    identities = [part[row].identity for row, _ in passed.cells]
                    journal.add(zip(cells, identities, passed.answers(prompt_batch), strict=True))
                    if tell is not None:
                        done = (journal.count - before) / len(journal.columns)
                        tell(journal.rows, done / max(time.monotonic() - start, 1e-9))
        journal.end_chunk()


def _telling_blank(rows: Iterator[_Row], tasks: Sequence[Task]) -> Iterator[_Row]:
    """The rows, and after the last of them a warning that counts those in which a task reads no word."""
    count, blank, first = 0, 0, ""
    for row in rows:
        count += 1
        if any(is_blank(task, as_row(task, row.given)) for task in tasks):
            blank, first = blank + 1, first or row.place
        yield row
    if blank:
        log.warning(BLANK, blank, count, first)


def refuse_equal_columns(identity: str, columns: Mapping[str, Sequence[str]]) -> None:
    """Refuse columns of one name, of which the last would replace the others.

    Raises:
        BadInput: naming the column.
    """
    names = [identity, *itertools.chain.from_iterable(columns.values())]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"two columns of the output would be called {twice!r}; name prompts, as --prompts NAME=PROMPT")


def _identified_rows(source: Path, delimiter: str, id_column: str | None) -> Iterator[_Row]:
    """The rows of a file; the first one is checked at once.

    Raises:
        BadInput: no row, or one that is malformed or lacks the column.
    """
    rows = _rows(source, delimiter)
    first = next(rows, None)
    if first is None:
        raise BadInput(f"{str(source)!r} is empty; at least one row is needed")
    _identity(0, *first, id_column)
    whole = enumerate(itertools.chain([first], rows))
    return (_Row(number, place, given, _identity(number, place, given, id_column)) for number, (place, given) in whole)


def _identity(number: int, place: str, given: Any, id_column: str | None) -> Any:
    """What identifies a row in the output."""
    if id_column is None:
        return number + 1
    if not isinstance(given, Mapping) or id_column not in given:
        raise BadInput(f"{place}: no column {id_column!r}; leave --id-column out")
    value = plain_cell(given[id_column])
    # What JSON has no form of, as a date of Parquet, is kept as text.
    kept = value if value is None or isinstance(value, str | int | float | list | dict) else str(value)
    if fault := text_fault(json.dumps(kept, ensure_ascii=False, default=str)):
        raise BadInput(f"{place}: column {id_column!r} holds {fault}; mend it, or leave --id-column out")
    return kept


def _rows(path: Path, delimiter: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file one by one, each with its place; its lines where its name is of no format of rows."""
    if path.name.lower().endswith(FORMATS):
        for record in records(path, delimiter):
            if record.fault:
                raise BadInput(f"{path}:{record.line}: {record.fault}")
            yield f"{path}:{record.line}", record.values
        return
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    # Not the lines of text mode: a text may hold a form feed or U+2028, which end none here.
    with io.BufferedReader(path.open("rb", buffering=0)) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"{path}:{number}: not UTF-8; convert the file first") from error
            yield f"{path}:{number}", text.removesuffix("\n").removesuffix("\r")


def _chunks(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


@contextlib.contextmanager
def _each_warning_once() -> Iterator[None]:
    """Inside the `with` block, a warning that every chunk would repeat is given for the first of them."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = str(record.msg) in seen
        seen.add(str(record.msg))
        return not known

    log.addFilter(is_new)
    try:
        yield
    finally:
        log.removeFilter(is_new)


def _facts(source: Path, responders: Sequence[Responder], options: list[Any]) -> dict[str, Any]:
    """What has to be the same for a command to go on with a journal."""
    status = source.stat()
    return {
        "version": VERSION,
        "options": options,
        "source": [source.name, status.st_size, status.st_mtime_ns],
        "prompts": {responder.name: [_hash(responder), _computing(responder.backbone)] for responder in responders},
    }


def _hash(responder: Responder) -> str:
    """Of all that a prompt answers by, beside its model."""
    stored = responder.stored
    kind = [stored.repeats] if isinstance(stored, SoftPrompt) else [stored.kind, dict(stored.options)]
    asked = [kind, responder.task.to_json(), responder.scoring.to_json()]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode())
    for key, tensor in stored.tensors().items():
        digest.update(key.encode() + tensor.contiguous().numpy(force=True).tobytes())
    return digest.hexdigest()


def _computing(backbone: AbstractBackbone) -> dict[str, Any]:
    """What the numbers of a model follow from; one device of a kind is as good as another."""
    return {**dataclasses.asdict(backbone.spec), "device": backbone.device.type}


def _responders(
    prompts: Mapping[str, Stored], model: ModelSpec | AbstractBackbone | None, options: Mapping[str, Any]
) -> list[Responder]:
    """The prompts with their frozen models, each model loaded once."""
    models = LoadedModels(model)
    return [Responder.of(name, stored, models.of(stored), **options) for name, stored in prompts.items()]
