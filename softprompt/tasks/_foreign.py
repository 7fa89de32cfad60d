"""Files that a prompt from elsewhere names: read only where a user allows it, as their rows can be quoted."""

import dataclasses
import os
import re
from pathlib import PurePath

from ..errors import BadInput
from ._base import Task


def named_files(task: Task) -> tuple[str, ...]:
    """The files that a prompt from elsewhere would have read; none where its task is the user's own, or has no files.

    A folder or a split that leads out of the data root counts as one, and so does a set on the hub whose name is a
    folder here, which would be read in its place.
    """
    source = task.source
    if not source.is_foreign:
        return ()
    below = [path for path in (source.folder, source.train, source.validation, source.test) if _leads_out(path)]
    hub = [source.hub] if source.hub and not _is_only_on_the_hub(source.hub) else []
    return (*source.every_path, *below, *hub)


def _leads_out(path: str) -> bool:
    return path.startswith("/") or ".." in PurePath(path).parts


def _is_only_on_the_hub(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not _leads_out(name) and not os.path.lexists(name)


def foreign(task: Task) -> Task:
    """The task as that of a prompt from elsewhere."""
    return dataclasses.replace(task, source=dataclasses.replace(task.source, is_foreign=True))


def allowed(task: Task) -> Task:
    """The task with leave to read the files that it names."""
    return dataclasses.replace(task, source=dataclasses.replace(task.source, is_foreign=False))


def refuse_foreign(task: Task) -> None:
    """Refuse to read files that a prompt from elsewhere names.

    Raises:
        BadInput: with the first of them and what to do.
    """
    files = named_files(task)
    if not files:
        return
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    raise BadInput(
        f"this prompt is from elsewhere, and its task names files on this computer: {next(iter(files))!r}{more}; if "
        "they are the rows that you mean, softprompt evaluate takes --allow-files; or give rows of your own with --data"
    )
