"""The program: its subcommands, and the exit codes of errors."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ..documents import limited, limits, raise_limits
from ..errors import Interrupted, SoftPromptError, visible
from ._analyze import analyze
from ._bank import bank
from ._demo import demo
from ._doctor import doctor
from ._evaluate import evaluate
from ._export import compile_, export
from ._frozen import frozen
from ._import import import_
from ._lab import lab
from ._landscape import landscape
from ._methods import methods
from ._predict import predict
from ._report import report
from ._serve import serve
from ._show import show
from ._stability import stability
from ._study import study
from ._suggest import explained
from ._tasks import tasks
from ._train import train
from ._tune import tune
from ._watch import board, watch
from .printing import say

# Failures of a disk that takes no more, or nothing.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

app = typer.Typer(
    name="softprompt",
    help="Train, evaluate and use soft prompts: a few thousand parameters that adapt a frozen language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo)
app.command("train")(train)
app.command("tune")(tune)
app.command("evaluate")(evaluate)
app.command("predict")(predict)
app.command("frozen")(frozen)
app.command("export")(export)
app.command("compile")(compile_)
app.command("import")(import_)
app.command("show")(show)
app.command("doctor")(doctor)
app.command("landscape")(landscape)
app.command("report")(report)
app.command("analyze")(analyze)
app.command("stability")(stability)
app.command("watch")(watch)
app.command("board")(board)
app.command("serve")(serve)
app.command("bank")(bank)
app.add_typer(tasks, name="tasks")
app.add_typer(methods, name="methods")
app.add_typer(lab, name="lab")
app.add_typer(study, name="study")


def _print_version(is_wanted: bool) -> bool:
    if is_wanted:
        from importlib.metadata import version

        print(f"softprompt {version('softprompt')}")
        raise typer.Exit
    return is_wanted


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Raise a limit on what files may hold (docs/formats.md), as labels=20000; may be repeated.",
        ),
    ] = None,
) -> None:
    """Train, evaluate and use soft prompts: a few thousand parameters that adapt a frozen language model."""
    raise_limits(**dict(map(limited, limit or ())))


class _Visible(logging.Formatter):
    """Formats lines so that control characters in names from files cannot act on the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), kept="\n")


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Within, warnings of the library appear on standard error as it is now, one line each."""
    log = logging.getLogger("softprompt")
    handler = logging.StreamHandler()
    handler.setFormatter(_Visible("softprompt: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 2 for what the user can put right (one line, no traceback), or 130 after Ctrl-C.

    Args:
        arguments: words after `softprompt`; None takes those of the process.
    """
    return run_app(app, "softprompt", arguments)


def run_app(program: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command of any program that is built like this one; its exit code, as `main` has it.

    Args:
        program: its subcommands.
        name: how it is started, for its help.
        arguments: words after the name; None takes those of the process.
    """
    with _log_to_stderr(), limits():
        return _exit_code(program, name, arguments)


def _exit_code(program: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """The command, its errors turned into exit codes."""
    try:
        words = [_with_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
        code = program(args=words, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except SoftPromptError as error:
        say(f"softprompt: {error.message}")
        return error.exit_code
    except TyperException as error:
        # Empty where no subcommand was given: the help is printed by then.
        if line := explained(error):
            say(f"softprompt: {line}")
        return 2
    except BrokenPipeError:
        # The reader of the pipe has ended (`| head`).
        _drop_output()
        return 1
    except OSError as error:
        if error.filename is not None:
            say(f"softprompt: {error.filename}: {error.strerror}")
        elif error.errno in _FULL:
            # What a command writes to files of its own is a StorageFailure: this is standard output.
            say(f"softprompt: cannot write the output: {error.strerror}; free some space, or write elsewhere")
            _drop_output()
        else:
            raise
        return 2
    # typer turns Ctrl-C into 130, and returns what a command returned, which is None.
    if code == Interrupted.exit_code:
        say("softprompt: interrupted; give the command again")
    return code or 0


def _with_home(word: str) -> str:
    """A word of the command with the home folder in `--option=~/path`, as shells have it in `--option ~/path`."""
    option, sign, path = word.partition("=")
    return (
        f"{option}={os.path.expanduser(path)}" if sign and option.startswith("--") and path.startswith("~/") else word
    )


def _drop_output() -> None:
    """Let standard output lead nowhere: Python would report its failure again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
