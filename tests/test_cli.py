"""The command line: what it parses, what it prints where, and how errors leave it."""

import dataclasses
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import softprompt
import typer
from softprompt import errors
from softprompt.cli import app, main
from softprompt.cli.printing import cell
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.tasks import TASKS, Task, with_difficulty

COMMANDS = (
    ["demo"],
    ["train"],
    ["tune"],
    ["evaluate"],
    ["predict"],
    ["frozen"],
    ["export"],
    ["compile"],
    ["import"],
    ["show"],
    ["doctor"],
    ["landscape"],
    ["report"],
    ["analyze"],
    ["stability"],
    ["watch"],
    ["board"],
    ["serve"],
    ["bank"],
    ["tasks", "list"],
    ["tasks", "show"],
    ["tasks", "check"],
    ["methods", "list"],
    ["methods", "regularizers"],
    ["methods", "show"],
    ["lab", "copy"],
    ["lab", "mlm-head"],
    ["study", "run"],
    ["study", "plan"],
    ["study", "table"],
    ["study", "compare"],
    ["study", "status"],
    ["study", "best"],
    ["study", "export"],
)
# The names that scripts rely on.
TRAIN_OPTIONS = {
    "--task", "--method", "--model", "--data-root", "--steps", "--epochs", "--batch-size",
    "--grad-accumulation", "--max-length", "--eval-every", "--lr", "--seed", "--shots", "--device", "--dtype",
    "--gradient-checkpointing", "--output", "--resume", "--json", "--text-column", "--label-column",
    "--number-column", "--target-column", "--data", "--validation-data", "--test-data", "--template", "--label-words",
    "--method-option", "--prompt-length", "--init", "--init-seed", "--order-seed", "--draw-seed",
    "--noise-seed", "--head-lr", "--weight-decay", "--warmup", "--schedule", "--clip", "--patience",
    "--shots-per-class", "--style", "--answers", "--decode", "--tokens-per-batch", "--backbone-dropout",
    "--max-bad-rows", "--log-with", "--track", "--eval-rows", "--test-rows",
    "--revision", "--embedding-scale", "--units", "--max-norm",
    "--task-option", "--regularizer", "--alpha", "--restarts", "--restart-steps", "--deep", "--engine", "--quantize",
    "--delimiter", "--instruction", "--with-frozen", "--max-shift", "--context-loss", "--source",
}  # fmt: skip
BASE = ["train", "--task", "glue/sst2", "--model", "some/model", "--output", "run"]
LAB = ["train", "--task", "lab/color", "--model", "lab-t5", "--output", "run"]


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOFTPROMPT_DATA_ROOT", raising=False)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_python_can_run_the_package_as_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["softprompt", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("softprompt", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"softprompt {softprompt.__version__}\n"


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error with which a command was refused."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("softprompt: ")


# Help


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["tasks", "list"], ["tasks", "show", "glue/rte"]])
def test_light_commands_import_nothing_heavy(words: list[str]):
    heavy = ("torch", "transformers", "datasets", "numpy", "pandas")
    found = python(
        "import sys; from softprompt.cli import main\n"
        f"code = main({words!r}); print([m for m in {heavy!r} if m in sys.modules], code)"
    )
    assert found.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_every_subcommand_names_all_its_options_whole(words: list[str], capsys: pytest.CaptureFixture[str]):
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: softprompt {' '.join(words)}" in text
    for parameter in command.params:
        if parameter.opts[0].startswith("--"):
            assert f" {parameter.opts[0]} " in text


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_of_a_command_and_of_its_options_has_one_form(words: list[str]):
    command: Any = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    first, *_ = command.help.splitlines()
    # A command does something, and so its help begins with a verb, as the rest of its sentence shows.
    assert re.fullmatch(r"[A-Z][a-z]+ .+[.?]", first)
    helps = {parameter.opts[0]: parameter.help or "" for parameter in command.params}
    assert {name for name, help in helps.items() if not re.match(r'[A-Z]\w.*[.)"]$', help)} == set()
    assert {name for name, help in helps.items() if re.search(r"\bNone\b|; repeat", help)} == set()


def test_every_listed_command_is_tested():
    command: Any = typer.main.get_command(app)
    found = []
    for name, inner in command.commands.items():
        # Commands that have left the package are hidden, and only say so.
        listed = [sub for sub, part in getattr(inner, "commands", {}).items() if not part.hidden]
        found += [[name, sub] for sub in listed] or [[name]]
    assert found == list(COMMANDS)


