"""The files of studies, searches, banks, compiled prompts and predictions, arrays and rows, with what reads them."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import torch
from hostile import Case, as_bytes, forged, sealed
from softprompt.documents import compact, line_bytes, read_sealed
from softprompt.export.compiled import CompiledPrompt
from softprompt.interop.numpy import export_numpy, import_numpy
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving import read_bank
from softprompt.serving.packed import DOCUMENT, NUMBERS
from softprompt.store import read_prompt, read_tensors, tensor_bytes
from softprompt.study import load, load_specs, status
from softprompt.study._stored import path_of
from softprompt.tasks.files import records
from softprompt.training import read_record
from softprompt.training._records import checked_record, damaged_lines
from softprompt.tuning import damaged_search

# A study file as the values that it holds.
STUDY = {
    "defaults": {"model": "lab-t5-small", "steps": 8, "shots": 16, "batch_size": 4},
    "tasks": {"w": {"lab": "lab/weekend", "train": 64, "validation": 16, "test": 16}},
    "scales": {"lab": {"steps": 4}},
    "runs": [{"task": "w", "method": ["prompt-tuning", "ept-star"], "seed": [0, 1]}],
}


def toml(values: dict[str, Any]) -> bytes:
    """Plain values as TOML, as far as it has words for them."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(str(key))} = {inline(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(map(inline, value)) + "]"
        return json.dumps(value)

    return "\n".join(f"{json.dumps(name)} = {inline(value)}" for name, value in values.items()).encode(errors="replace")


def over(path: Path, read: Callable[[], object], form: Callable[[Any], bytes] = bytes) -> Callable[[Any], object]:
    """What puts a changed file in the place of a good one and reads it."""

    def put(value: Any) -> object:
        try:
            path.write_bytes(form(value))
        except RecursionError:
            path.write_bytes(as_bytes({"deep": value}))
        return read()

    return put


def restored(path: Path, put: Callable[[Any], object]) -> Callable[[Any], object]:
    """The same, with the good file back afterwards, because others are read beside it."""
    good = path.read_bytes()

    def within(value: Any) -> object:
        try:
            return put(value)
        finally:
            path.write_bytes(good)

    return within


def record_cases(run: Path) -> dict[str, Case]:
    """The records of a run."""
    member = next(run.glob("prompt-tuning*"))
    paths = {"metrics.jsonl": member / "metrics.jsonl", "restart.jsonl": next(member.glob("restarts/*.jsonl"))}
    paths["timing.jsonl"] = run / "timing.jsonl"

    def lines(document: Any) -> bytes:
        rows = document.get("rows") if isinstance(document, dict) else document
        rows = rows if isinstance(rows, list) else [rows]
        return b"".join(line_bytes(row) if isinstance(row, dict) else as_bytes(row) for row in rows)

    def read(path: Path) -> object:
        # What `doctor`, a curve and the board make of a record.
        return damaged_lines(path), checked_record(path)

    return {
        name: Case(
            {"rows": list(read_record(path))}, restored(path, over(path, lambda path=path: read(path), form=lines))
        )
        for name, path in paths.items()
    }


def study_cases(place: Path) -> dict[str, Case]:
    """A study file, and the files of a store."""
    place.mkdir()
    file = place / "study.toml"
    file.write_bytes(toml(STUDY))
    spec = load_specs(file)[0]
    store = made.store(place / "store", spec)
    stored, fleet = path_of(store, spec.name), store / "fleets" / "abc"
    plan = read_sealed(fleet / "fleet.json")
    lease = {"token": "a", "host": "b", "pid": 1, "seconds": 120.0, "deaths": 0, "step": 0}
    (fleet / "lease.json").write_bytes(as_bytes(lease))

    def run_bytes(values: Any) -> bytes:
        try:
            content = compact(values)
        except (UnicodeEncodeError, RecursionError):
            content = as_bytes(values).rstrip(b"\n")
        digest = hashlib.sha256(content).hexdigest().encode()
        return b'{"run":' + content + b',"sha256":"' + digest + b'"}\n'

    def look() -> object:
        return [load(store, spec.name, whole=whole) for whole in (True, False)]

    def watch() -> object:
        return status(store, [spec])

    values = json.loads(stored.read_bytes())["run"]
    return {
        "study.toml": Case(STUDY, over(file, lambda: load_specs(file), form=toml)),
        "study.toml as bytes": Case(file.read_bytes(), over(file, lambda: load_specs(file))),
        "a stored run": Case(values, restored(stored, over(stored, look, form=run_bytes))),
        "fleet.json": Case(plan, restored(fleet / "fleet.json", over(fleet / "fleet.json", watch, form=sealed))),
        "lease.json": Case(lease, restored(fleet / "lease.json", over(fleet / "lease.json", watch, form=as_bytes))),
    }


