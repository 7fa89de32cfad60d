"""What `make chaos` kills, damages and starves of disk: each command of the program that writes for longer."""

import json
from collections.abc import Callable
from pathlib import Path

from softprompt.cli import main as softprompt

import kills

# fmt: off
SMALL = (
    "--task", "lab/weekend", "--model", "lab-t5-small", "--shots", "16", "--batch-size", "4", "--quiet",
    "--task-option", "train=64", "--task-option", "test=8", "--task-option", "validation=8",
    "--eval-every", "2", "--eval-rows", "8",
)
# Two hundred rows and more, so that a search does not cross-validate.
SEARCH = (
    "tune", "lab/weekend", "--model", "lab-t5-small", "--trials", "3", "--seeds", "1", "--steps", "4", "--quiet",
    "--task-option", "train=160", "--task-option", "test=32", "--task-option", "validation=24", "--batch-size", "4",
)
STABILITY = (
    "stability", "--task", "lab/weekend", "--model", "lab-t5-small", "--setting", "none", "--seeds", "2", "--steps",
    "4", "--shots", "16", "--json",
)
# fmt: on
STUDY = """[defaults]
model = "lab-t5-small"
steps = 8
eval_every = 2
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
ANSWERS = "answers.jsonl"
ROWS = 400
SAVED = "fleets/*/*/checkpoints/step-*"


def command(*words: str) -> Callable[[Path], object]:
    """A command on a folder, whose place in the words is FOLDER."""
    return lambda folder: softprompt([word.replace("FOLDER", str(folder)) for word in words])


def training(*words: str) -> kills.Scenario:
    """`softprompt train` with these words, and its --resume."""
    start = command("train", *SMALL, "--output", "FOLDER", *words)
    return kills.Scenario(start, command("train", "--resume", "FOLDER", "--quiet"))


def study(place: Path, *words: str, processes: int = 1, stalls: bool = False) -> kills.Scenario:
    """`softprompt study run` by several processes on one store; what one has stored no other stores again."""
    path = place / "study.toml"
    path.write_text(STUDY)
    run = command(
        "study", "run", str(path), "--store", "FOLDER", "--fleet-size", "2", "--retry-failed", "--quiet", *words
    )
    return kills.Scenario(run, run, processes=processes, once="runs/*.json", stalls=stalls, saved=SAVED)


def prediction(place: Path, run: Path) -> kills.Scenario:
    """`softprompt predict` of two prompts of a run for a file of rows."""
    path = place / "rows.jsonl"
    lines = ({"id": number, "passage": f"the meeting number {number} is on monday ."} for number in range(ROWS))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = (str(member.parent) for member in sorted(run.glob("*/prompt")))
    words = ("--file", str(path), "--id-column", "id", "--output", f"FOLDER/{ANSWERS}", "--batch-size", "2", "--quiet")
    predict = command("predict", first, "--prompts", second, *words)

    return within(ANSWERS, predict)


def within(output: str, write: Callable[[Path], object]) -> kills.Scenario:
    """A command that writes a file in a folder, which is not written again once it is there."""

    def step(folder: Path) -> object:
        return 0 if (folder / output).exists() else write(folder)

    return kills.Scenario(step, step, needs_folder=True)


def one_shot(run: Path) -> dict[str, kills.Scenario]:
    """Commands that write one file at their end."""
    report = command("report", str(run), "--output", "FOLDER/report.html")
    bank = command("bank", str(run), "--output", "FOLDER/bank.safetensors")
    return {"report": within("report.html", report), "bank": within("bank.safetensors", bank)}


def scenarios(place: Path, run: Path) -> dict[str, kills.Scenario]:
    """What is killed, by what it is.

    Args:
        place: a folder for files that the commands read.
        run: a finished run.
    """
    tune = command(*SEARCH, "--output", "FOLDER")
    stability = command(*STABILITY, "--store", "FOLDER")
    return {
        "a fleet with restarts": training("--steps", "8", "--restarts", "2", "--restart-steps", "3", "--seed", "0"),
        "a fleet of two methods": training("--steps", "12", "--method", "residual", "--method", "ept-star"),
        "a regulariser and dropout": training("--steps", "9", "--regularizer", "ptp-rn", "--backbone-dropout"),
        "trained weights": training("--steps", "6", "--method", "lora", "--lr", "0.01"),
        "a study by two processes": study(place, processes=2),
        "a study by four processes": study(place, processes=4),
        "a study whose workers stall": study(place, "--lease-seconds", "1", processes=3, stalls=True),
        "stability": kills.Scenario(stability, stability, once="runs/*.json", saved=SAVED),
        # A fleet that died between two of its results writes both, with the same bytes; a wave is told once.
        "tune": kills.Scenario(tune, tune, once="waves/*/*.json"),
        "batch prediction": prediction(place, run),
    }
