"""The exceptions of softprompt, one tree: what was given, what was needed, what to do, in one line.

SoftPromptError
├── UnknownName       a task, method, metric, column ... that does not exist; names the nearest
├── BadInput          data, options or files that cannot be used as given
│   └── OtherInputs   a model or a file that changed since runs of a study were begun with it
├── UnsupportedModel  a backbone that lacks what the task needs
├── ModelMismatch     a prompt of another backbone
├── DamagedFile       a stored file whose content is not what was written
├── CannotExport      a prompt that the target format cannot express
├── RunExists         a run folder that already holds another run
├── OutOfMemory       not even one row fits
├── StorageFailure    the disk is full or not writable
├── NotTrainable      the prompt cannot learn through this backbone
├── CallbackFailed    a callback of the user raised
├── Interrupted       Ctrl-C or SIGTERM
├── RunsFailed        some runs of a study
└── LeaseLost         another process has taken over a run of a study

What only a server answers with stands below `softprompt.serving`: Overloaded, TooLate, Draining, TooLong, NotServed.
The command line prints a SoftPromptError without a traceback and exits with its `exit_code`, 2 if not said otherwise.

A message is written once and read in two places. It names options as the command line does, `--prompt-length` or
`--answers=linear-head`; a Python program reads `prompt_length` and answers='linear-head' there. What begins with
`softprompt ` is a command, and stays one.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, TypeVar

T = TypeVar("T")


# Options whose argument in Python has another name.
_ARGUMENTS = {
    "data": "files",
    "prompt": "prompts",
    "method_option": "options",
    "metric": "metrics",
    "seed": "seeds",
    "source": "sources",
    "text_column": "text_columns",
    "try_template": "templates",
}
# A command up to its end, or an option with its value.
_COMMAND = r"(?:softprompt|pip|llama-gguf-split) [a-z-][^;)]*"
_OPTION = re.compile(_COMMAND + r"|(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])(?:=('[^']*'|(?:[^\s;:,)]|:(?=\S))+))?")


def in_python(message: str) -> str:
    """The message with Python's arguments in the place of the command line's options."""

    def argument(option: re.Match[str]) -> str:
        if option[1] is None:
            return option[0]
        name = option[1].replace("-", "_")
        name = _ARGUMENTS.get(name, name)
        if option[2] is None:
            return f"`{name}`"
        is_plain = re.fullmatch(r"'.*'|[-+.0-9e]+", option[2])
        return f"{name}={option[2] if is_plain else repr(option[2])}"

    return _OPTION.sub(argument, message)


# What a terminal obeys or hides: control characters, marks that turn the direction of text, halves of characters.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Longest message; what is longer quotes a file, and the end of the line says what to do.
LONGEST, END = 1500, 500


def quoted(path: object) -> str:
    """A path as a shell takes it, for commands in messages."""
    return shlex.quote(str(path))


def some_of(names: Sequence[str], most: int = 5) -> str:
    """The names as a message lists them: at most so many of them, and how many more there are."""
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return ", ".join([*names[:most], *more])


def visible(text: str, kept: str = "") -> str:
    """The text with what a terminal would obey written out: names and labels come from files.

    Args:
        text: of any origin.
        kept: characters that stay as they are, such as the end of a line.
    """
    return _INVISIBLE.sub(lambda match: match[0] if match[0] in kept else repr(match[0])[1:-1], text)


def visible_json(text: str) -> str:
    """A line of JSON with these characters in JSON's own spelling."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _one_line(text: str) -> str:
    """A message as a line that can be shown anywhere."""
    line = visible(text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - END]} [...] {line[-END:]}"


class SoftPromptError(Exception):
    """An error that the user can correct."""

    exit_code: ClassVar[int] = 2

    @property
    def message(self) -> str:
        """The message with the options of the command line."""
        return _one_line(str(self.args[0])) if self.args else ""

    def __str__(self) -> str:
        """The line for a Python program, with the arguments' names."""
        return in_python(self.message)


# So many names are searched for the nearest.
MOST_COMPARED = 200


class UnknownName(SoftPromptError, LookupError):
    """A name that is not in its table. The message gives the nearest name where there are not too many.

    Args:
        kind: what the name is of.
        name: that was given.
        known: names of the table.
        place: where it was given, with which the message begins; empty where that is clear.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], place: str = ""):
        names = sorted(known)
        # The search takes a moment for each name, and a server answers nobody else meanwhile.
        close = difflib.get_close_matches(name, names, n=1) if len(names) <= MOST_COMPARED else ()
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(names)}."
        super().__init__(f"{place}{': ' if place else ''}unknown {kind} {name!r}. {hint}")


class BadInput(SoftPromptError, ValueError):
    """Data, an option or a file that cannot be used as given."""


class OtherInputs(BadInput):
    """A model or a file that is not the one of its name that runs of the store were begun with."""


class UnsupportedModel(SoftPromptError, ValueError):
    """A backbone that lacks what the task needs."""


class ModelMismatch(SoftPromptError, ValueError):
    """A prompt that was trained for another backbone."""


class DamagedFile(SoftPromptError, ValueError):
    """A stored file whose content has changed since it was written."""


class CannotExport(SoftPromptError, ValueError):
    """A prompt that the target format cannot express."""


class RunExists(SoftPromptError, FileExistsError):
    """A run folder that already holds another run."""


class OutOfMemory(SoftPromptError, MemoryError):
    """Not even one row of a pass fits into memory."""


class StorageFailure(SoftPromptError, OSError):
    """The disk is full or not writable; what was stored before is intact."""


class NotTrainable(SoftPromptError, RuntimeError):
    """The prompt cannot learn through this backbone: no gradient arrives."""


class CallbackFailed(SoftPromptError, RuntimeError):
    """A callback of the user raised; the run stopped at that step, with a checkpoint."""


class Interrupted(SoftPromptError):
    """Ctrl-C or SIGTERM: a checkpoint is saved; the message says how to go on."""

    exit_code = 130


class RunsFailed(SoftPromptError):
    """Some runs of a study failed; all others are stored."""


class LeaseLost(SoftPromptError):
    """Another process has taken over, because this one did not renew its lease in time."""


def pick(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry of `table` called `name`.

    Raises:
        UnknownName: with the nearest known name.
    """
    if name not in table:
        raise UnknownName(kind, name, table)
    return table[name]
