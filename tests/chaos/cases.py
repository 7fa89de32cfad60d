"""The documents that hostile files are made of, each with what reads it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile import Case, as_bytes, forged, sealed
from other_cases import array_cases, record_cases, search_cases, serving_cases, study_cases
from softprompt.documents import read_sealed
from softprompt.inference.asked import task_of
from softprompt.interop.hub import model_card
from softprompt.interop.peft import export_peft, import_peft
from softprompt.prompts.prompt import SoftPrompt
from softprompt.store import load_tuned, read_folder, read_prompt
from softprompt.training import damage, last_good, read_plan, read_results
from softprompt.training._damage import damaged_documents

OURS, PEFTS = "softprompt.json", "adapter_config.json"


def hostile_cases(whole: Path, place: Path) -> dict[str, Case]:
    """By a name, a good document of a run and what reads a changed one in its place."""
    source = next(whole.glob("ept-star*/prompt"))
    tensors = (source / "prompt.safetensors").read_bytes()
    run = place / "run"
    shutil.copytree(whole, run)
    peft = export_peft(SoftPrompt.load(source), place / "peft")
    exported = {path.name: path.read_bytes() for path in peft.iterdir() if path.name != "manifest.json"}

    def prompt(document: dict[str, Any]) -> object:
        folder = forged(place / "prompt", {"prompt.json": as_bytes(document), "prompt.safetensors": tensors})
        found = read_prompt(folder)
        return model_card(found, "a/b"), found.provenance.task and task_of(found)

    def export(document: dict[str, Any], name: str) -> object:
        return import_peft(forged(place / "export", {**exported, name: as_bytes(document)}))

    def manifest(document: dict[str, Any]) -> object:
        (place / "folder").mkdir(exist_ok=True)
        (place / "folder" / "manifest.json").write_bytes(as_bytes(document))
        return read_folder(place / "folder")

    def within(path: Path, document: dict[str, Any], read: Callable[[], object]) -> object:
        content = path.read_bytes()
        path.write_bytes(sealed(document))
        try:
            return read()
        finally:
            path.write_bytes(content)

    def state(document: dict[str, Any]) -> object:
        folder = run / "checkpoints" / "step-000004"
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
        before = (folder / "manifest.json").read_bytes()
        try:
            forged(folder, {**files, "state.json": as_bytes(document)})
            return last_good(run)
        finally:
            (folder / "state.json").write_bytes(files["state.json"])
            (folder / "manifest.json").write_bytes(before)

    def weights(document: dict[str, Any]) -> object:
        files = {"weights.json": as_bytes(document), "weights.safetensors": tensors}
        return load_tuned(forged(place / "weights", files))

    def read_run() -> object:
        return read_plan(run), read_results(run), list(damage(run))

    def documents(path: Path) -> Case:
        return Case(read_sealed(path), lambda document: within(path, document, read_run))

    stored, chosen = SoftPrompt.load(source), next(run.glob("*/restarts/chosen.json"))
    read = {
        "prompt.json": (source / "prompt.json", prompt),
        "manifest.json": (source / "manifest.json", manifest),
        "state.json": (run / "checkpoints" / "step-000004" / "state.json", state),
    }
    return {
        **{name: Case(_json(path), reader) for name, (path, reader) in read.items()},
        OURS: Case(json.loads(exported[OURS]), lambda document: export(document, OURS)),
        PEFTS: Case(json.loads(exported[PEFTS]), lambda document: export(document, PEFTS)),
        "weights.json": Case(_weights(source), weights),
        "run.json": documents(run / "run.json"),
        "result.json": documents(next(run.glob("ept-star*/result.json"))),
        "chosen.json": Case(
            read_sealed(chosen), lambda document: within(chosen, document, lambda: list(damaged_documents(run)))
        ),
        **record_cases(run),
        **study_cases(place / "study"),
        **search_cases(place / "search"),
        **serving_cases(stored, place),
        **array_cases(stored, source, place),
    }


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _weights(source: Path) -> dict[str, Any]:
    document = _json(source / "prompt.json")
    same = {name: document[name] for name in ("shapes", "provenance")}
    return {"format": 1, "kind": "lora", "options": {}, **same}
