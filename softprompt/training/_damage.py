"""Whether every file of a run is as it was written: each is vouched for by a checksum in it or in another file.

- run.json, frozen.json, PROMPT/result.json and PROMPT/restarts/chosen.json hold their own checksum.
- PROMPT/metrics.jsonl and PROMPT/restarts/0.jsonl ... have one a line, and result.json lists the whole files.
- timing.jsonl has one a line, and the last checkpoint knows how long it is.
- Of checkpoints/step-*/, PROMPT/prompt/ and PROMPT/weights/ the manifest lists the files.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..documents import difference, entry, is_sealed, read_json, read_sealed
from ..errors import SoftPromptError
from ..store import MANIFEST, read_folder
from ._plan import PLAN, read_plan
from ._records import damaged_lines, places, too_short

RESULT = "result.json"
log = logging.getLogger("softprompt")


def files_of(member: Path) -> dict[str, dict[str, Any]]:
    """What a result lists of the other files in its folder that have no manifest, by their paths."""
    paths = [member / "metrics.jsonl", *(member / "restarts").glob("*.json*")]
    return {str(path.relative_to(member)): entry(path.read_bytes()) for path in sorted(paths) if path.is_file()}


def damage(run: Path) -> Iterator[str]:
    """One line for each file of a run that is not as it was written."""
    yield from _said(lambda: read_plan(run))
    for path in sorted([run / "frozen.json", *run.glob("*/restarts/chosen.json")]):
        if path.is_file():
            yield from _said(lambda path=path: read_sealed(path))
    for member in sorted(path.parent for path in run.glob(f"*/{RESULT}")):
        yield from _damaged_files(member)
    records = [run / "timing.jsonl", *run.glob("*/metrics.jsonl"), *run.glob("*/restarts/*.jsonl")]
    for path in sorted(records):
        if lines := damaged_lines(path):
            yield f"{path} is damaged in {places(lines)}, which is left out of curves and times"
    for path in sorted([*run.glob(f"*/*/{MANIFEST}"), *run.glob("*/*/prompt.json"), *run.glob("*/*/weights.json")]):
        if path.name == MANIFEST or not (path.parent / MANIFEST).exists():
            yield from _said(lambda path=path: read_folder(path.parent))
    yield from _cut_times(run)


def tell_unsealed(run: Path) -> None:
    """Say that nothing vouches for the plan of a run of an earlier version."""
    if not is_sealed(run / PLAN):
        log.info("%s is of an earlier version and has no checksum: a change of it would not be seen", run / PLAN)


def _damaged_files(member: Path) -> Iterator[str]:
    """What the result of a prompt vouches for, and itself."""
    try:
        listed = read_sealed(member / RESULT, sealed_from=2).get("files", {})
    except SoftPromptError as error:
        yield error.message
        return
    for name, known in listed.items():
        try:
            found = difference(member / name, known)
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
        if found:
            yield f"{str(member / name)!r} {found}; restore it from a copy"


def _cut_times(run: Path) -> Iterator[str]:
    """Whether times are gone that the last checkpoint knows of."""
    steps = sorted((run / "checkpoints").glob("step-*/state.json"))
    path = run / "timing.jsonl"
    try:
        needed = read_json(steps[-1], is_limited=False).get("timing_bytes", 0) if steps else 0
    except SoftPromptError:
        return
    size = path.stat().st_size if path.exists() else 0
    if size < needed:
        yield too_short(path, size, needed)


def _said(read: Any) -> Iterator[str]:
    """What a reader says of damage."""
    try:
        read()
    except SoftPromptError as error:
        yield error.message
