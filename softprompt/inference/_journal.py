"""The answers of a command that may be killed, pass by pass; what is read again is whole, and nothing is kept twice."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

from ..documents import is_sealed_line, line_bytes, line_values
from ..errors import BadInput, DamagedFile

log = logging.getLogger("softprompt")

# The number of a row in the file, from 0, and the name of its prompt.
Place = tuple[int, str]
AGAIN = "remove it and repeat the command"


@final
class Journal:
    """One line for each answer: the row, the prompt, what identifies the row, and the values of the prompt's columns.

    Each line ends in its checksum. Rows stand in chunks, one chunk after another, and within a chunk in the order of
    the passes. A first line says which command the answers belong to.

    Args:
        path: the file.
        facts: what has to be the same for a command to go on with it.
        columns: for each prompt the names of its columns.
        chunk: rows of a chunk.

    Raises:
        BadInput: the journal is of another command.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], columns: Mapping[str, Sequence[str]], chunk: int):
        self.path, self.columns, self.chunk = path, columns, chunk
        self.count = 0
        # The first row of the chunk that holds the last answer, and its answers; the chunks before it are whole.
        self.begun = 0
        self.known: set[Place] = set()
        self._open(line_bytes(facts))

    def __enter__(self) -> "Journal":
        self._file: BinaryIO = self.path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def rows(self) -> int:
        """Rows that all prompts have answered, as far as the number of answers tells."""
        return self.count // len(self.columns)

    def add(self, answers: Iterable[tuple[Place, Any, Sequence[Any]]]) -> None:
        """Keep the answers of a pass that are not yet known. A killed process does not lose them any more.

        Args:
            answers: for each its place, what identifies the row, and the values of its columns.
        """
        new = [answer for answer in answers if answer[0] not in self.known]
        self._file.write(b"".join(_line(*answer) for answer in new))
        self._file.flush()
        self._keep([place for place, _, _ in new])

    def end_chunk(self) -> None:
        """Keep the answers even if the machine goes down."""
        os.fsync(self._file.fileno())

    def lines(self, identity: str) -> Iterator[dict[str, Any]]:
        """The rows of the output in their order.

        Args:
            identity: the name of the column that identifies a row.

        Raises:
            DamagedFile: the journal was changed while the command worked.
        """
        rows: dict[int, dict[str, Any]] = {}
        last = 0
        for (row, name), value, values in self._answers():
            if row // self.chunk < last // self.chunk:
                raise DamagedFile(f"{str(self.path)!r} has answers to row {row + 1} twice; {AGAIN}")
            if row // self.chunk > last // self.chunk:
                yield from self._ordered(rows)
                rows = {}
            last = row
            rows.setdefault(row, {identity: value}).update(zip(self.columns[name], values, strict=True))
        yield from self._ordered(rows)

    def _ordered(self, rows: Mapping[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
        columns = [column for of_responder in self.columns.values() for column in of_responder]
        for row in sorted(rows):
            if len(rows[row]) != 1 + len(columns):
                raise DamagedFile(f"{str(self.path)!r} lacks answers to row {row + 1}; {AGAIN}")
            identity = next(iter(rows[row]))
            yield {name: rows[row][name] for name in (identity, *columns)}

    def _keep(self, places: Sequence[Place]) -> None:
        self.count += len(places)
        for place in places:
            if (begun := place[0] // self.chunk * self.chunk) != self.begun:
                self.begun = begun
                self.known.clear()
            self.known.add(place)

    def _answers(self) -> Iterator[tuple[Place, Any, list[Any]]]:
        with self.path.open("rb") as file:
            file.readline()
            for number, line in enumerate(file, 2):
                if (answer := self._answer(line)) is None:
                    raise DamagedFile(f"{str(self.path)!r} was damaged in line {number} meanwhile; repeat the command")
                yield answer

    def _open(self, header: bytes) -> None:
        if not self.path.is_file() or self.path.stat().st_size < len(header):
            self.path.write_bytes(header)
            return
        with self.path.open("r+b") as file:
            if file.readline() != header:
                raise BadInput(
                    f"{str(self.path)!r} was left by a command with another file or model, other prompts or "
                    "options; repeat that command, or remove it"
                )
            whole = len(header)
            for number, line in enumerate(file, 2):
                if (answer := self._answer(line)) is None or not self._follows(answer[0]):
                    # A kill tears the last line only.
                    if line.endswith(b"\n"):
                        log.warning(
                            "%s is damaged in line %d; the rows from there on are answered again", self.path, number
                        )
                    break
                whole += len(line)
                self._keep([answer[0]])
            file.truncate(whole)

    def _answer(self, line: bytes) -> tuple[Place, Any, list[Any]] | None:
        """The answer that a line holds; None where the line is not as it was written."""
        content = line.removesuffix(b"\n")
        values = line_values(content) if line.endswith(b"\n") and is_sealed_line(content) else None
        if values is None or values.keys() != {"row", "prompt", "id", "values"}:
            return None
        row, name, given = values["row"], values["prompt"], values["values"]
        if type(row) is not int or row < 0 or not isinstance(name, str) or name not in self.columns:
            return None
        fits = isinstance(given, list) and len(given) == len(self.columns[name])
        return ((row, name), values["id"], given) if fits else None

    def _follows(self, place: Place) -> bool:
        """Whether an answer belongs to the chunk that was begun, or to the next one after a whole chunk."""
        begun = place[0] // self.chunk * self.chunk
        if begun == self.begun:
            return place not in self.known
        return begun == self.begun + self.chunk and len(self.known) == self.chunk * len(self.columns)


def _line(place: Place, value: Any, values: Sequence[Any]) -> bytes:
    return line_bytes({"row": place[0], "prompt": place[1], "id": value, "values": list(values)})
