"""Documents and records: every change of a byte is named, and what no file of ours holds is refused."""

import json
import os
import random
from pathlib import Path

import pytest
from softprompt.documents import (
    json_bytes,
    limited,
    limits,
    line_bytes,
    line_values,
    now,
    read_json,
    read_sealed,
    refuse_more,
    sealed_bytes,
)
from softprompt.errors import BadInput, DamagedFile, SoftPromptError, UnknownName
from softprompt.training._records import damaged_lines, read_record

VALUES = {"format": 3, "lr": 0.3, "name": "naïve — prompt", "seeds": [0, 1], "task": {"labels": ["a", "b"]}}


def written(folder: Path, content: bytes) -> Path:
    path = folder / "run.json"
    path.write_bytes(content)
    return path


def is_named(path: Path) -> bool:
    try:
        read_sealed(path, earlier_names=["lr"], sealed_from=3)
    except SoftPromptError as error:
        return path.name in error.message and "\n" not in error.message
    return False


def flips(content: bytes) -> list[bytes]:
    """The content with one or another bit of each of its bytes turned."""
    places = [(n, bit) for n in range(len(content)) for bit in (n % 8, (n + 3) % 8)]
    return [content[:n] + bytes([content[n] ^ 1 << bit]) + content[n + 1 :] for n, bit in places]


def test_a_sealed_document_comes_back_with_its_values(tmp_path):
    assert read_sealed(written(tmp_path, sealed_bytes(VALUES))) == VALUES


def test_every_flipped_bit_and_every_cut_of_a_document_is_named(tmp_path):
    content = sealed_bytes(VALUES)
    cuts = [content[:n] for n in range(len(content))]
    assert [damaged for damaged in flips(content) + cuts if not is_named(written(tmp_path, damaged))] == []


def test_a_document_of_an_earlier_format_needs_no_checksum_but_one_that_is_there_counts(tmp_path):
    before = {**VALUES, "format": 2}
    assert read_sealed(written(tmp_path, json.dumps(before).encode()), earlier_names=["lr"], sealed_from=3) == before
    assert is_named(written(tmp_path, json_bytes(VALUES)))
    assert is_named(written(tmp_path, sealed_bytes(before).replace(b"0.3", b"0.7")))


def test_a_cut_through_format_and_checksum_makes_no_earlier_document(tmp_path):
    """In the second the names stand beside each other: all values are left, and no earlier document looks so."""
    for values, earlier_names in ((VALUES, ["lr"]), ({"files": {}, "format": 2, "values": [1]}, None)):
        content = sealed_bytes(values)
        start, end = content.index(b' "format"'), content.index(b"\n", content.index(b"sha256")) + 1
        path = written(tmp_path, content[:start] + content[end:])
        assert isinstance(json.loads(path.read_bytes()), dict)
        with pytest.raises(DamagedFile, match="its checksum differs"):
            read_sealed(path, earlier_names=earlier_names)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"a": 1, "a": 2}', "has 'a' twice"),
        (b'{"a": "\\ud800"}', "lone surrogate"),
        (b'{"\\udc00": 1}', "lone surrogate"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "nested more than 40 deep"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"null", "holds no JSON object"),
        (b"[]", "holds no JSON object"),
        (b"\xff{}", "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b"", "is not JSON"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_no_document_of_ours_holds_is_named(content, what, tmp_path):
    with pytest.raises(DamagedFile, match=what):
        read_json(written(tmp_path, content))


def test_what_is_no_regular_file_of_a_bounded_size_is_refused_before_it_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2 * 2**30)
    for name in ("pipe", "sparse", "none", "."):
        what = {"sparse": "has 2147483648 bytes", "none": "No such file"}.get(name, "a pipe or another special file")
        with pytest.raises(BadInput, match=what):
            read_json(tmp_path / name)


def test_a_limit_is_raised_within_a_block_and_only_there():
    with pytest.raises(BadInput, match=r"has 20000 labels, the limit is 10000; .* --limit labels=20000 COMMAND"):
        refuse_more("labels", 20_000, "the task has 20000 labels")
    with limits(labels=20_000):
        refuse_more("labels", 20_000, "the task has 20000 labels")
    assert now().labels == 10_000


def test_a_limit_that_cannot_be_is_refused():
    with pytest.raises(UnknownName, match="Did you mean 'labels'"), limits(label=3):
        pass
    for most in (0, True):
        with pytest.raises(BadInput, match="positive whole number"), limits(labels=most):
            pass
    assert limited("row-characters=7") == ("row_characters", 7)
    for text in ("labels", "labels=", "labels=-1", "labels=1e5", "labels=²"):
        with pytest.raises(BadInput, match="NAME=NUMBER"):
            limited(text)


ROWS = [
    {"step": 1, "loss": 0.5, "lr": 0.1},
    {"step": 1, "split": "validation", "score": 0.25},
    {"step": 2, "dropped": "loss nan"},
]


def test_a_line_comes_back_and_one_of_an_earlier_version_is_believed():
    assert [line_values(line_bytes(row)[:-1]) for row in ROWS] == ROWS
    assert line_values(b'{"step": 1, "loss": 0.5}') == {"step": 1, "loss": 0.5}


@pytest.mark.parametrize("row", ROWS, ids=["loss", "validation", "dropped"])
def test_every_flipped_bit_of_a_record_costs_its_line_and_is_named(row, tmp_path):
    """Also of a record of one line, in which no other line says that there are checksums."""
    path, line, silent = tmp_path / "metrics.jsonl", line_bytes(row), []
    for damaged in flips(line):
        path.write_bytes(damaged)
        # What no line end follows is a torn line, which a killed process leaves; it is dropped.
        if list(read_record(path)) or not (damaged_lines(path) or b"\n" not in damaged[-1:]):
            silent.append(damaged)
    assert silent == []


def test_a_line_without_checksum_among_others_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line_bytes(ROWS[0]) + b'{"step": 2, "loss": 9.0}\n' + line_bytes({"step": 3, "loss": 0.4}))
    assert damaged_lines(path) == [2]
    assert [row["step"] for row in read_record(path)] == [1, 3]


def test_lines_cut_at_random_places_never_yield_a_row_that_was_not_written(tmp_path):
    draw, path = random.Random(0), tmp_path / "metrics.jsonl"
    content = b"".join(map(line_bytes, ROWS))
    for _ in range(300):
        first, last = sorted(draw.sample(range(len(content) + 1), 2))
        path.write_bytes(content[:first] + content[last:])
        assert all(row in ROWS for row in read_record(path))
