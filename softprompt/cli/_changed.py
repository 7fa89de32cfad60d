"""Files of rows that were edited after a run, told of where a command answers them again."""

import logging
from collections.abc import Iterable
from pathlib import Path

from ..errors import SoftPromptError
from ..run_layout import run_of

log = logging.getLogger("softprompt")


def tell_changed(paths: Iterable[str | Path], split: str) -> None:
    """Warn of files of a split that hold something else than when the runs of some prompts began.

    Args:
        paths: of runs, or of prompts in them; others are not looked at.
        split: "train", "validation" or "test".
    """
    from ..training import changed_files, read_plan

    for run in dict.fromkeys(run for path in paths if (run := run_of(Path(path))) is not None):
        try:
            changed = changed_files(read_plan(run), split)
        except SoftPromptError:
            # What is read needs no plan, or says itself what is wrong with it.
            continue
        for path in changed:
            log.warning("%s had other contents when %s was trained, so its scores are of other rows", path, run)
