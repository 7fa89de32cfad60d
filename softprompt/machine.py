"""What this machine and its packages are, beside what softprompt declares and was tested with."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, final

State = Literal["ok", "note", "wrong"]
# Next to the package in an installation; in a checkout one folder above.
_TESTED = (Path(__file__).parent / "constraints.txt", Path(__file__).parent.parent / "constraints.txt")
TESTED_PYTHONS = ("3.11",)


def user_cache() -> Path | None:
    """The folder for what may be deleted: $XDG_CACHE_HOME, else ~/.cache; None for a user without a home folder."""
    configured, home = os.environ.get("XDG_CACHE_HOME"), os.path.expanduser("~")
    return Path(configured) if configured else Path(home, ".cache") if os.path.isabs(home) else None


def named_cache() -> Path | None:
    """$SOFTPROMPT_CACHE as a whole path, `~` in it as the user's home folder; None where it is not set."""
    given = os.environ.get("SOFTPROMPT_CACHE")
    # A Dockerfile has no shell that would put the home folder in its place.
    return Path(os.path.expanduser(given)).absolute() if given else None


def rows_cache() -> Path | None:
    """The folder of token ids: $SOFTPROMPT_CACHE, else `softprompt/tokens` in the user's cache, if there is any."""
    cache = user_cache()
    return named_cache() or (cache and cache / "softprompt" / "tokens")


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: its name.
        here: what this machine has.
        needed: what is declared or was tested.
        state: "ok"; "note" where results may differ from the tested ones or an optional part is absent; "wrong" where
            something does not work.
    """

    what: str
    here: str
    needed: str
    state: State


def findings() -> Iterator[Finding]:
    """Everything that `softprompt doctor` looks at, in its order."""
    yield _python()
    yield from _packages()
    yield _threads()
    yield _processor()
    yield _device()
    yield from _folders()


def tested_versions() -> dict[str, str]:
    """The versions of all packages with which the tests pass; empty where the list is not installed."""
    path = next((path for path in _TESTED if path.is_file()), None)
    lines = path.read_text().splitlines() if path else []
    pairs = [line.split("==") for line in lines if "==" in line]
    return {_plain_name(name): number for name, number in pairs}


def _python() -> Finding:
    here = platform.python_version()
    state: State = "wrong" if sys.version_info < (3, 11) else "ok" if here.startswith(TESTED_PYTHONS) else "note"
    return Finding("python", here, f"3.11 or newer; tested: {', '.join(TESTED_PYTHONS)}", state)


def _packages() -> Iterator[Finding]:
    """The declared dependencies, those of extras after the others."""
    from packaging.requirements import Requirement

    tested = tested_versions()
    declared = [Requirement(line) for line in requires("softprompt") or []]
    for need in sorted(declared, key=lambda need: need.marker is not None):
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(need.marker or ""))
        if extra is None or extra[1] != "dev":
            yield _package(need.name, str(need.specifier), need.specifier.contains, tested, extra[1] if extra else "")


def _package(name: str, range_: str, fits: object, tested: dict[str, str], extra: str) -> Finding:
    known = tested.get(_plain_name(name), "")
    needed = f"{range_}; tested: {known}" if known else range_
    what = f"{name} [{extra}]" if extra else name
    try:
        here = version(name)
    except PackageNotFoundError:
        return Finding(what, "not installed", needed, "note" if extra else "wrong")
    assert callable(fits)
    if not fits(here, prereleases=True):
        return Finding(what, here, needed, "wrong")
    return Finding(what, here, needed, "ok" if here.partition("+")[0] == known else "note")


def _threads() -> Finding:
    import torch

    set_ = os.environ.get("OMP_NUM_THREADS")
    here = f"{torch.get_num_threads()} of {os.cpu_count()} cores, OMP_NUM_THREADS {set_ or 'not set'}"
    return Finding("threads", here, "the same number, for the same bits", "ok" if set_ else "note")


def _processor() -> Finding:
    name, flags = _cpuinfo()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    here = f"{name or platform.machine()} ({', '.join(wide) or 'no AVX2'})"
    return Finding("processor", here, "the same type, for the same bits; avx512_vnni for --quantize int8", "ok")


def _cpuinfo() -> tuple[str, set[str]]:
    """The name of the processor and what it can do, as Linux tells; elsewhere nothing."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor(), set()
    name, flags = re.search(r"model name\s*: (.*)", text), re.search(r"flags\s*: (.*)", text)
    return (name[1].strip() if name else ""), set(flags[1].split() if flags else ())


def _device() -> Finding:
    import torch

    here = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Finding("device", here, "cpu, or a CUDA GPU", "ok")


def _folders() -> Iterator[Finding]:
    """The folders that are written without being asked for."""
    cache = user_cache()
    places = {
        "cache of rows": rows_cache(),
        "cache of the hub": os.environ.get("HF_HOME") or (cache and cache / "huggingface"),
        "this folder": Path.cwd(),
    }
    for what, given in places.items():
        if given is None:
            yield Finding(what, "none: this user has no home folder", "can be written", "note")
            continue
        place = Path(given)
        existing = next(path for path in (place, *place.parents) if path.exists())
        can = os.access(existing, os.W_OK | os.X_OK)
        here = f"{place} ({'can' if can else 'cannot'} be written)"
        yield Finding(what, here, "can be written", "ok" if can else "note")


def _plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
