"""What all chaos starts from: small runs that end as they should, the same run stopped on the way, and comparisons."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softprompt.documents import parsed
from softprompt.errors import SoftPromptError

# Seconds and what counts them differ between runs that are the same.
TIMES = ("timing.jsonl", ".lock")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that has to be the same in two runs, by its path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in TIMES or (path.name == "manifest.json" and "checkpoints" in path.parts):
            continue
        content = path.read_bytes()
        if path.name == "state.json":
            values = json.loads(content)
            values.pop("timing_bytes")
            content = json.dumps(values, sort_keys=True).encode()
        if path.parent.name == "runs" or path.name in ("told.json", "report.json"):
            # A stored run, a wave of a search and its report say how long they took, under their checksum.
            content = json.dumps(without_seconds(parsed(content, path)), sort_keys=True).encode()
        found[str(path.relative_to(folder))] = content
    return found


def without_seconds(values: Any) -> Any:
    """Values of a document without times and the checksum over them."""
    if isinstance(values, list):
        return [without_seconds(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {name: without_seconds(value) for name, value in values.items() if name not in ("seconds", "sha256")}


def different(one: Path, other: Path) -> list[str]:
    """The paths at which two folders differ."""
    a, b = contents(one), contents(other)
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def forked(work: Callable[[], object], log: Path) -> int:
    """Start work in a process of its own, with everything imported; its id. It ends with 0, 2 (a typed error) or 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        answer = work()
        code = answer if isinstance(answer, int) else 0
    except SoftPromptError as error:
        os.write(2, error.message.encode())
        code = error.exit_code
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a process; None where it still works after these seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def killed(pid: int) -> None:
    """SIGKILL a process and wait for its end."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def copies(source: Path, place: Path) -> Iterator[Path]:
    """A fresh copy of a folder each time."""
    while True:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, place)
        yield place
