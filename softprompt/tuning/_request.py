"""What a user asks of a search, checked before anything is computed, and how a stored search is told from another."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..checks import listed, require_different, require_numbers
from ..errors import BadInput, ModelMismatch, RunExists, pick
from ..prompts.methods import METHODS
from ..settings import ModelSpec, PromptSettings, TrainSettings
from ..store import json_bytes, write_file
from ..tasks import Task, Wording
from ..training import (
    is_same_model,
    model_digests,
    model_from,
    refuse_unknown_keywords,
    settings_from,
    task_from,
    wording_from,
)
from ._kept import field_bytes, kept, stored_fields
from ._rows import Parts
from ._space import METHODS_TRIED

REQUEST = "tune.json"
# The digests of the model; searches of earlier versions write them when they go on.
MODEL = "model.json"
# In a tune.json without a checksum, that of an earlier version.
EARLIER_NAMES = ("model",)
_PROMPT = {field.name for field in dataclasses.fields(PromptSettings)} | {"prompt_length"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A search as it was asked for.

    Args:
        task: as the user named or made it.
        wording: the user's own words for a declared task.
        model: the spec of the frozen model, or the loaded backbone.
        settings: what every candidate shares.
        minutes: for everything; None where trials are counted.
        trials: in all; None where minutes are.
        seeds: of the final scores.
        seed: of the search.
        methods: that may be proposed; the first is the default's.
        templates: further templates.
        style: the user's.
        ceiling: whether LoRA is trained beside the winner.
        is_paced: whether the user said how often candidates are evaluated.
    """

    task: Task
    wording: Wording
    model: ModelSpec | AbstractBackbone
    settings: TrainSettings
    minutes: float | None
    trials: int | None
    seeds: int
    seed: int
    methods: Sequence[str]
    templates: Sequence[str]
    style: str | None
    ceiling: bool
    is_paced: bool = False

    @property
    def model_name(self) -> str:
        """The name of the frozen model."""
        return self.model.name

    def to_json(self) -> dict[str, Any]:
        """Plain values: another search has others."""
        spec = self.model if isinstance(self.model, ModelSpec) else self.model.spec
        apart = ("task", "wording", "model", "is_paced")
        values = {name: value for name, value in vars(self).items() if name not in apart}
        # Elsewhere the number says it, so that the hashes of earlier searches stay the same.
        paced = {"is_paced": True} if self.is_paced and self.settings.eval_every == TrainSettings.eval_every else {}
        return {
            **values,
            **paced,
            "settings": dataclasses.asdict(self.settings),
            "task": self.task.to_json(),
            "wording": dataclasses.asdict(self.wording),
            "model": {**spec.to_json(), "model": self.model_name},
        }


def request_from(
    data: Any,
    model: Any,
    keywords: Mapping[str, Any],
    *,
    settings: TrainSettings | None,
    minutes: float | None,
    trials: int | None,
    method: Sequence[str] | str | None,
    templates: Sequence[str],
    parameters: Sequence[str],
    **values: Any,
) -> Request:
    """The request that the arguments of `tune` make.

    Raises:
        UnknownName: a keyword, method or task that does not exist.
        BadInput: numbers that cannot be, both minutes and trials, or a setting that the search itself chooses.
    """
    searched = next((name for name in keywords if name in _PROMPT), None)
    if searched is not None:
        raise BadInput(f"{searched} is one of the settings that tune searches; leave it out, or use `softprompt train`")
    refuse_unknown_keywords("tune", keywords, parameters)
    if minutes is not None and trials is not None:
        raise BadInput("give --minutes or --trials, not both")
    require_numbers({"minutes": minutes})
    require_numbers({"trials": trials, "seeds": values["seeds"]}, whole=True)
    chosen = settings_from(settings, keywords)
    if chosen.epochs is not None:
        raise BadInput("tune counts optimiser steps; give --steps in the place of --epochs")
    names = list(METHODS_TRIED) if method is None else listed("--method", method)
    require_different("--method", names)
    for name in names:
        if pick("method", name, METHODS).m == 0:
            raise BadInput(f"{name!r} trains no prompt; leave it out, and give --ceiling to compare with LoRA")
    return Request(
        task=task_from(data, keywords),
        wording=wording_from(data, keywords),
        model=model_from(model, keywords),
        settings=chosen,
        minutes=minutes,
        trials=trials,
        methods=names or list(METHODS_TRIED),
        templates=listed("--try-template", templates),
        is_paced="eval_every" in keywords or chosen.eval_every != TrainSettings.eval_every,
        **values,
    )


def refuse_another(folder: Path, request: Request, parts: Parts) -> None:
    """Write down what is searched for, or refuse a folder in which something else was.

    Raises:
        RunExists: with what differs.
        DamagedFile: what is written down there is not as it was.
    """
    values = json.loads(json_bytes({**request.to_json(), "rows": _digest(parts)}))
    path = folder / REQUEST
    if not path.is_file():
        if folder.exists() and any(entry.name != ".lock" for entry in folder.iterdir()):
            raise RunExists(f"{folder} is not empty and holds no search; choose another --output")
        write_file(path, field_bytes(values), what="the search")
        return
    before = stored_fields(path, EARLIER_NAMES, "choose another --output")
    differing = [name for name in values if before.get(name) != values[name]]
    if differing:
        raise RunExists(
            f"{folder} holds a search with other {', '.join(differing)}; give what it was started with, or choose "
            "another --output"
        )


def refuse_another_model(folder: Path, backbone: AbstractBackbone) -> None:
    """Write down which weights are searched with, or refuse others than those that a search was begun with.

    Raises:
        ModelMismatch: the model in its place is another.
        DamagedFile: what is written down is not as it was.
    """
    if not is_same_model(kept(folder / MODEL, lambda: model_digests(backbone)), backbone):
        raise ModelMismatch(
            f"the weights of {backbone.name!r} are not those that the search in {folder} was begun with; restore the "
            "model, or choose another --output"
        )


def _digest(parts: Parts) -> str:
    """SHA-256 of all rows by purpose."""
    digest = hashlib.sha256()
    for rows in (parts.report, *(rows for fold in parts.folds for rows in fold)):
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()
