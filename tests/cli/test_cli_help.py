"""Help of the command line: what every command names, and what it imports."""

import dataclasses
import re
import runpy
import sys
from typing import Any

import pytest
import softprompt
import typer
from softprompt.cli import app, main
from softprompt.settings import TrainSettings

from cli_kit import COMMANDS, python

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


def test_python_can_run_the_package_as_the_command(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["softprompt", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("softprompt", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out == f"softprompt {softprompt.__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["tasks", "list"], ["tasks", "show", "glue/rte"]])
def test_light_commands_import_nothing_heavy(words: list[str]):
    heavy = ("torch", "transformers", "datasets", "numpy", "pandas")
    found = python(
        "import sys; from softprompt.cli import main\n"
        f"code = main({words!r}); print([m for m in {heavy!r} if m in sys.modules], code)"
    )
    assert found.stdout.splitlines()[-1] == "[] 0"


def test_tune_names_its_own_defaults_where_they_are_not_those_of_train(capsys: pytest.CaptureFixture[str]):
    assert main(["tune", "--help"]) == 0
    text = " ".join(re.sub("[│\n]", " ", capsys.readouterr().out).split())
    for default in ("with --trials 1000", "Default: a fifth of the steps", "Default, and the most: 1000"):
        assert default in text
    assert "as many as the epochs have" not in text
    assert text.count("--eval-every") == text.count("--test-rows") == 1


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
