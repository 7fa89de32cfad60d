"""What the command line lists: methods and tasks."""

import json
import re

import pytest
from softprompt.cli import main
from softprompt.tasks import TASKS, Task, with_difficulty


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


@pytest.mark.parametrize(("method", "option"), [("cartridge", "text"), ("lora", "targets")])
def test_an_option_of_a_method_is_shown_although_its_default_is_empty(
    method: str, option: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["methods", "show", method]) == 0
    assert re.search(rf"(?m)^--method-option {option} +\(empty\)$", capsys.readouterr().out)


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
