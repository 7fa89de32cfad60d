"""Answers to a file of any size: one pass over its rows, several prompts, constant memory, resumable after a kill.

Answers go to a journal beside the output, `.OUT.partial`, chunk by chunk. When all rows are answered, the output is
written from the journal, which is then removed. A command that was killed goes on behind the last whole chunk. Chunks
begin at the same rows as before, so the output has the same bytes as that of a command that never stopped.
"""

import contextlib
import hashlib
import io
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..checks import require_numbers
from ..documents import is_sealed_line, line_bytes, line_values
from ..errors import BadInput, DamagedFile, StorageFailure
from ..prompts.tuned import Stored
from ..settings import ModelSpec
from ..tasks import FORMATS, Task, records
from ._written import refuse_no_format, write_rows
from .answers import Decode
from .asked import task_of
from .evaluate import backbone_of, model_for
from .predict import MOST_BATCHES, predict

log = logging.getLogger("softprompt")

# The column that numbers the rows, where no column of theirs is kept.
ROW = "row"
# The name of the answers in a line of the journal, which has a checksum beside them.
ANSWERS = "answers"


def predict_file(
    prompts: Mapping[str, Stored],
    source: "str | Path",
    output: "str | Path",
    *,
    id_column: str | None = None,
    delimiter: str = "",
    model: ModelSpec | None = None,
    batch_size: int = 32,
    decode: Decode = "auto",
    calibrate: bool = True,
    tell: "Callable[[int, float], None] | None" = None,
) -> int:
    """Answer each row of a file with each prompt, and return the number of rows.

    The output has one row for each row of the file: its number, or the kept column, then for each prompt NAME a column
    NAME with the answer, and NAME.LABEL with the probability of each label.

    Args:
        prompts: stored prompts by the names of their columns. Each model is loaded once.
        source: CSV, TSV, JSON Lines, JSON (all also .gz or .zst), Parquet, or one text a line.
        output: .jsonl, .csv or .tsv (also .gz or .zst), or .parquet; must not exist.
        id_column: a column of the file that is kept in place of the row's number.
        delimiter: what separates the fields of CSV or TSV.
        model: how the models compute; the prompts name them.
        batch_size: rows in one pass.
        decode: as in `predict`.
        calibrate: as in `predict`.
        tell: sees the number of answered rows and the rows per second of this command after each chunk.

    Raises:
        BadInput: no prompts, a malformed row, a row without the kept column, an output that exists, or a journal of
            another command.
        ModelMismatch: a prompt that belongs to another model.
        StorageFailure: the disk is full or not writable.
        DamagedFile: the journal was changed while this command worked.
    """
    require_numbers({"batch_size": batch_size}, whole=True)
    source, output = Path(source), Path(output)
    if not prompts:
        raise BadInput("there is no prompt to answer with; give at least one")
    refuse_no_format(output)
    if output.exists():
        raise BadInput(f"{str(output)!r} exists already; remove it or choose another place for the answers")
    chunk = batch_size * MOST_BATCHES
    journal = output.with_name(f".{output.name}.partial")
    facts = {"options": [id_column, delimiter, chunk, decode, calibrate], **_facts(source, prompts)}
    rows = _rows(source, delimiter)
    first = next(rows, None)
    if first is None:
        raise BadInput(f"{str(source)!r} is empty; at least one row is needed")
    with _storing(output):
        done = _resumed(journal, facts, chunk)
    rest = itertools.islice(enumerate(itertools.chain([first], rows), 1), done, None)
    asked = {name: (stored, task_of(stored)) for name, stored in prompts.items()}
    backbones = _backbones(prompts, model)
    start, before = time.monotonic(), done
    with _storing(output):
        with journal.open("ab") as file, _each_warning_once():
            for part in _chunks(rest, chunk):
                options: dict[str, Any] = {"batch_size": batch_size, "decode": decode, "calibrate": calibrate}
                lines = _answered(part, asked, backbones, id_column, source, options)
                file.write(b"".join(line_bytes({ANSWERS: line}) for line in lines))
                file.flush()
                os.fsync(file.fileno())
                done += len(part)
                if tell is not None:
                    tell(done, (done - before) / max(time.monotonic() - start, 1e-9))
        write_rows(output, lambda: _stored_lines(journal))
        journal.unlink()
    return done


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


