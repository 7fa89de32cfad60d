"""Baselines in a file, so that they are computed once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backbones import AbstractBackbone
from ..documents import SEALED, in_file
from ..errors import DamagedFile
from ..settings import TrainSettings
from ..store import json_bytes, read_sealed, sealed_bytes, write_file
from ..tasks import Task
from .frozen import Baseline
from .scoring_rule import scoring_for

BASELINES = "baselines"
REPAIR = "delete it, and give the same command again"


def kept_baselines(path: Path, about: Mapping[str, Any], compute: Callable[[], Sequence[Baseline]]) -> list[Baseline]:
    """The baselines that a file holds, or new ones, which are written to it.

    Args:
        path: of the file.
        about: plain values that say what the baselines are of, none of them called "format". A file about something
            else is replaced.
        compute: called where no file has them.

    Raises:
        DamagedFile: the file cannot be read.
    """
    if path.is_file():
        kept_about, lines = read_baselines(path)
        # As JSON has them: a tuple comes back as a list.
        if json_bytes(kept_about) == json_bytes(about):
            return lines
    lines = list(compute())
    values = {**about, BASELINES: [line.to_json() for line in lines]}
    write_file(path, sealed_bytes({"format": SEALED, **values}), what="what the frozen model does", replace=True)
    return lines


def read_baselines(path: Path) -> tuple[dict[str, Any], list[Baseline]]:
    """What the baselines in a file are of, and these.

    Raises:
        BadInput: the file cannot be read.
        DamagedFile: it is not as it was written.
    """
    try:
        values = read_sealed(path, earlier_names=[BASELINES], repair=REPAIR)
        values.pop("format", None)
        with in_file(path):
            lines = [Baseline.from_json(line) for line in values.pop(BASELINES)]
    except (TypeError, KeyError, AttributeError) as error:
        raise DamagedFile(f"{path} is not as it was written; {REPAIR}") from error
    return values, lines


def way_to_answer(settings: TrainSettings, task: Task, backbone: AbstractBackbone) -> dict[str, Any]:
    """How prompts of a run answer, as far as it differs from what files of earlier versions mean."""
    scoring = scoring_for(settings, task, backbone).to_json()
    way: dict[str, Any] = {"scoring": dict(scoring)} if scoring else {}
    return {**way, "decode": settings.decode} if settings.decode == "generate" else way
