"""Whether every file of a run is as it was written: each is vouched for by a checksum in it or in another file.

- run.json, frozen.json, comparison.json, PROMPT/result.json and PROMPT/restarts/chosen.json hold their own checksum.
- PROMPT/metrics.jsonl and PROMPT/restarts/0.jsonl ... have one a line; result.json and chosen.json list whole files.
- timing.jsonl has one a line, and the last checkpoint knows how long it is.
- Of checkpoints/step-*/, checkpoints/mpt-*/step-*/, PROMPT/prompt/, PROMPT/weights/ and PROMPT/peft/ the manifest lists
  the files.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..documents import RESTORE, changed_files, entry, faults_in, is_sealed, line_places, read_json, read_sealed
from ..errors import SoftPromptError, quoted
from ..run_layout import (
    CHECKPOINTS,
    CHOSEN,
    COMPARISON,
    FROZEN,
    METRICS,
    PEFT,
    PLAN,
    PROMPT,
    RESTARTS,
    RESULT,
    TIMING,
    WEIGHTS,
)  # fmt: skip
from ..store import read_folder, settled
from ._plan import read_plan
from ._records import damaged_lines, too_short

# What documents without a checksum, those of earlier versions, have.
EARLIER_NAMES = {
    FROZEN: ["places"],
    COMPARISON: ["prompts"],
    CHOSEN: ["losses"],
    RESULT: ["metrics"],
}
log = logging.getLogger("softprompt")


def files_of(member: Path) -> dict[str, dict[str, Any]]:
    """What a result lists of the other files in its folder that have no manifest, by their paths."""
    paths = [member / METRICS, *(member / RESTARTS).glob("*.json*")]
    return {str(path.relative_to(member)): entry(path.read_bytes()) for path in sorted(paths) if path.is_file()}


def damage(run: Path) -> Iterator[str]:
    """One line for each file of a run that is not as it was written."""
    yield from faults_in(lambda: read_plan(run))
    yield from damaged_documents(run)
    for path in sorted([run / TIMING, *run.glob(f"*/{METRICS}"), *run.glob(f"*/{RESTARTS}/*.jsonl")]):
        if lines := damaged_lines(path):
            yield f"{path} is damaged in {line_places(lines)}, which is left out of curves and times"
    for folder in sorted((run / CHECKPOINTS).rglob("step-*")):
        yield from faults_in(lambda folder=folder: read_folder(folder))
    yield from _cut_times(run)


def damaged_documents(run: Path) -> Iterator[str]:
    """The same of what a run that goes on does not read: choices, baselines, results, and what is stored."""
    for path in (run / FROZEN, run / COMPARISON):
        if path.is_file():
            yield from faults_in(lambda path=path: _document(path))
    for path in sorted([*run.glob(f"*/{RESTARTS}/{CHOSEN}"), *run.glob(f"*/{RESULT}")]):
        yield from changed_files(lambda path=path: _document(path), path, RESTORE)
    for folder in sorted([*run.glob(f"*/{PROMPT}"), *run.glob(f"*/{WEIGHTS}"), *run.glob(f"*/{PEFT}")]):
        yield from faults_in(lambda folder=folder: read_folder(folder))
    yield from _without_prompt(run)


def tell_unsealed(run: Path) -> None:
    """Warn that the plan of a run of an earlier version has no checksum."""
    if not is_sealed(run / PLAN):
        log.info("%s is of an earlier version and has no checksum: a change of it would not be seen", run / PLAN)


def _without_prompt(run: Path) -> Iterator[str]:
    """One line for each scored prompt that is no longer stored."""
    for path in sorted(run.glob(f"*/{RESULT}")):
        member = path.parent
        is_stored = any(settled(member / name).is_dir() for name in (PROMPT, WEIGHTS))
        try:
            is_scored = bool(_document(path)["metrics"])
        except (SoftPromptError, KeyError):
            # What is wrong with the result itself is told of elsewhere.
            continue
        if is_scored and not is_stored:
            repair = f"restore it from a copy, or delete {path} and --resume {quoted(run)}"
            yield f"{member} holds a result and no prompt; {repair}"


def _document(path: Path) -> dict[str, Any]:
    """The values of a document of a run."""
    return read_sealed(path, earlier_names=EARLIER_NAMES[path.name])


def _cut_times(run: Path) -> Iterator[str]:
    """One line if the record of times is shorter than the last checkpoint says."""
    steps = sorted((run / CHECKPOINTS).glob("step-*/state.json"))
    path = run / TIMING
    try:
        needed = read_json(steps[-1], max_bytes=None).get("timing_bytes", 0) if steps else 0
    except SoftPromptError:
        return
    size = path.stat().st_size if path.exists() else 0
    if size < needed:
        yield too_short(path, size, needed)
