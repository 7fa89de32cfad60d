"""What a study of ten thousand runs costs to look at, and what it adds to each run.

    python benchmarks/study.py

Looks: `study plan --no-measure`, `status`, `table` and `compare` of 10,000 stored runs, each with curves of 250 points
in five quantities, in a process of its own: processor time and largest memory, imports and all. Processor time, because
other processes and the disk move wall time. Overhead: what a worker spends on each of 200 runs beside training and
loading, which are replaced by nothing: its claim, its file, its end. Writes results/study.json.
"""

import functools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from softprompt.study import RunSpec, StoredRun, grid, load_specs
from softprompt.study import _work as work
from softprompt.study._fleets import Fleet, group
from softprompt.study._stored import path_of, to_bytes

RESULT = Path(__file__).parent / "results" / "study.json"
RUNS, ADDED = 10_000, 200
FILE = f"""
[defaults]
model = "lab-t5"
steps = 1000
[[runs]]
task = ["lab/color", "lab/item", "lab/opinion", "lab/topic"]
method = ["prompt-tuning", "residual", "ept", "scaled", "ept-star"]
lr = [0.1, 0.2, 0.3, 0.5, 1.0]
seed = {list(range(RUNS // 100))}
"""
LOOKS = {
    "plan": ["plan", "--no-measure"],
    "status": ["status"],
    "table": ["table"],
    "compare": ["compare", "method=ept", "--pair", "task", "--pair", "lr", "--pair", "seed"],
}
QUANTITIES = ("loss", "prompt_norm", "token_norms", "gradient_norm")
# Curves that the runs share in turn: no look compares those of two runs, and drawing takes longer than looking.
CURVES = 50


@functools.cache
def curve_of(number: int) -> dict[str, list[float]]:
    """Curves with numbers drawn at random."""
    draw = random.Random(number)
    curve: dict[str, list[float]] = {"step": list(range(1, 1001, 4))}
    return curve | {name: [float(f"{draw.random():.6g}") for _ in range(250)] for name in QUANTITIES}


def result(spec: RunSpec, draw: random.Random) -> StoredRun:
    """A run as training would store it, with numbers drawn at random."""
    curve = curve_of(draw.randrange(CURVES))
    scores = {"step": list(range(200, 1001, 200)), "score": [draw.random() for _ in range(5)]}
    metrics = {split: {"score": draw.random(), "accuracy": draw.random()} for split in ("validation", "test")}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=0.5, best_step=800, trainable=5120, head=0, stored=5120,
        seconds=3.0, status="finished", curve=curve, validation=scores, fleet=(spec.name,), prompt_steps=1000,
    )  # fmt: skip


def looked(command: list[str], file: Path, store: Path) -> dict[str, float]:
    """Processor seconds and largest memory in MB of one look."""
    words = ["study", command[0], str(file), *command[1:], "--store", str(store)]
    program = (
        f"import sys, resource; from softprompt.cli import main; code = main({words!r});"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "memory_mb": round(int(done.stderr.split()[-1]) / 1000)}


def overhead(store: Path) -> float:
    """Processor seconds that a study adds to a run, with fleets of one."""
    specs, draw = grid(task="lab/color", model="lab-t5", seed=range(ADDED)), random.Random(0)
    results = {spec.name: to_bytes(result(spec, draw)) for spec in specs}

    def nothing(place: Path, fleet: Fleet, models: object, data_root: object) -> None:
        """In the place of training: the results are there, and are stored as they always are."""
        with work.alone(place):
            fleet.lease.refuse_lost()
            for spec in fleet.specs:
                path_of(place, spec.name).parent.mkdir(exist_ok=True)
                path_of(place, spec.name).write_bytes(results[spec.name])

    work._train = nothing
    import softprompt.training  # noqa: F401  (its import is not timed)

    start = time.process_time()
    work.work(store, group(specs, 1), data_root=None, device="cpu", keep=False)
    return (time.process_time() - start) / ADDED


def main() -> None:
    """Measure, print, write."""
    found: dict[str, object] = {"runs": RUNS, "python": platform.python_version(), "torch": version("torch")}
    found |= {"processors": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        file, store, draw = Path(folder) / "study.toml", Path(folder) / "store", random.Random(0)
        file.write_text(FILE)
        (store / "runs").mkdir(parents=True)
        for spec in load_specs(file):
            path_of(store, spec.name).write_bytes(to_bytes(result(spec, draw)))
        for name, command in LOOKS.items():
            found[name] = looked(command, file, store)
            print(name, found[name], flush=True)
        found["overhead_of_a_run_ms"] = round(1000 * overhead(Path(folder) / "added"), 2)
    print(found["overhead_of_a_run_ms"], "ms a run")
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
