"""What the files and folders of a run are called; this one file is read by all that write, watch or read runs.

run.json                                the plan, which makes a folder a run
timing.jsonl                            seconds, apart from what must be reproducible
checkpoints/step-000123/                where it goes on
frozen.json, comparison.json            the frozen model without training, and the prompts beside it
PROMPT/metrics.jsonl                    every step and evaluation
PROMPT/restarts/                        the race between its candidates
PROMPT/prompt/ or PROMPT/weights/       the best of it, as it is stored; of some weights also in PROMPT/peft/
PROMPT/result.json                      how it ended, written last
"""

from pathlib import Path

PLAN, TIMING, CHECKPOINTS = "run.json", "timing.jsonl", "checkpoints"
FROZEN, COMPARISON = "frozen.json", "comparison.json"
METRICS, RESTARTS, CHOSEN, RESULT = "metrics.jsonl", "restarts", "chosen.json", "result.json"
PROMPT, WEIGHTS, PEFT = "prompt", "weights", "peft"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / PLAN).is_file()


def run_of(path: Path) -> Path | None:
    """The run that a folder is, or in which it is a prompt; None where there is none."""
    place = path.resolve()
    return next((folder for folder in (place, *place.parents[:2]) if is_run(folder)), None)
