"""What the tests of the command line share: its commands, a refused one, and a Python of its own."""

import subprocess
import sys

import pytest
from softprompt.cli import main

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
BASE = ["train", "--task", "glue/sst2", "--model", "some/model", "--output", "run"]
LAB = ["train", "--task", "lab/color", "--model", "lab-t5", "--output", "run"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on standard error with which a command was refused."""
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line.removeprefix("softprompt: ")
