"""`softprompt doctor`: what is promised, what this machine has, and whether files are as they were written."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import BadInput, SoftPromptError
from ..machine import findings
from ..run_layout import PLAN
from ._layout import width_of
from .options import Json
from .printing import print_json, table

PROMISES = (
    "on one machine a run that was killed and resumed leaves the same bytes as one that was not; so do two "
    "environments with these versions, one type of processor and the same number of threads",
    "a stored prompt, run or study of any earlier version loads (docs/formats.md)",
    "a changed byte of a file of ours is named when the file is read; nothing in a file is run as code (SECURITY.md)",
)


def doctor(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...", help="Folders of runs, searches, prompts, exports or stores, or banks, to check."
        ),
    ] = None,
    json_lines: Json = False,
) -> None:
    """Check this machine, and files of softprompt for damage; say what this version promises.

    Exit code 1: something is wrong.
    """
    rows = [vars(finding) for finding in findings()]
    damaged = [{"path": str(path), "damage": list(damage_of(path))} for path in paths or ()]
    if json_lines:
        print_json({"promises": PROMISES, "findings": rows, "files": damaged})
    else:
        _print(rows, damaged)
    if any(row["state"] == "wrong" for row in rows) or any(entry["damage"] for entry in damaged):
        raise typer.Exit(1)


def damage_of(path: Path) -> Iterator[str]:
    """One line for each file below a path that is not as it was written.

    Raises:
        BadInput: there is nothing of ours.
    """
    from ..export.compiled import SETTINGS, damaged_compiled
    from ..study import damaged_runs
    from ..training import damage
    from ..tuning import damaged_search, is_search

    if (path / PLAN).exists():
        yield from damage(path)
    elif is_search(path):
        yield from damaged_search(path)
    elif (path / "runs").is_dir():
        yield from damaged_runs(path)
    elif (path / SETTINGS).is_file():
        yield from damaged_compiled(path)
    elif path.exists():
        try:
            _read(path)
        except SoftPromptError as error:
            yield error.message
    else:
        raise BadInput(f"{str(path)!r} is no run, search, prompt, bank or store of runs; give the place of one")


def _read(path: Path) -> None:
    """Read what is no run and no search, whole.

    Raises:
        SoftPromptError: it is not as it was written.
    """
    from ..export.limit import SETTINGS as LIMIT
    from ..interop.peft import CONFIG
    from ..serving import read_bank
    from ..store import MANIFEST, holds_tuned, load_tuned, read_folder, read_prompt

    if path.is_file():
        list(read_bank(path))
    elif (path / MANIFEST).is_file() and any((path / name).is_file() for name in (CONFIG, LIMIT)):
        read_folder(path)
    else:
        (load_tuned if holds_tuned(path) else read_prompt)(path)


def _print(rows: Sequence[dict[str, str]], damaged: Sequence[dict[str, object]]) -> None:
    print("promised")
    for line in PROMISES:
        print(f"  {line}")
    print()
    columns = {"": "state", "what": "what", "here": "here", "needed": "needed"}
    print(table([{name: row[key] for name, key in columns.items()} for row in rows], width_of(sys.stdout)))
    for entry in damaged:
        lines = entry["damage"]
        assert isinstance(lines, list)
        print(f"\n{entry['path']}: {'every file is as it was written' if not lines else ''}")
        for line in lines:
            print(f"  {line}")