def test_train_has_exactly_the_options_of_the_contract_and_those_of_the_settings():
    command: Any = typer.main.get_command(app)
    names = {option for parameter in command.commands["train"].params for option in parameter.opts}
    settings = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(TrainSettings)}
    assert names == TRAIN_OPTIONS | settings | {"--metric", "--quiet"}


def test_help_of_a_setting_is_its_docstring(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "250")
    main(["train", "--help"])
    assert "Optimiser steps between two evaluations. A checkpoint follows each evaluation." in capsys.readouterr().out


# Errors


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
        (KeyboardInterrupt(), 130, ""),
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


# Lists


@pytest.mark.parametrize(
    ("width", "counts"),
    [
        (512, {"prompt-tuning": 5120, "p-tuning": 793_088, "residual": 416_656, "ept": 1536, "ept-star": 1536}),
        (768, {"prompt-tuning": 7680, "p-tuning": 1_779_456, "residual": 624_784, "ept": 2304, "ept-star": 2304}),
        (1024, {"prompt-tuning": 10_240, "p-tuning": 3_159_040, "residual": 832_912, "ept": 3072, "ept-star": 3072}),
    ],
)
def test_methods_list_has_the_counts_of_the_papers(
    width: int, counts: dict[str, int], capsys: pytest.CaptureFixture[str]
):
    assert main(["methods", "list", "--width", str(width), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    rows = {row["method"]: row for row in json.loads(line)}
    assert {tuple(row) for row in rows.values()} == {("method", "prompt_length", "trainable", "stored", "units", "lr")}
    assert {name: rows[name]["trainable"] for name in counts} == counts
    assert {name: (rows[name]["units"], rows[name]["lr"]) for name in ("ept-star", "scaled")} == {
        "ept-star": ("raw", 0.3),
        "scaled": ("rms", 1.0),
    }
    stored = {name: width if name.startswith("ept") else 10 * width for name in counts}
    assert {name: rows[name]["stored"] for name in counts} == stored
    assert {name: rows[name]["prompt_length"] for name in counts} == {**dict.fromkeys(counts, 10), "ept": 1}


def test_tasks_list_names_every_task(capsys: pytest.CaptureFixture[str]):
    assert main(["tasks", "list", "--json"]) == 0
    assert [row["task"] for row in json.loads(capsys.readouterr().out)] == list(TASKS)


def test_a_task_shown_as_json_is_the_task(capsys: pytest.CaptureFixture[str]):
    assert main(["tasks", "show", "super_glue/boolq", "--json"]) == 0
    shown = capsys.readouterr().out
    assert Task.from_json(json.loads(shown)) == TASKS["super_glue/boolq"]
    assert main(["show", "super_glue/boolq", "--json"]) == 0
    assert capsys.readouterr().out == shown


def test_a_lab_task_is_shown_as_hard_as_asked(capsys: pytest.CaptureFixture[str]):
    words = ["tasks", "show", "lab/color", "--task-option", "noise=4", "--task-option", "label-noise=0.1"]
    assert main([*words, "--json"]) == 0
    expected = with_difficulty(TASKS["lab/color"], noise=4, label_noise=0.1)
    assert Task.from_json(json.loads(capsys.readouterr().out)) == expected != TASKS["lab/color"]
    assert main(words) == 0
    assert re.search(r"\nlab +attribute attribute=color noise=4 label_noise=0.1\n", capsys.readouterr().out)


def test_a_table_has_one_line_a_row_and_aligned_columns(capsys: pytest.CaptureFixture[str]):
    assert main(["tasks", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    start = header.index("answer")
    assert [line[start:].split()[0] for line in lines] == [task.answer for task in TASKS.values()]
    assert {line[start - 1] for line in lines} == {" "}


# Training


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a command with a `train` that only remembers what it was asked for."""
    from softprompt.training import Run

    seen: dict[str, Any] = {}

    def train(task: Any, model: Any, **named: Any) -> Run:
        seen.update(named, task=task, model=model)
        return Run(Path("run"), [result()])

    monkeypatch.setattr("softprompt.training.train", train)

    def ask(*words: str) -> dict[str, Any]:
        assert main(words) == 0
        return seen

    return ask


def result(**changed: Any) -> Any:
    from softprompt.training import Result

    scores = {"validation": {"accuracy": 0.75, "score": 0.75}, "test": {"accuracy": 0.5, "score": 0.5}}
    values: dict[str, Any] = {
        "run": "run", "prompt": "ept-star-seed0", "task": "glue/sst2", "method": "ept-star", "seed": 0,
        "metrics": scores, "best_step": 400, "trainable": 1152, "head": 770, "stored": 384, "seconds": 1.5,
        "status": "finished",
    }  # fmt: skip
    return Result(**{**values, **changed})


def test_without_options_training_gets_the_library_defaults(asked: Callable[..., dict[str, Any]]):
    seen = asked(*BASE)
    assert (seen["task"], seen["model"], seen["output"]) == (TASKS["glue/sst2"], ModelSpec("some/model"), Path("run"))
    assert seen["prompts"] == (PromptSettings(),)
    assert seen["settings"] == TrainSettings()


@pytest.mark.parametrize("field", dataclasses.fields(TrainSettings), ids=lambda field: field.name)
def test_every_setting_has_an_option(field: dataclasses.Field, asked: Callable[..., dict[str, Any]]):
    words = {"schedule": "constant", "decode": "generate", "normalize": "mean", "loss": "labels"}
    words |= {"class_weights": "balanced", "label_smoothing": 0.5}
    value: Any = words.get(field.name, 7.0 if "float" in str(field.type) else field.type is bool or 7)
    option = f"--{field.name.replace('_', '-')}"
    given = [option] if value is True else [option, str(value)]
    expected = dataclasses.replace(TrainSettings(), **{field.name: value})
    assert asked(*BASE, *given)["settings"] == expected
    assert expected != TrainSettings()


def test_prompts_are_the_product_of_methods_rates_and_seeds(asked: Callable[..., dict[str, Any]]):
    words = [
        "--method", "ept", "--method", "residual", "--lr", "0.1", "--lr", "0.3", "--seed", "1", "--seed", "2",
        "--method-option", "m=2", "--method-option", "residual.passes=1", "--init", "vocabulary", "--head-lr", "0.01",
    ]  # fmt: skip
    expected = []
    for method, options in (("ept", {"m": "2"}), ("residual", {"m": "2", "passes": "1"})):
        for lr in (0.1, 0.3):
            for seed in (1, 2):
                prompt = PromptSettings(method=method, options=options, lr=lr, seeds=Seeds.all(seed))
                expected.append(dataclasses.replace(prompt, init="vocabulary", head_lr=0.01))
    assert asked(*BASE, *words)["prompts"] == tuple(expected)


def test_options_of_a_lab_task_reach_training(asked: Callable[..., dict[str, Any]]):
    seen = asked(*LAB, "--task-option", "noise=4", "--task-option", "label_noise=0.1", "--task-option", "train=64")
    assert seen["task"] == with_difficulty(TASKS["lab/color"], noise=4, label_noise=0.1, train=64)
    assert seen["model"] == ModelSpec("lab-t5")


def test_units_and_the_guard_reach_every_prompt(asked: Callable[..., dict[str, Any]]):
    words = ["--method", "ept", "--method", "polar", "--units", "rms", "--max-norm", "4"]
    expected = tuple(PromptSettings(method=method, units="rms", max_norm=4.0) for method in ("ept", "polar"))
    assert asked(*BASE, *words)["prompts"] == expected


def test_regularisers_are_joined_with_an_alpha_each(asked: Callable[..., dict[str, Any]]):
    words = ["--regularizer", "rn-emb:sigma=0.1", "--regularizer", "adv-emb"]
    assert asked(*LAB, *words)["prompts"][0].regularizer == "rn-emb:sigma=0.1+adv-emb"
    one = asked(*LAB, *words, "--alpha", "0.5")["prompts"][0].regularizer
    assert one == "rn-emb:sigma=0.1,alpha=0.5+adv-emb:alpha=0.5"
    two = asked(*LAB, *words, "--alpha", "0.5", "--alpha", "2")["prompts"][0].regularizer
    assert two == "rn-emb:sigma=0.1,alpha=0.5+adv-emb:alpha=2.0"
    both = asked(*LAB, "--regularizer", "rn-emb:sigma=0.1+adv-emb", "--alpha", "0.5")["prompts"][0].regularizer
    assert both == one


def test_an_option_of_one_method_goes_before_that_of_all(asked: Callable[..., dict[str, Any]]):
    words = ["--method", "residual", "--method", "prompt-tuning", "--prompt-length", "4"]
    prompts = asked(*LAB, *words, "--method-option", "residual.m=2", "--method-option", "m=3")["prompts"]
    assert [prompt.options["m"] for prompt in prompts] == ["2", "3"]


def test_every_regulariser_is_listed_with_its_options(capsys: pytest.CaptureFixture[str]):
    assert main(["methods", "regularizers", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["rn-emb"]["sigma"] == 0.3
    assert main(["methods", "regularizers"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in listed)


def test_restarts_reach_every_prompt(asked: Callable[..., dict[str, Any]]):
    words = ["--seed", "1", "--seed", "2", "--restarts", "3", "--restart-steps", "50"]
    expected = tuple(PromptSettings(restarts=3, restart_steps=50, seeds=Seeds.all(seed)) for seed in (1, 2))
    assert asked(*BASE, *words)["prompts"] == expected


def test_the_papers_learning_rate_is_told_beside_the_methods(capsys: pytest.CaptureFixture[str]):
    assert main(["methods", "list"]) == 0
    told = "the papers train all of theirs in raw units at 0.3:\n--units raw --lr 0.3\n"
    assert capsys.readouterr().err.endswith(told)


@pytest.mark.parametrize(
    ("method", "rates"), [("residual", {"lr in raw units", "lr in rms units"}), ("polar", {"lr in rms units"})]
)
def test_a_method_shown_has_a_learning_rate_for_each_of_its_units(
    method: str, rates: set[str], capsys: pytest.CaptureFixture[str]
):
    assert main(["methods", "show", method, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name for name in shown if " in " in name} == rates
    assert shown["lr"] == shown[f"lr in {shown['units']} units"]


def test_seeds_by_purpose_override_the_common_one(asked: Callable[..., dict[str, Any]]):
    (prompt,) = asked(*BASE, "--seed", "5", "--draw-seed", "0", "--noise-seed", "9")["prompts"]
    assert prompt.seeds == Seeds(initialization=5, order=5, draw=0, noise=9)


def test_prompt_length_is_an_option_of_every_method(asked: Callable[..., dict[str, Any]]):
    prompts = asked(*BASE, "--method", "residual", "--method", "prompt-tuning", "--prompt-length", "20")["prompts"]
    assert [prompt.options for prompt in prompts] == [{"prompt_length": 20}] * 2


def test_other_options_reach_training_under_their_own_names(asked: Callable[..., dict[str, Any]]):
    seen = asked(
        *BASE, "--data-root", "rows", "--style", "t5", "--answers", "linear-head", "--dtype", "bfloat16",
        "--device", "cpu", "--revision", "abc", "--max-bad-rows", "3", "--track", "tensorboard", "--quiet",
        "--engine", "reference", "--quantize", "int8", "--embedding-scale", "2",
    )  # fmt: skip
    expected = {
        "data_root": Path("rows"), "style": "t5", "max_bad_rows": 3, "log_with": "tensorboard", "progress": False,
        "model": ModelSpec(
            "some/model", answers="linear-head", dtype="bfloat16", device="cpu", revision="abc", engine="reference",
            quantize="int8", embedding_scale=2.0,
        ),
    }  # fmt: skip
    assert {name: seen[name] for name in expected} == expected


def test_the_data_root_may_come_from_the_environment(
    asked: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SOFTPROMPT_DATA_ROOT", "elsewhere")
    assert asked(*BASE)["data_root"] == Path("elsewhere")


def test_training_names_the_folder_where_the_command_does_not(asked: Callable[..., dict[str, Any]]):
    assert asked(*BASE[:-2])["output"] is None


@pytest.mark.parametrize("option", ["--task", "--data"])
def test_a_file_of_rows_becomes_a_task(option: str, asked: Callable[..., dict[str, Any]], tmp_path: Path):
    rows = tmp_path / "rows.csv"
    rows.write_text("title,body,class\nfine,it works,1\npoor,it broke,0\n")
    words = ["--text-column", "title", "--text-column", "body", "--label-column", "class", "--metric", "accuracy"]
    pairs = ["--label-words", "1=good", "--label-words", "0=bad"]
    task = asked("train", option, str(rows), "--model", "m", "--test-data", str(rows), *words, *pairs)["task"]
    assert (task.template, task.target, task.labels) == ("title: {title} body: {body}", "class", ("bad", "good"))
    assert (task.source.files, task.metrics) == ({"train": str(rows), "test": str(rows)}, ("accuracy",))


def test_train_json_prints_one_line_a_prompt_and_tables_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from softprompt.training import Run

    results = [result(), result(method="ept", seed=1, metrics={"test": {"accuracy": float("nan")}})]
    monkeypatch.setattr("softprompt.training.train", lambda *given, **named: Run(Path("run"), results))
    assert main([*BASE, "--json"]) == 0
    printed = capsys.readouterr()
    first, second = map(json.loads, printed.out.splitlines())
    assert first == json.loads(json.dumps(results[0].to_json()))
    assert set(first) >= {
        "run", "task", "method", "seed", "metrics", "best_step", "trainable", "stored", "seconds",
    }  # fmt: skip
    assert (second["seed"], second["metrics"]) == (1, {"test": {"accuracy": None}})
    assert "ept-star-seed0" in printed.err


def test_several_seeds_are_summed_up_by_method_units_and_learning_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The best score is 0.9, chance 0.5: below 0.7 is stuck, and so is a prompt that never was scored."""
    from softprompt.training import Run

    def one(score: float | None, **changed: Any) -> Any:
        metrics = {} if score is None else {"test": {"score": score}}
        return result(**{"metrics": metrics, "majority": 0.5, "lr": 0.3, "units": "raw", **changed})

    results = [
        one(0.9, norm=20.0, token_norms=4.0),
        one(0.6, norm=30.0, token_norms=6.0),
        one(None),
        one(0.7, lr=1.0, units="rms", norm=500.0, token_norms=100.0),
    ]
    monkeypatch.setattr("softprompt.training.train", lambda *given, **named: Run(Path("run"), results))
    assert main(BASE) == 0
    each, several = capsys.readouterr().err.split("\n\n")
    assert "30 = 6 token norms (band 1-10)" in each
    assert "500 = 100 token norms (above the band 1-10)" in each
    assert [line.split() for line in several.splitlines()[1:]] == [
        ["ept-star", "raw", "0.3", "3", "0.75", "0.2121", "0.6", "0.6667", "5", "384"],
        ["ept-star", "rms", "1", "1", "0.7", "0.7", "0", "100", "384"],
    ]


def test_without_json_training_prints_the_folder_of_the_run(
    asked: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    asked(*BASE)
    assert capsys.readouterr().out == "run\n"


def test_resume_goes_on_with_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from softprompt.training import Run

    seen = []

    def resume(run: Path, *, model: str | None, device: str, progress: bool) -> Run:
        seen.append((run, model, device, progress))
        return Run(run, [result()])

    monkeypatch.setattr("softprompt.training.resume", resume)
    assert main(["train", "--resume", "run", "--model", "moved", "--device", "cpu", "--quiet"]) == 0
    assert seen == [(Path("run"), "moved", "cpu", False)]
    assert capsys.readouterr().out == "run\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
@pytest.mark.parametrize("words", [["methods", "list"], ["tasks", "list", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_line(words: list[str]):
    command = [sys.executable, "-m", "softprompt", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    message = "softprompt: cannot write the output: No space left on device; free some space, or write elsewhere"
    assert (done.returncode, done.stderr.splitlines()) == (2, [message])


# Stored prompts


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A prompt that every path leads to."""
    import torch
    from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

    task = TASKS["glue/sst2"].to_json()
    identity = BackboneIdentity("some/model", "encoder", 2)
    metrics = {"test": {"accuracy": 0.5, "score": 0.5}}
    prompt = SoftPrompt(
        torch.tensor([[3.0, 4.0]]), Provenance("ept-star", identity, task=task, metrics=metrics), repeats=10
    )
    monkeypatch.setattr(SoftPrompt, "load", classmethod(lambda cls, source: prompt))
    return prompt


@pytest.fixture
def answered(stored: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The inputs that `predict` was given."""
    seen: list[Any] = []

    def predict(prompt: Any, inputs: Any, **options: Any) -> list[dict[str, Any]]:
        seen.extend(inputs)
        answers = [{"text": str(given), "label": "é", "scores": {"é": 1.0}} for given in inputs]
        options["tell"](answers)
        return answers

    monkeypatch.setattr("softprompt.inference.predict.predict", predict)
    return seen


def test_evaluate_looks_at_its_place_before_it_scores(stored, tmp_path, monkeypatch, capsys):
    def evaluated(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluated)
    (tmp_path / "file").touch()
    assert main(["evaluate", "p", "--output", str(tmp_path / "file" / "scores")]) == 2
    assert "the evaluation cannot be stored in" in capsys.readouterr().err


def test_predict_prints_one_json_line_a_text(answered: list[Any], capsys: pytest.CaptureFixture[str]):
    assert main(["predict", "prompt", "one", "two"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == '{"text": "one", "label": "é", "scores": {"é": 1.0}}'
    assert second == '{"text": "two", "label": "é", "scores": {"é": 1.0}}'


def test_a_pipe_in_another_encoding_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    piped = io.TextIOWrapper(io.BytesIO("café".encode("latin-1")), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", piped)
    assert main(["predict", "prompt"]) == 2
    assert capsys.readouterr().err == "softprompt: standard input is not UTF-8 (byte 3); convert it first\n"


def test_a_prompt_of_peft_names_its_model_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import torch
    from softprompt.interop.peft import export_peft
    from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt

    folder = tmp_path / "adapter"
    export_peft(SoftPrompt(torch.ones(2, 4), Provenance("imported", BackboneIdentity("m", "decoder", 4))), folder)
    for number, words in enumerate((["--model", "m"], ["--kind", "decoder"], [])):
        assert main(["import", str(folder), *words, "--output", str(tmp_path / str(number))]) == 0
    for words in (["--model", "other"], ["--kind", "encoder"]):
        assert main(["import", str(folder), *words, "--output", str(tmp_path / "x")]) == 2
        assert "as it says itself; leave --model and --kind out" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["-"]], ids=["nothing", "dash"])
def test_predict_reads_lines_from_a_pipe_and_keeps_blank_ones(
    words: list[str], answered: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sys.stdin", io.StringIO("one\r\n\ntwo\u2028still two\n"))
    assert main(["predict", "prompt", *words]) == 0
    assert answered == ["one", "", "two\u2028still two"]


def test_the_mark_of_utf_8_is_no_part_of_a_piped_text(answered: list[Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffred dog\n\ufeffkept\n"))
    assert main(["predict", "prompt"]) == 0
    assert answered == ["red dog", "\ufeffkept"]


@pytest.mark.parametrize(
    ("name", "text", "inputs"),
    [
        ("rows.txt", "\ufeffone\ntwo", ["one", "two"]),
        ("rows.csv", 'sentence,label\n"a, b",1\n', [{"sentence": "a, b", "label": "1"}]),
        ("rows.jsonl", '{"sentence": "a"}\n\n{"sentence": "b"}\n', [{"sentence": "a"}, {"sentence": "b"}]),
    ],
)
def test_predict_reads_files_by_their_ending(
    name: str, text: str, inputs: list[Any], answered: list[Any], tmp_path: Path
):
    (tmp_path / name).write_text(text)
    assert main(["predict", "prompt", "--file", str(tmp_path / name)]) == 0
    assert answered == inputs


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.csv", b"sentence\na\nb,c\n", ":3: 2 fields, the header has 1"),
        ("rows.jsonl", b'{"sentence": "a"}\nb\n', ":2: not JSON"),
        ("rows.txt", b"fine\n\xff\n", "is not UTF-8 (byte 5); convert it first"),
        ("rows.txt", b"", " is empty; at least one text is needed"),
    ],
)
def test_predict_names_the_place_of_a_malformed_row(
    name: str, content: bytes, reason: str, answered: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).write_bytes(content)
    assert reason in refusal(capsys, "predict", "prompt", "--file", str(tmp_path / name))
    assert answered == []


def test_evaluate_json_is_one_line_of_metrics_rows_and_invalid_answers(
    stored: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from softprompt.inference.evaluate import Report

    seen: dict[str, Any] = {}

    def evaluate(prompt: Any, **named: Any) -> Report:
        seen.update(named, prompt=prompt)
        return Report({"accuracy": 0.5, "score": 0.5}, 8, 1, [])

    monkeypatch.setattr("softprompt.inference.evaluate.evaluate", evaluate)
    assert main(["evaluate", "prompt", "--split", "validation", "--data-root", "rows", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"metrics": {"accuracy": 0.5, "score": 0.5}, "n": 8, "invalid": 1}
    expected = {"prompt": stored, "split": "validation", "data_root": Path("rows"), "task": TASKS["glue/sst2"]}
    assert {name: seen[name] for name in expected} == expected
    assert main(["evaluate", "prompt", "--data", "mine.csv"]) == 0
    assert seen["task"].source.files == {"test": "mine.csv"}
    assert seen["task"].template == TASKS["glue/sst2"].template
    capsys.readouterr()
    whole = refusal(capsys, "evaluate", "prompt", "--data", "mine.csv", "--split", "train")
    assert "the rows of --data are scored whole, there is no 'train' of them; leave --split out" in whole


def test_show_tells_everything_of_a_prompt_but_its_numbers(
    stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["show", str(tmp_path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["method"], shown["task"], shown["labels"]) == ("ept-star", "glue/sst2", ["negative", "positive"])
    assert (shown["prompt_length"], shown["repeats"], shown["stored"], shown["norm"]) == (10, 10, 2, 5.0)
    assert (shown["backbone"]["name"], shown["metrics"]["test"]["accuracy"]) == ("some/model", 0.5)
    assert (shown["token_norms"], shown["warnings"]) == (None, [])
    assert main(["show", str(tmp_path)]) == 0
    assert re.search(r"\nnorm +5\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("token_norm", "told", "warning"),
    [
        (2.5, "5 = 2 token norms (band 1-10)", None),
        (0.1, "5 = 50 token norms (above the band 1-10)", "over-exploded: its norm is 50 token norms"),
        (25.0, "5 = 0.2 token norms (below the band 1-10)", "or a higher learning rate (now 0.3)"),
        ("5", "5", None),
    ],
)
def test_show_tells_the_norm_in_token_norms_where_they_are_known(
    token_norm: Any, told: str, warning: str | None, stored: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    stored.provenance.training.update(token_norm=token_norm, lr=0.3, units="raw")
    assert main(["show", str(tmp_path), "--json"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert len(warnings) == (warning is not None)
    assert all(warning in line for line in warnings)
    assert main(["show", str(tmp_path)]) == 0
    assert f"  {told}\n" in capsys.readouterr().out


def test_a_numpy_prompt_needs_the_name_of_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "prompt.npy").write_bytes(b"")
    line = refusal(capsys, "import", str(tmp_path / "prompt.npy"), "--output", str(tmp_path / "new"))
    assert line.endswith("does not say which model it belongs to; name it with --model")
    assert not (tmp_path / "new").exists()


def test_a_numpy_prompt_is_of_the_kind_that_its_model_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import numpy as np
    from softprompt.backbones import load_backbone
    from softprompt.errors import ModelMismatch
    from softprompt.prompts.prompt import SoftPrompt

    gpt = load_backbone("lab-gpt")
    np.save(tmp_path / "p.npy", np.ones((2, gpt.embedding_size), np.float32))
    of_gpt = ["import", str(tmp_path / "p.npy"), "--model", "lab-gpt", "--output"]
    assert main([*of_gpt, str(tmp_path / "new")]) == 0
    stored = SoftPrompt.load(capsys.readouterr().out.strip())
    assert stored.provenance.backbone.kind == "decoder"
    gpt.check(stored)
    line = refusal(capsys, *of_gpt, str(tmp_path / "x"), "--kind", "encoder-decoder")
    assert line.endswith("the model 'lab-gpt' is of kind decoder, not encoder-decoder; leave --kind out")
    # As a version before stored it.
    wrong = dataclasses.replace(stored.provenance.backbone, kind="encoder-decoder")
    other = dataclasses.replace(stored, provenance=dataclasses.replace(stored.provenance, backbone=wrong))
    with pytest.raises(
        ModelMismatch, match="of kind encoder-decoder, 'lab-gpt' is of kind decoder; give its own model"
    ):
        gpt.check(other)
    # Of a model that is not here nothing is known.
    assert main([*of_gpt[:3], "a/b", "--output", str(tmp_path / "far")]) == 0
    assert SoftPrompt.load(tmp_path / "far").provenance.backbone.kind == "encoder-decoder"


def test_a_value_with_parts_is_shown_part_by_part():
    assert cell([{"regularizer": "rn-emb", "sigma": 0.3, "ramp": None}, {"alpha": 1}]) == (
        "regularizer=rn-emb sigma=0.3, alpha=1"
    )
