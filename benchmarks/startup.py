"""How long `softprompt --help` takes over a bare interpreter: medians of 5, interleaved, in seconds.

Prints both medians and the difference, and writes them to benchmarks/results/startup.json.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPEATS = 5
COMMANDS = {
    "bare interpreter": [sys.executable, "-c", "pass"],
    "softprompt --help": [sys.executable, "-c", "from softprompt.cli import main; main(['--help'])"],
}
RESULT = Path(__file__).parent / "results" / "startup.json"


def seconds(command: list[str]) -> float:
    """Wall time of one process, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def measure() -> dict[str, float]:
    """Median wall time by command. Interleaved, so that a busy moment of the machine meets both."""
    for command in COMMANDS.values():
        seconds(command)  # writes the byte code
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Measure, print, write."""
    medians = measure()
    bare, ours = medians.values()
    result = {**medians, "difference": ours - bare, "repeats": REPEATS, "python": platform.python_version()}
    for name in (*medians, "difference"):
        print(f"{name:18}  {result[name]:.3f} s")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
