"""How errors leave the command line: one line, exit code 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from softprompt import errors
from softprompt.cli import main

from cli_kit import BASE, LAB, python, refusal


@pytest.mark.parametrize(
    "words", [["train"], ["stability", "--model", "lab-t5-small", "--task", "lab/color"], ["evaluate", "run"]]
)
def test_fewer_malformed_rows_than_none_are_refused_before_anything_is_made(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    line = refusal(capsys, *words, "--max-bad-rows", "-1")
    assert line == "Invalid value for '--max-bad-rows': Input should be greater than or equal to 0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train", "--task", "glue/sst", "--model", "m"], "unknown task 'glue/sst'. Did you mean 'glue/sst2'?"),
        (["tasks", "show", "glue/colla"], "unknown task 'glue/colla'. Did you mean 'glue/cola'?"),
        (["show", "glue/colla"], "unknown run, prompt or task 'glue/colla'. Did you mean 'glue/cola'?"),
        (["methods", "show", "ept-str"], "unknown method 'ept-str'. Did you mean 'ept-star'?"),
        (
            [*BASE, "--method", "residual", "--method-option", "resdual.passes=1"],
            "unknown method of this run 'resdual'. Did you mean 'residual'?",
        ),
        ([*BASE, "--method-option", "passes"], "--method-option 'passes' is not KEY=VALUE, as in passes=1"),
        (["train", "--task", "glue/sst2"], "no model; give --model"),
        (
            ["frozen", "glue/sst2"],
            "no model; give --model, a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct or a folder",
        ),
        (["train", "--model", "m"], "nothing to train on; give --task NAME"),
        ([*LAB, "--regularizer", "rn-em"], "unknown regulariser 'rn-em'. Did you mean 'rn-emb'?"),
        (
            [*LAB, "--alpha", "1"],
            "--alpha weighs a regulariser, and none is given",
        ),
        (
            [*LAB, "--method-option", "prompt_length=5", "--prompt-length", "10"],
            "--prompt-length 10 and --method-option give 'prompt-tuning' two lengths; give one",
        ),
        (
            [*LAB, "--regularizer", "rn-emb", "--alpha", "1", "--alpha", "2"],
            "--alpha is given 2 times, --regularizer 1 times; give one --alpha for all, or one for each",
        ),
        ([*LAB, "--regularizer", "rn-emb", "--alpha", "-1"], "regulariser: alpha must be 0 or more and finite, not -1"),
        ([*BASE, "--max-norm", "0"], "--max-norm must be positive and finite, in token norms, not 0.0"),
        ([*BASE, "--restarts", "0"], "--restarts must be positive, not 0"),
        ([*BASE, "--steps", "0"], "--steps must be positive, not 0"),
        ([*BASE, "--shots", "4", "--shots-per-class", "2"], "give --shots (rows in total) or --shots-per-class"),
        ([*BASE, "--data", "rows.csv"], "give --task glue/sst2 or --data rows.csv, not both"),
        ([*BASE, "--text-column", "good"], "--text-column is for rows of your own; give --data FILE"),
        ([*BASE, "--label-words", "good"], "label words ['good'] for 2 labels (0, 1); one each is needed"),
        ([*BASE, "--template", "Review:"], "template 'Review:' reads no column; write one as {column}"),
        (["train", "--task", "absent.csv", "--label-column", "y", "--text-column", "x"], "no file 'absent.csv'"),
        (["train", "--resume", "run", "--lr", "0.1"], "--resume goes on with the run's own settings; drop --lr"),
        (["import", "absent", "--output", "x"], "absent does not exist; give a PEFT folder or a .npy file"),
        (["predict", "run", "text", "--file", "rows.csv"], "give texts or --file, not both"),
        (["predict", "run", "--file", "absent.csv"], "no file 'absent.csv'"),
        (["predict", "run", ""], "text 1 is empty; give words to answer"),
        (["predict", "run", "good", " "], "text 2 is empty; give words to answer"),
        (
            ["predict", "run", "absent.txt"],
            "'absent.txt' looks like a file that is not here, not a text; give --file absent",
        ),
        (["predict", "run", "a/rows.jsonl.gz"], "'a/rows.jsonl.gz' looks like a file that is not here, not a text"),
        (["predict", "run", "--file", "absent.txt"], "no file 'absent.txt'"),
        (
            [*LAB, "--task-option", "nois=4"],
            "unknown option of a lab task 'nois'. Did you mean 'noise'?",
        ),
        ([*LAB, "--task-option", "noise"], "--task-option 'noise' is not KEY=NUMBER, as in noise=4 or label_noise=0.1"),
        ([*LAB, "--task-option", "noise=much"], "--task-option 'noise=much' is not KEY=NUMBER"),
        ([*LAB, "--task-option", "noise=1.5"], "--task-option 'noise=1.5' is not KEY=NUMBER"),
        ([*LAB, "--task-option", "noise=-1"], "fillers and noise are counts, not -1"),
        ([*LAB, "--task-option", "label-noise=2"], "label_noise is a share of the rows, 0 to 1, not 2.0"),
        ([*LAB, "--task-option", "train=0"], "a lab task needs at least one train row, not 0"),
        (
            [*BASE, "--task-option", "noise=4"],
            "task 'glue/sst2' has rows of its own; options make the rows of lab tasks only",
        ),
        (
            ["tasks", "show", "glue/rte", "--task-option", "noise=4"],
            "task 'glue/rte' has rows of its own; options make the rows of lab tasks only",
        ),
        (["tasks", "show", "lab/colour"], "unknown task 'lab/colour'. Did you mean 'lab/color'?"),
        (
            ["lab", "claims", "--quick"],
            "`softprompt lab claims` has left the package; in a checkout run `python -m experiments.claims`",
        ),
        ([*BASE, "--lr", "fast"], "Invalid value for '--lr'"),
        (["methods", "list", "--width", "0"], "Invalid value for '--width'"),
        ([*LAB, "--prompt-length", "0"], "--prompt-length must be at least 1, not 0"),
        ([*LAB, "--method-option", "m=0"], "method option 'm' must be at least 1, not 0"),
        ([*LAB, "--device", "gpu"], "--device 'gpu' does not exist on this machine; give auto, spread, cpu"),
        ([*LAB, "--device", "meta"], "--device 'meta' cannot compute; give auto, spread, cpu"),
        ([*LAB, "--learning-rate", "0.1"], "No such option: --learning-rate. Did you mean --lr?"),
        ([*LAB, "--learning_rate=0.1"], "No such option: --learning_rate. Did you mean --lr?"),
        ([*LAB, "--methods", "ept"], "No such option: --methods. Did you mean --method?"),
        ([*LAB, "--xyz", "1"], "No such option: --xyz. See `softprompt train --help`."),
        (
            ["methods", "show", "ept", "--learning-rate"],
            "No such option: --learning-rate. See `softprompt methods show",
        ),
    ],
    ids=lambda given: " ".join(given)[-40:] if isinstance(given, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(words: list[str], line: str, capsys: pytest.CaptureFixture[str]):
    assert refusal(capsys, *words).startswith(line)


def test_an_error_of_the_library_is_printed_without_a_traceback_by_the_process():
    found = python("import sys; from softprompt.cli import main; sys.exit(main(['tasks', 'show', 'glue/mlni']))")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "softprompt: unknown task 'glue/mlni'. Did you mean 'glue/mnli'?\n"


class Stopped(errors.SoftPromptError):
    exit_code = 130


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (errors.StorageFailure("the disk is full"), 2, "softprompt: the disk is full\n"),
        (errors.RunExists("run holds a run"), 2, "softprompt: run holds a run\n"),
        (Stopped("stopped; go on with --resume run"), 130, "softprompt: stopped; go on with --resume run\n"),
        (PermissionError(13, "Permission denied", "run"), 2, "softprompt: run: Permission denied\n"),
        (KeyboardInterrupt(), 130, "softprompt: interrupted; give the command again\n"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_exit_codes_of_what_training_raises(
    raised: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def train(*given: Any, **named: Any):
        raise raised

    monkeypatch.setattr("softprompt.training.train", train)
    assert main(BASE) == code
    assert capsys.readouterr() == ("", text)


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    def train(*given: Any, **named: Any):
        raise ZeroDivisionError

    monkeypatch.setattr("softprompt.training.train", train)
    with pytest.raises(ZeroDivisionError):
        main(BASE)


@pytest.mark.parametrize("words", [["tasks", "list", "--json"], ["tasks", "list"]], ids=" ".join)
def test_a_reader_that_leaves_is_met_in_silence(words: list[str]):
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import sys; from softprompt.cli import main; sys.exit(main({words!r}))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(writing, "wb") as pipe:
        found = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, env=buffered)
    assert (found.returncode, found.stderr) == (1, b"")