def search_cases(folder: Path) -> dict[str, Case]:
    """The files of a search."""
    made.search(folder)

    def look() -> object:
        return list(damaged_search(folder))

    return {
        f"tune: {path.name}": Case(read_sealed(path), restored(path, over(path, look, form=sealed)))
        for path in sorted(folder.rglob("*.json"))
    }


def serving_cases(prompt: SoftPrompt, place: Path) -> dict[str, Case]:
    """A bank, a compiled prompt, and the journal of a prediction."""
    bank = made.bank(place / "bank.safetensors", prompt)
    parts = read_tensors(bank)
    text = parts[DOCUMENT].numpy().tobytes()[32:]
    folder = made.compiled(place / "compiled")
    about = read_sealed(folder / "cache.json")
    journal = made.journal(place / ".out.jsonl.partial")

    def bank_bytes(document: Any) -> bytes:
        content = as_bytes(document)
        raw = bytearray(hashlib.sha256(content).digest() + content)
        return tensor_bytes({DOCUMENT: torch.frombuffer(raw, dtype=torch.uint8), NUMBERS: parts[NUMBERS]})

    def journal_bytes(document: Any) -> bytes:
        rows = document["lines"] if isinstance(document.get("lines"), list) else [document]
        lines = [line_bytes(row) if isinstance(row, dict) else as_bytes(row) for row in rows]
        return line_bytes(made.FACTS) + b"".join(lines)

    def go_on() -> None:
        made.read_journal(journal)

    def load() -> object:
        return CompiledPrompt.load(folder)

    cache = folder / "cache.safetensors"
    listed = {**about, "files": {}}
    answers = {"lines": [{"row": n, "prompt": "a", "id": n, "values": ["yes", 0.5]} for n in range(3)]}
    return {
        "bank, its document": Case(json.loads(text), over(bank, lambda: list(read_bank(bank)), form=bank_bytes)),
        "bank": Case(bank.read_bytes(), over(bank, lambda: list(read_bank(bank)))),
        "cache.json": Case(listed, restored(folder / "cache.json", over(folder / "cache.json", load, form=sealed))),
        "cache.safetensors": Case(
            cache.read_bytes(), _under(folder / "cache.json", listed, restored(cache, over(cache, load)))
        ),
        "journal of a prediction": Case(answers, over(journal, go_on, form=journal_bytes)),
        "journal as bytes": Case(line_bytes(made.FACTS) + line_bytes(answers["lines"][0]), over(journal, go_on)),
    }


def _under(path: Path, document: dict[str, Any], put: Callable[[Any], object]) -> Callable[[Any], object]:
    """What reads a changed file beside another document than the good one."""

    def within(value: Any) -> object:
        good = path.read_bytes()
        path.write_bytes(sealed(document))
        try:
            return put(value)
        finally:
            path.write_bytes(good)

    return within


def array_cases(prompt: SoftPrompt, source: Path, place: Path) -> dict[str, Case]:
    """Arrays and tensors from elsewhere, and files of rows."""
    plain = dataclasses.replace(prompt, vectors=prompt.vectors[:2])
    array = export_numpy(plain, place / "v.npy")
    document = (source / "prompt.json").read_bytes()

    def tensors(content: Any) -> object:
        return read_prompt(forged(place / "t", {"prompt.json": document, "prompt.safetensors": content}))

    rows = b'{"text": "a b", "label": "x"}\n{"text": "c", "label": "y"}\n'
    table = b'text,label\n"a, b",x\nc,y\n'
    return {
        "v.npy": Case(array.read_bytes(), over(array, lambda: import_numpy(array, backbone_name="m"))),
        "prompt.safetensors": Case((source / "prompt.safetensors").read_bytes(), tensors),
        "rows.jsonl": Case(rows, over(place / "rows.jsonl", lambda: list(records(place / "rows.jsonl", "")))),
        "rows.json": Case(
            b"[" + rows.replace(b"\n", b",", 1) + b"]",
            over(place / "rows.json", lambda: list(records(place / "rows.json", ""))),
        ),
        "rows.csv": Case(table, over(place / "rows.csv", lambda: list(records(place / "rows.csv", "")))),
    }
