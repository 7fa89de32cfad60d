"""The long form of the chaos tests: hundreds of kills, thousands of damaged and hostile files, every failing call.

    make chaos          about half an hour on one core; writes benchmarks/results/chaos.json
    python tests/chaos/long.py --minutes 5 --only damage hostile

Each part has a share of the time and stops when that is over, so the counts say what was done. The exit code is 1
where anything was silent, different, raw, slow or a traceback.
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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import damage
import disk
import hostile
import torch
from cases import hostile_cases
from softprompt.cli import main as softprompt
from softprompt.interop.peft import export_peft
from softprompt.prompts.prompt import SoftPrompt

import kills

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "chaos.json"
# The share of the time that each part has.
SHARES = {"kills": 0.45, "damage": 0.2, "disk": 0.2, "hostile": 0.15}
# fmt: off
SMALL = (
    "--task", "lab/weekend", "--model", "lab-t5-small", "--shots", "16", "--batch-size", "4", "--quiet",
    "--task-option", "train=64", "--task-option", "test=8", "--task-option", "validation=8",
    "--eval-every", "2", "--eval-rows", "8",
)
# fmt: on
STUDY = """[defaults]
model = "lab-t5-small"
steps = 8
eval_every = 4
eval_rows = 8
shots = 16
batch_size = 4
[tasks.w]
lab = "lab/weekend"
train = 64
validation = 16
test = 16
[[runs]]
task = "w"
method = ["prompt-tuning", "ept-star"]
seed = [0, 1]
"""


def command(*words: str) -> Callable[[Path], object]:
    """A command on a folder, whose place in the words is FOLDER."""
    return lambda folder: softprompt([str(folder) if word == "FOLDER" else word for word in words])


def training(*words: str) -> kills.Scenario:
    """`softprompt train` with these words, and its --resume."""
    start = command("train", *SMALL, "--output", "FOLDER", *words)
    return kills.Scenario(start, command("train", "--resume", "FOLDER", "--quiet"))


def scenarios(place: Path) -> dict[str, kills.Scenario]:
    """What is killed: training in several forms, a study by two processes, and a measurement of stability."""
    (place / "study.toml").write_text(STUDY)
    study = command("study", "run", str(place / "study.toml"), "--store", "FOLDER", "--fleet-size", "2", "--quiet")
    stability = command(
        "stability", "--task", "lab/weekend", "--model", "lab-t5-small", "--setting", "none", "--seeds", "2", "--steps",
        "4", "--shots", "16", "--store", "FOLDER", "--json",
    )  # fmt: skip
    return {
        "a fleet with restarts": training("--steps", "8", "--restarts", "2", "--restart-steps", "3", "--seed", "0"),
        "a fleet of two methods": training("--steps", "12", "--method", "residual", "--method", "ept-star"),
        "a regulariser and dropout": training("--steps", "9", "--regularizer", "ptp-rn", "--backbone-dropout"),
        "trained weights": training("--steps", "6", "--method", "lora", "--lr", "0.01"),
        "a study by two processes": kills.Scenario(study, study, processes=2),
        "stability": kills.Scenario(stability, stability),
    }


def killing(place: Path, seconds: float) -> dict[str, object]:
    """Kill each scenario until its share of the time is over."""
    found, chosen = {}, scenarios(place)
    for name, scenario in chosen.items():
        end, parts, seed = time.monotonic() + seconds / len(chosen), [], 0
        while time.monotonic() < end:
            parts.append(kills.campaign(scenario, place / f"kills-{len(found)}", 6, seed))
            shutil.rmtree(place / f"kills-{len(found)}", ignore_errors=True)
            seed += 1
        found[name] = {
            "kills": sum(part["kills"] for part in parts),
            "runs compared": sum(part.get("runs", 0) for part in parts),
            "different": sorted({name for part in parts for name in part["different"]}),
            "failed": [text for part in parts for text in part["failed"]][:5],
        }
        print(name, found[name], flush=True)
    return found


def many(
    campaign: Callable[[int, int], tuple[Counter[str], list[str]]], seconds: float, each: int
) -> dict[str, object]:
    """Campaigns of `each` changes until the time is over."""
    end, found, bad, seed = time.monotonic() + seconds, Counter[str](), [], 0
    while time.monotonic() < end:
        counted, wrong = campaign(each, seed)
        found, bad, seed = found + counted, [*bad, *wrong], seed + 1
    result = {"tried": sum(found.values()), **found, "bad": sorted(set(bad))[:40]}
    print(result, flush=True)
    return result


def damaging(place: Path, run: Path, seconds: float) -> dict[str, object]:
    """Damage a finished run, the same before its results, a prompt, an export and a store."""
    begun = place / "begun"
    shutil.copytree(run, begun)
    for path in [*begun.glob("*/result.json"), *begun.glob("*/prompt")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    scenarios(place)["a study by two processes"].start(place / "store")
    prompt = SoftPrompt.load(next(run.glob("ept-star*/prompt")))
    places = {
        "run": run,
        "run-begun": begun,
        "store": place / "store",
        "folder-prompt": prompt.save(place / "prompt"),
        "folder-peft": export_peft(prompt, place / "peft"),
    }
    return many(lambda count, seed: damage.campaign(places, count, seed), seconds, 200)


def failing(place: Path, seconds: float) -> dict[str, object]:
    """Let every call fail in turn, each time with another error, until the time is over."""
    scenario = training("--steps", "6", "--restarts", "2", "--restart-steps", "2")
    scenario.start(place / "whole")
    calls = disk.count_calls(scenario.start, place / "counted", place / "log")
    end, wrong, tried = time.monotonic() + seconds, [], 0
    # Neighbouring calls differ most in kind: a step of seven visits all of them, spread over the run.
    order = [number for first in range(7) for number in range(first + 1, calls + 1, 7)]
    for number, at in enumerate(order):
        if time.monotonic() > end:
            break
        error, for_good = disk.FAILURES[number % len(disk.FAILURES)]
        folder = place / "failing"
        shutil.rmtree(folder, ignore_errors=True)
        said = disk.attempt(
            scenario.start, scenario.go_on, place / "whole", place, disk.Disk(folder, at, error, for_good)
        )
        tried += 1
        if said:
            wrong.append(f"call {at}, {os.strerror(error)}: {said}")
    found = {"calls of a run": calls, "calls that failed": tried, "bad": wrong}
    print(found, flush=True)
    return found


def is_clean(part: object) -> bool:
    """Whether nothing was wrong in a part."""
    if not isinstance(part, dict):
        return True
    return not any(part.get(name) for name in ("bad", "different", "failed")) and all(map(is_clean, part.values()))


def main() -> int:
    """Run the parts and write what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--place", type=Path, default=Path("runs/chaos"))
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place = arguments.place.absolute()
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    total = 60 * arguments.minutes / sum(SHARES[name] for name in arguments.only)
    run = place / "run"
    methods = ("--method", "ept-star", "--method", "prompt-tuning")
    training("--steps", "4", *methods, "--restarts", "2", "--restart-steps", "2").start(run)

    def stranger(count: int, seed: int) -> tuple[Counter[str], list[str]]:
        logging.getLogger("softprompt").setLevel(logging.CRITICAL)
        return hostile.campaign(hostile_cases(run, fresh(place / "hostile")), count, seed)

    parts: dict[str, Callable[[float], object]] = {
        "kills": lambda seconds: killing(place, seconds),
        "damage": lambda seconds: damaging(place, run, seconds),
        "disk": lambda seconds: failing(place, seconds),
        "hostile": lambda seconds: many(stranger, seconds, 2000),
    }
    found = {name: parts[name](SHARES[name] * total) for name in SHARES if name in arguments.only}
    about = {
        "command": f"python tests/chaos/long.py --minutes {arguments.minutes:g}",
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("softprompt", "torch")}},
    }
    arguments.output.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    return 0 if is_clean(found) else 1


def fresh(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    sys.exit(main())
