"""Run folders as training leaves them at some moment, written by hand: no model is needed to look at them."""

import json
import math
import os
import time
from pathlib import Path


def made_run(
    folder: Path, *, task: str = "lab/color", step: int = 40, done: bool = False, ago: float = 0.0, seeds: int = 2
) -> Path:
    """A run of 100 steps that has come to a step, and last wrote some seconds ago."""
    folder.mkdir(parents=True)
    prompts = [{"method": "prompt-tuning", "seeds": {"initialization": seed}} for seed in range(seeds)]
    plan = {"format": 2, "task": {"name": task}, "model": "lab-t5", "settings": {"steps": 100}, "prompts": prompts}
    (folder / "run.json").write_text(json.dumps(plan))
    timing = [{"step": n, "seconds": 5.0} for n in range(10, step + 1, 10)]
    (folder / "timing.jsonl").write_text("".join(json.dumps(row) + "\n" for row in timing))
    for seed in range(seeds):
        made_prompt(folder / f"prompt-tuning-seed{seed}", step, done, seed)
    then = time.time() - ago
    for path in folder.rglob("*.json*"):
        os.utime(path, (then, then))
    return folder


def made_prompt(folder: Path, step: int, done: bool, seed: int) -> None:
    folder.mkdir()
    rows = []
    for n in range(1, step + 1):
        rows.append({"step": n, "loss": 2.0 * math.exp(-n / 30) + 0.1 * seed, "lr": 0.1})
        if n % 10 == 0:
            rows.append({"step": n, "split": "validation", "score": 0.5 + n / 250 - seed / 20, "invalid": 0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        result = {"status": "finished", "metrics": {"test": {"score": 0.81}}}
        (folder / "result.json").write_text(json.dumps(result))