def _answered(
    part: Sequence[tuple[int, Any]],
    asked: Mapping[str, tuple[Stored, Task]],
    backbones: Mapping[str, AbstractBackbone],
    id_column: str | None,
    source: Path,
    options: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The output rows of a chunk."""
    lines: list[dict[str, Any]] = [_identity(number, row, id_column, source) for number, row in part]
    for name, (stored, task) in asked.items():
        inputs = [row for _, row in part]
        answers = predict(stored, inputs, task=task, model=backbones[name], is_part=True, **options)
        for line, answer in zip(lines, answers, strict=True):
            line[name] = answer["label"] if "scores" in answer else answer["output"]
            line |= {f"{name}.{label}": score for label, score in answer.get("scores", {}).items()}
    return lines


def _identity(number: int, row: Any, id_column: str | None, source: Path) -> dict[str, Any]:
    if id_column is None:
        return {ROW: number}
    if not isinstance(row, Mapping) or id_column not in row:
        raise BadInput(f"row {number} of {str(source)!r} has no column {id_column!r} to keep; leave --id-column out")
    return {id_column: row[id_column]}


def _rows(path: Path, delimiter: str) -> Iterator[Any]:
    """The rows of a file one by one; its lines where its name is of no format of rows."""
    if path.name.lower().endswith(FORMATS):
        for record in records(path, delimiter):
            if record.fault:
                raise BadInput(f"{path}:{record.line}: {record.fault}")
            yield record.values
        return
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}")
    # Not the lines of text mode: a text may hold a form feed or U+2028, which end none here.
    with io.BufferedReader(path.open("rb", buffering=0)) as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise BadInput(f"{path}:{number}: not UTF-8; convert the file first") from error


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


def _facts(source: Path, prompts: Mapping[str, Stored]) -> dict[str, Any]:
    """What has to be the same for a command to go on with a journal."""
    if not source.is_file():
        raise BadInput(f"no file {str(source)!r}")
    status = source.stat()
    hashes = {}
    for name, stored in prompts.items():
        digest = hashlib.sha256()
        for key, tensor in stored.tensors().items():
            digest.update(key.encode() + tensor.contiguous().numpy(force=True).tobytes())
        hashes[name] = digest.hexdigest()
    return {"source": [source.name, status.st_size, status.st_mtime_ns], "prompts": hashes}


def _resumed(journal: Path, facts: Mapping[str, Any], chunk: int) -> int:
    """The number of rows that a journal answers, cut to whole chunks; a new journal where there is none.

    Raises:
        BadInput: the journal is of another command.
    """
    header = line_bytes(facts)
    if not journal.is_file() or journal.stat().st_size < len(header):
        journal.write_bytes(header)
        return 0
    with journal.open("r+b") as file:
        if file.readline() != header:
            raise BadInput(
                f"{str(journal)!r} was left by a command with another file, other prompts or options; repeat that "
                "command, or remove it"
            )
        kept, place, count = len(header), 0, len(header)
        for line in file:
            if not line.endswith(b"\n"):
                break
            if _answers(line) is None:
                log.warning("%s is damaged in line %d; the rows from there on are answered again", journal, place + 2)
                break
            place, count = place + 1, count + len(line)
            if place % chunk == 0:
                kept = count
        file.truncate(kept)
    # A last chunk that is whole but short is answered again: it cannot be told from a torn one.
    return place // chunk * chunk


def _stored_lines(journal: Path) -> Iterator[dict[str, Any]]:
    with journal.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            if (answers := _answers(line)) is None:
                raise DamagedFile(f"{str(journal)!r} was damaged in line {number} meanwhile; repeat the command")
            yield answers


def _answers(line: bytes) -> dict[str, Any] | None:
    """The answers to a row that a line of a journal holds; None where it is not as it was written."""
    answers = (line_values(line.removesuffix(b"\n")) or {}).get(ANSWERS)
    return answers if isinstance(answers, dict) and is_sealed_line(line.removesuffix(b"\n")) else None


def _backbones(prompts: Mapping[str, Stored], model: ModelSpec | None) -> dict[str, AbstractBackbone]:
    """The frozen model of each prompt, each model loaded once."""
    loaded: dict[Any, AbstractBackbone] = {}
    named = {}
    for name, stored in prompts.items():
        spec = model_for(stored, model, {})
        known = loaded.get(spec)
        named[name] = loaded[spec] = backbone_of(stored, spec if known is None else known)
    return named
