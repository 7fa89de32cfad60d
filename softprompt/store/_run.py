"""What a prompt in a run, and the run itself, name outside of it: where that is now."""

import dataclasses
import os
from pathlib import Path

from ..documents import read_sealed
from ..errors import SoftPromptError
from ..prompts.prompt import SoftPrompt
from ..run_layout import PLAN, is_run
from ..tasks import Source, read_from


def in_run(prompt: SoftPrompt, run: Path) -> SoftPrompt:
    """A stored prompt with the files of its task and its model where the run that it is in finds them.

    A run is the user's own, as a project folder is: what it names is read without a question. In no run, or in one that
    did not plan the prompt's rows, the prompt stays what it is: a file called run.json vouches for nothing.
    """
    if not _is_planned(prompt, run):
        return prompt
    provenance = prompt.provenance
    backbone = dataclasses.replace(provenance.backbone, name=found_model(provenance.backbone.name, run))
    task, source = provenance.task, (provenance.task or {}).get("source")
    if source and source.get("files"):
        files = read_from(Source.from_json(source), run).files
        task = {**(task or {}), "source": {**source, "files": files}}
    return dataclasses.replace(
        prompt, provenance=dataclasses.replace(provenance, backbone=backbone, task=task, is_foreign=False)
    )


def _is_planned(prompt: SoftPrompt, run: Path) -> bool:
    """Whether there is a run whose plan is whole and names the rows that the prompt names, if it names any."""
    if not is_run(run):
        return False
    try:
        plan = read_sealed(run / PLAN, earlier_names=["format"], sealed_from=3)
        planned, task = Source.from_json(plan["task"]["source"]), prompt.provenance.task
        named = planned if task is None else Source.from_json(task["source"])
        # A run that was moved and resumed stores the new places of its files.
        return named == planned or named == read_from(planned, run)
    except (SoftPromptError, LookupError, TypeError, AttributeError):
        return False


def found_model(name: str, run: Path) -> str:
    """The name of a run's model; of a folder that an early run stored by its relative path, the whole path.

    Such a run began in one of the folders above its own. A built-in name is never a folder.
    """
    if os.path.isabs(name) or os.path.isdir(name) or (name.startswith("lab-") and "/" not in name):
        return name
    folders = (folder / name for folder in run.absolute().parents)
    return next((os.path.normpath(f) for f in folders if (f / "config.json").is_file()), name)
