"""A run of the package in a folder: begun if it is not there, gone on with if it was stopped."""

import shutil
from pathlib import Path
from typing import Any

from softprompt.training import Run, resume, train


def run_in(folder: Path, task: Any, model: Any, **settings: Any) -> Run:
    """The run in a folder, to its end. A task and a model that are loaded are taken as they are.

    Args:
        folder: of the run; anything there that is no run was left by a start that failed.
        task: name or task.
        model: name, folder or loaded backbone.
        settings: what else `softprompt.train` takes.
    """
    if (folder / "run.json").is_file():
        return resume(folder, model=None if isinstance(model, str) else model)
    shutil.rmtree(folder, ignore_errors=True)
    return train(task, model, output=folder, **settings)
