"""Plain texts from the training rows of the known tasks, some of them held out."""

import zlib
from pathlib import Path

from ..data import load_rows
from ..errors import BadInput
from ..tasks import TASKS, Task


def training_texts(data_root: Path | str, most: int) -> dict[str, list[str]]:
    """Up to `most` distinct texts of each task whose rows lie below a data root, by the task's name.

    Only training rows are read: what a prompt is validated or tested on stays unseen. Which texts are taken, and in
    which order, follows from the texts alone.

    Raises:
        BadInput: no rows of any known task there, or rows that cannot be used.
    """
    root = Path(data_root)
    if not root.is_dir():
        raise BadInput(f"no folder {str(root)!r}; --data-root names the folder that holds glue/sst2 and so on")
    here = [task for task in TASKS.values() if task.source.folder and (root / task.source.folder).is_dir()]
    if not here:
        raise BadInput(f"{str(root)!r} holds rows of no known task (see softprompt tasks list)")
    return {task.name: sorted(_texts(task, root), key=_mark)[:most] for task in here}


def is_held_out(text: str, one_of: int) -> bool:
    """Whether a text is held out. This depends on the text alone, so no text is both held out and learned from."""
    return _mark(text) % one_of == 0


def _texts(task: Task, root: Path) -> set[str]:
    rows = [task.prepared(row) for row in load_rows(task, root)["train"].to_list()]
    return {text for row in rows for name in task.columns if (text := str(row[name]).strip())}


def _mark(text: str) -> int:
    return zlib.crc32(text.encode())
