"""Files of searches, stores, banks, compiled prompts and predictions, written by what writes them, without a model."""

from pathlib import Path
from typing import Any

import torch
from damage import Reader, read_any
from softprompt.documents import sealed_bytes
from softprompt.export._decoder import InputFormat
from softprompt.export.compiled import CompiledPrompt
from softprompt.inference._journal import Journal
from softprompt.inference.frozen import Baseline
from softprompt.inference.kept_baselines import kept_baselines
from softprompt.prompts.prompt import SoftPrompt
from softprompt.serving import write_bank
from softprompt.store import write_file
from softprompt.study import RunSpec, StoredRun
from softprompt.study._stored import path_of, to_bytes
from softprompt.tuning._kept import field_bytes, kept
from softprompt.tuning._report import Lead, Line, Tuning
from softprompt.tuning._rows import LISTED
from softprompt.tuning._trials import Trial

FACTS: dict[str, Any] = {"options": [1], "source": ["rows.csv", 1, 2]}
# Rows in one chunk of a prediction, and the columns of its prompt.
CHUNK = 2
COLUMNS = {"a": ["a", "a.yes"]}


def search(folder: Path) -> Path:
    """A search of one wave that has ended."""
    trial = Trial(number=0, params={"method": "ept-star", "rate": 1.0}, state="finished", value=0.5, rungs={2: 0.5})
    lead = Lead(difference=0.1, error=0.05, low=0.0, high=0.2, p=0.04, is_significant=True)
    report = Tuning(
        folder=folder, task="t", model="m", settings={}, template="words", is_default=True,
        lines=(Line(name="winner", score=0.5, low=0.4, high=0.6, each=(0.5,)),), lead=lead, challengers=[],
        best=folder / "report", trials={"finished": 1}, cost={"seconds": 1.0}, rows={"train": 4},
    )  # fmt: skip
    documents = {"tune.json": {"seed": 0, "task": {"name": "t"}}, "report.json": report.to_json()}
    for name, values in {**documents, LISTED: {"files": {}}}.items():
        write_file(folder / name, field_bytes(values), what="a search")
    kept(folder / "waves" / "000" / "asked.json", lambda: [trial.params])
    kept(folder / "waves" / "000" / "told.json", lambda: {"trials": [trial.to_json()], "seconds": 1.0})
    kept(folder / "choice" / "answers-test.json", lambda: {"predictions": [0, 1], "gold": [0, 1]})
    return folder


def store(folder: Path, spec: RunSpec) -> Path:
    """A store with a run, and a fleet that waits for its worker."""
    run = StoredRun(
        name=spec.name, spec=spec, metrics={"test": {"score": 0.5}}, majority=0.5, best_step=4, trainable=64, head=0,
        stored=64, seconds=1.0, status="finished", curve={"step": [1, 2], "loss": [0.5, 0.4]},
        validation={"step": [2], "score": [0.5]}, fleet=(spec.name,), inputs={}, versions={"torch": "2"},
    )  # fmt: skip
    write_file(path_of(folder, spec.name), to_bytes(run), what="a run")
    plan = {"format": 2, "keep": False, "run": "run", "names": [spec.name], "specs": [spec.to_json()]}
    write_file(folder / "fleets" / "abc" / "fleet.json", sealed_bytes(plan), what="a plan")
    baseline = Baseline(name="frozen", score=0.5, interval=None, predictions=[0, 1])
    kept_baselines(folder / "baselines" / "abc.json", {"task": {"name": "t"}, "model": "m"}, lambda: [baseline])
    return folder


def bank(file: Path, prompt: SoftPrompt) -> Path:
    """A bank of two prompts."""
    return write_bank(file, [("a", prompt), ("b", prompt)])


def compiled(folder: Path) -> Path:
    """A compiled prompt of one layer."""
    part, form = torch.zeros(1, 2, 3, 4), InputFormat("a ", " b", special=True, skipped=[], opening=[1])
    return CompiledPrompt([part], [part], "m", None, form).save(folder, "A prompt.")


def journal(path: Path, rows: int = 6) -> Path:
    """The journal of a prediction that was killed after so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with Journal(path, FACTS, COLUMNS, CHUNK) as opened:
        opened.add(((number, "a"), number, ["yes", 0.5]) for number in range(rows))
    return path


def read_journal(path: Path) -> None:
    """What a prediction does with what a killed one left."""
    list(Journal(path, FACTS, COLUMNS, CHUNK).lines("row"))


def places(prompt: SoftPrompt, place: Path) -> dict[Path, Reader]:
    """One of each, and what reads it."""
    spec = RunSpec(task="lab/weekend", model="lab-t5-small")
    kept_places = (search(place / "search"), store(place / "store", spec), bank(place / "bank", prompt))
    read: dict[Path, Reader] = dict.fromkeys((*kept_places, compiled(place / "compiled")), read_any)
    return {**read, journal(place / "journal" / ".answers.jsonl.partial"): read_journal}
