"""The long form of the chaos tests: hundreds of kills, thousands of damaged and hostile files, every failing call.

    make chaos          hours on one core; writes benchmarks/results/chaos.json
    python tests/chaos/long.py --only damage hostile --files 20000
    python tests/chaos/long.py --only kills --named tune prediction

Each piece is kept in runs/chaos/pieces as it ends, so that an interrupted command goes on behind the last one; remove
runs/chaos to begin anew. The exit code is 1 where anything was silent, different, written twice, raw, slow or a
traceback.
"""

import argparse
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import damage
import disk
import hostile
import made
import torch
from cases import hostile_cases
from scenarios import one_shot, scenarios, study, training
from softprompt.interop.peft import export_peft
from softprompt.prompts.prompt import SoftPrompt

import kills

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos.json"
PARTS = ("kills", "damage", "disk", "hostile")
# Hostile files of one piece.
FILES = 5000
# Of these nothing is killed or starved more than once: they differ in what they train, not in what they write.
ALIKE = (
    "a fleet of two methods",
    "a regulariser and dropout",
    "a study by four processes",
    "a study whose workers stall",
)

Piece = tuple[str, str, Callable[[Path], dict[str, Any]]]


def pieces(run: Path, place: Path, asked: argparse.Namespace) -> Iterator[Piece]:
    """The part, the name and the work of each piece; the work takes an empty folder.

    Args:
        run: a finished run.
        place: for files that the commands read.
        asked: how much of each part.
    """
    chosen = scenarios(place, run)
    for seed, (name, scenario) in enumerate(chosen.items()):
        yield "kills", name, lambda folder, s=scenario, n=seed: kills.campaign(s, folder, asked.kills, n)
    starved = {name: scenario for name, scenario in chosen.items() if name not in ALIKE} | one_shot(run)
    for name, scenario in starved.items():
        yield "disk", name, lambda folder, s=scenario: disk.campaign(s, folder, asked.calls)
    for name in ("run", "begun", "store", "search", "others"):
        yield "damage", name, lambda folder, name=name: damaging(name, run, folder, asked.changes)
    for seed in range(asked.files // FILES):
        yield (
            "hostile",
            f"files {seed * FILES} to {(seed + 1) * FILES}",
            lambda folder, n=seed: stranger(run, folder, n),
        )


def damaging(name: str, run: Path, place: Path, count: int) -> dict[str, Any]:
    """Damage a finished run, the same before its results, a store with kept runs, a search, and all other folders."""
    places: dict[Path, damage.Reader] = {}
    match name:
        case "run":
            places[copied(run, place / "run")] = damage.read_run
        case "begun":
            begun = copied(run, place / "begun")
            for path in [*begun.glob("*/result.json"), *begun.glob("*/prompt")]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            places[begun] = damage.read_run
        case "store":
            study(place, "--keep").start(place / "store")
            places[place / "store"] = damage.read_any
        case "search":
            scenarios(place, run)["tune"].start(place / "search")
            places[place / "search"] = damage.read_any
        case _:
            prompt = SoftPrompt.load(next(run.glob("ept-star*/prompt")))
            places = {**made.places(prompt, place), prompt.save(place / "prompt"): damage.read_any}
            places[export_peft(prompt, place / "peft")] = damage.read_files
    counted, bad = damage.campaign(places, count, seed=0, stays=bytes.startswith)
    return {"changes": counted.total(), **counted, "bad": sorted(bad)[:20]}


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder."""
    shutil.copytree(source, target)
    return target


def stranger(run: Path, place: Path, seed: int) -> dict[str, Any]:
    """Hostile files of all kinds."""
    logging.getLogger("softprompt").setLevel(logging.CRITICAL)
    counted, bad = hostile.campaign(hostile_cases(run, place), FILES, seed)
    return {"files": counted.total(), **counted, "bad": sorted(set(bad))[:20]}


def gathered(place: Path) -> dict[str, Any]:
    """What all pieces found, by part; hostile files are added up."""
    parts: dict[str, Any] = {}
    for path in sorted((place / "pieces").glob("*.json"), key=lambda path: int(path.name.partition("-")[0])):
        piece = json.loads(path.read_text())
        parts.setdefault(piece["part"], {})[piece["name"]] = piece["found"]
    if files := parts.pop("hostile", None):
        counts: Counter[str] = Counter()
        for found in files.values():
            counts.update({name: count for name, count in found.items() if isinstance(count, int)})
        parts["hostile"] = {**counts, "bad": [line for found in files.values() for line in found["bad"]]}
    return parts


def is_clean(part: object) -> bool:
    """Whether nothing was wrong in a part."""
    if not isinstance(part, dict):
        return True
    wrong = ("bad", "different", "again") + (("failed",) if "kills" in part else ())
    return not any(part.get(name) for name in wrong) and all(map(is_clean, part.values()))


def main() -> int:
    """Do the pieces that are not done, and write what came of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--named", nargs="*", default=[""], help="only pieces with one of these words in their name")
    parser.add_argument("--kills", type=int, default=24, help="processes killed in each scenario")
    parser.add_argument("--changes", type=int, default=500, help="bits and cuts in each kind of folder")
    parser.add_argument("--calls", type=int, default=40, help="most calls that fail in each command")
    parser.add_argument("--files", type=int, default=100_000, help="hostile files")
    parser.add_argument("--place", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    place = asked.place.absolute()
    (place / "pieces").mkdir(parents=True, exist_ok=True)
    run = place / "run"
    # Also where it is there: what this process has imported and loaded, the processes that are killed need not.
    methods = ("--method", "ept-star", "--method", "prompt-tuning")
    training("--steps", "4", *methods, "--restarts", "2", "--restart-steps", "2").start(fresh(place / "warm"))
    if not run.exists():
        (place / "warm").rename(run)
    for number, (part, name, work) in enumerate(pieces(run, place, asked)):
        path = place / "pieces" / f"{number}-{part}.json"
        is_wanted = part in asked.only and any(word in name for word in asked.named)
        if is_wanted and not path.exists():
            begun = time.monotonic()
            found = work(fresh(place / "work"))
            print(f"{part}, {name}: {time.monotonic() - begun:.0f} s: {found}", flush=True)
            path.write_text(json.dumps({"part": part, "name": name, "found": found}))
    about = {
        "command": "python tests/chaos/long.py",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("softprompt", "torch")}},
    }
    found = gathered(place)
    asked.output.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    return 0 if is_clean(found) else 1


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
