"""Time, memory and size of a report on many runs: the generated store of a study, and folders of runs.

    python benchmarks/report.py

Each report is made in a process of its own on one thread. Prints the numbers and writes benchmarks/results/report.json.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
# The runs of the tests, so that what is measured is what is tested.
sys.path.insert(0, str(HERE.parent / "tests"))
RESULT = HERE / "results" / "report.json"
TASKS = ("lab/opinion", "lab/topic", "lab/weekend", "lab/color")
# Steps of a run in a folder: each is a line that has to be read.
STEPS = 400


def made(folder: Path, kind: str, count: int) -> Path:
    """So many runs, as a study or as training leaves them."""
    from report_kit import METHODS, made_run, made_store  # pyright: ignore[reportMissingImports]  (in tests)

    if kind == "store":
        return made_store(folder / f"{kind}-{count}", count=count, tasks=TASKS, points=300)
    for number in range(count // 10):
        task = TASKS[number % len(TASKS)]
        made_run(folder / f"{kind}-{count}" / f"run-{number}", task=task, methods=METHODS, seeds=5, steps=STEPS)
    return folder / f"{kind}-{count}"


def processor_seconds() -> float:
    """What the processes that this one started have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(runs: Path) -> dict[str, float]:
    """Seconds, the largest memory in MB, and the size of the page in MB."""
    page = runs.parent / "page.html"
    code = (
        "import resource, sys; from softprompt.cli import main; code = main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    start, before = time.perf_counter(), processor_seconds()
    words = [sys.executable, "-c", code, "report", str(runs), "-o", str(page), "--replace"]
    process = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    memory = int(process.stderr.split()[-1]) / 1024
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor_seconds() - before, 1),
        "memory_mb": round(memory),
        "page_mb": round(page.stat().st_size / 1e6, 2),
    }


def main() -> None:
    """Measure each kind at 100 and at 1,000 runs."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("store", "folders"):
            for count in (100, 1000):
                found[f"{kind} {count}"] = measured(made(Path(folder), kind, count))
                print(kind, count, found[f"{kind} {count}"], flush=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
