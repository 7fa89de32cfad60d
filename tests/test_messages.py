"""Messages of errors: written once with the command line's options, read in Python with its arguments."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import softprompt
import typer
from softprompt import errors, settings
from softprompt.backbones import model_name
from softprompt.cli import app
from softprompt.cli._suggest import OTHER_NAMES, meant
from softprompt.data import load_rows
from softprompt.errors import BadInput, in_python
from softprompt.inference.asked import task_of
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.tasks import custom_task
from softprompt.training._keywords import _KNOWN as KEYWORDS_OF_TRAIN

PACKAGE = Path(softprompt.__file__).parent
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


@pytest.mark.parametrize(
    ("message", "there"),
    [
        ("--prompt-length must be at least 1, not 0", "`prompt_length` must be at least 1, not 0"),
        ("give --text-column, not --metric or --seed", "give `text_columns`, not `metrics` or `seeds`"),
        ("no head; give --answers=linear-head, or a mask", "no head; give answers='linear-head', or a mask"),
        ("give --source, not --try-template", "give `sources`, not `templates`"),
        ("--embedding-scale=0.5, but 1", "embedding_scale=0.5, but 1"),
        ("go on with: softprompt train --resume runs/x", "go on with: softprompt train --resume runs/x"),
        ("finish it (softprompt train --resume x), --prompt", "finish it (softprompt train --resume x), `prompts`"),
        ("--init='text:a b': no word", "init='text:a b': no word"),
        ("--init=examples:4: too long", "init='examples:4': too long"),
        ("my--file.csv has 1 -- one -- row", "my--file.csv has 1 -- one -- row"),
    ],
)  # fmt: skip
def test_an_option_is_an_argument_in_python_and_a_command_stays_one(message: str, there: str):
    assert in_python(message) == there
    error = BadInput(message)
    assert (str(error), error.message) == (there, message)


def test_an_error_in_python_names_the_argument_that_was_given():
    with pytest.raises(BadInput, match=r"^`max_norm` must be positive and finite, in token norms, not 0.0$"):
        softprompt.PromptSettings(max_norm=0.0)
    with pytest.raises(BadInput, match=r"^give `shots` \(rows in total\) or `shots_per_class`, not both$"):
        softprompt.TrainSettings(shots=2, shots_per_class=1)
    with pytest.raises(BadInput, match=r"^give `text_columns` \(once for each column the model reads\) or a template$"):
        custom_task("rows.csv", target_column="answer")


def test_a_loaded_model_is_refused_with_what_to_do_where_a_name_is_meant(tiny_t5):
    model, _ = tiny_t5("t5")
    line = r"^a T5ForConditionalGeneration is no name of a model; pass softprompt.from_model\(model, tokenizer\)$"
    with pytest.raises(BadInput, match=line):
        model_name(model)
    with pytest.raises(BadInput, match=r"^a int is no name of a model; give a hub id, a folder or a backbone$"):
        model_name(3)
    assert model_name("some/model") == model_name(Path("some/model")) == "some/model"


def messages() -> Iterator[tuple[str, str]]:
    """Where, and the constant parts of each message that an error of ours is made with."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) in ERRORS and node.args:
                texts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                yield (
                    f"{path.relative_to(PACKAGE)}:{node.lineno}",
                    " ".join(text for text in texts if isinstance(text, str)),
                )


def options_of(command: Any) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    return {name for parameter in command.params for name in parameter.opts}.union(*map(options_of, inner))


# What no command calls, so that its messages speak of arguments.
ONLY_IN_PYTHON = ("interop/as_peft.py", "interop/trainer.py", "estimators.py")
# What no Python program calls.
ONLY_AT_THE_COMMAND_LINE = ("cli/", "serving/http/")
# Options of other programs that a message tells to run.
OF_OTHERS = {"--no-deps", "--force-reinstall", "--merge"}


def test_every_option_that_a_message_names_exists():
    known = options_of(typer.main.get_command(app)) | OF_OTHERS
    named = {(place, option) for place, text in messages() for option in re.findall(r"--[a-z][a-z-]*[a-z]", text)}
    assert len(named) > 50
    assert [pair for pair in sorted(named) if pair[1] not in known] == []


def test_no_message_writes_an_option_as_an_argument_of_python():
    options = {name.lstrip("-").replace("-", "_") for name in options_of(typer.main.get_command(app))}
    # What a loaded model was loaded with, which only Python can ask for; and keys of KEY=VALUE, the same in both.
    in_both = {"embedding_scale", "engine", "quantize", "template", "units", "alpha", "method"}
    wrong = []
    for place, text in messages():
        if place.partition(":")[0] in ONLY_IN_PYTHON:
            continue
        words = re.findall(r"\b([a-z]+_[a-z_]+)\b", text) + re.findall(r"(?<!-)\b([a-z_]+)=(?!=)", text)
        wrong += [(place, word) for word in words if word in options - in_both]
    assert wrong == []


def public_functions() -> set[Any]:
    modules = [info.name for info in pkgutil.walk_packages([str(PACKAGE)], "softprompt.") if "._" not in info.name]
    found = [pair for name in modules for pair in inspect.getmembers(importlib.import_module(name), inspect.isfunction)]
    return {function for _, function in found if not function.__module__.startswith("softprompt.cli")}


def test_every_argument_that_a_message_names_in_python_exists():
    functions = public_functions()
    known = {function.__name__ for function in functions}
    known = known.union(*(inspect.signature(function).parameters for function in functions))
    classes = (kind for kind in vars(settings).values() if dataclasses.is_dataclass(kind))
    known |= {field.name for kind in classes for field in dataclasses.fields(kind)} | KEYWORDS_OF_TRAIN
    named = {
        (place, in_python(option).strip("`"))
        for place, text in messages()
        if not place.startswith(ONLY_AT_THE_COMMAND_LINE)
        for option in {*re.findall(r"--[a-z][a-z-]*[a-z]", text)} - OF_OTHERS
    }
    assert [pair for pair in sorted(named) if pair[1] not in known] == []


# Options of a command alone, and those that an argument of other values, or the first one, stands for.
OF_THE_COMMAND = {
    "train": {"alpha", "init_seed", "order_seed", "draw_seed", "noise_seed", "resume", "track"},
    "tune": set(),
}


@pytest.mark.parametrize("command", OF_THE_COMMAND)
def test_an_option_of_a_command_is_an_argument_of_its_function(command: str):
    options = options_of(typer.main.get_command(app).commands[command])  # pyright: ignore[reportAttributeAccessIssue]
    named = {in_python(option).strip("`") for option in options if option.startswith("--")}
    known = {*inspect.signature(getattr(softprompt, command)).parameters, *KEYWORDS_OF_TRAIN}
    assert named - known == OF_THE_COMMAND[command] | {"files", "json", "quiet", "task_option"}


@pytest.mark.parametrize("there", OTHER_NAMES)
def test_what_another_tool_calls_an_option_leads_to_ours(there: str):
    program: Any = typer.main.get_command(app)
    commands = [program.commands["train"], program.commands["landscape"], program.commands["study"].commands["run"]]
    ours = f"--{OTHER_NAMES[there]}"
    options = next(options for command in commands if ours in (options := options_of(command)))
    assert f"--{there}" not in options
    assert meant(f"--{there}", options) == ours


def test_a_style_for_a_task_of_own_rows_is_refused_with_what_there_is_instead(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    own = custom_task(str(tmp_path / "rows.csv"), text_columns=["text"], label_column="label")
    prompt = SoftPrompt.__new__(SoftPrompt)
    object.__setattr__(
        prompt, "provenance", Provenance("x", BackboneIdentity("m", "encoder-decoder", 16), task=own.to_json())
    )
    with pytest.raises(BadInput) as caught:
        task_of(prompt, style="t5")
    assert caught.value.message == (
        "task 'custom/rows' is of your own rows, which have no style 't5'; leave --style out, and give --template or "
        "--label-words for other words"
    )


def test_a_preparation_that_is_not_registered_is_no_fault_of_a_row(tmp_path: Path):
    (tmp_path / "rows.csv").write_text("text,label\na,x\nb,y\n")
    own = custom_task(str(tmp_path / "rows.csv"), text_columns=["text"], label_column="label")
    own = dataclasses.replace(own, prepare="shout")
    prompt = SoftPrompt.__new__(SoftPrompt)
    identity = BackboneIdentity("m", "encoder-decoder", 16)
    object.__setattr__(prompt, "provenance", Provenance("x", identity, task=own.to_json()))
    what = "^unknown preparation 'shout'.* If it is your own, put it into softprompt.tasks.PREPARATIONS in the program"
    for use in (lambda: task_of(prompt), lambda: load_rows(own)):
        with pytest.raises(BadInput, match=what):
            use()


def test_a_file_as_the_task_of_a_stored_prompt_is_its_own_task_on_these_rows(tmp_path: Path, monkeypatch):
    rows, others = tmp_path / "rows.csv", tmp_path / "others.csv"
    for path in (rows, others):
        path.write_text("text,label\na,x\nb,y\n")
    own = custom_task(str(rows), text_columns=["text"], label_column="label")
    identity = BackboneIdentity("m", "encoder-decoder", 16)
    prompt = SoftPrompt.__new__(SoftPrompt)
    object.__setattr__(prompt, "provenance", Provenance("x", identity, task=own.to_json()))
    assert task_of(prompt, str(rows)) == task_of(prompt) == own
    monkeypatch.chdir(tmp_path)
    assert task_of(prompt, "rows.csv") == own
    other = task_of(prompt, "others.csv")
    assert (other.labels, other.source.files) == (own.labels, {"test": "others.csv"})
    with pytest.raises(BadInput, match=r"^no file 'absent.csv'; give one that exists, or leave `task` out"):
        task_of(prompt, "absent.csv")
    object.__setattr__(prompt, "provenance", Provenance("x", identity))
    with pytest.raises(BadInput, match=r"^this prompt records no task that 'rows.csv' could hold rows of"):
        task_of(prompt, "rows.csv")


def test_the_tree_of_errors_that_is_drawn_is_the_one_there_is():
    drawn, path = {}, ["Exception"]
    for line in (errors.__doc__ or "").split("\n\n")[1].splitlines():
        indent, name = re.match(r"(\W*)(\w+)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
        path[len(indent) // 4 + 1 :] = [name]
        drawn[name] = path[-2]
    assert drawn == {name: getattr(errors, name).__bases__[0].__name__ for name in ERRORS}
