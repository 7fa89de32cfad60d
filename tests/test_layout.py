"""Tables in a terminal of 80 columns: every number whole, every row told apart."""

import os
import pty
import re
import sys

import pytest
from softprompt.cli import main
from softprompt.cli._layout import laid_out
from softprompt.cli._several import summary
from softprompt.cli.printing import record, table
from softprompt.study import columns
from softprompt.training import Result


def in_terminal(words: list[str]) -> str:
    """What a command prints into a terminal of 80 columns."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ["COLUMNS"] = "80"
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        code = main(words)
        sys.stdout.flush()
        os._exit(code)
    printed = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        printed += part
    assert os.waitpid(process, 0)[1] == 0
    return printed.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (["methods", "list"], ["27,166,464", "1,779,456", "arXiv:2103.10385,"]),
        (["methods", "show", "residual"], ["--method-option bottleneck", "arXiv:2305.03937"]),
        (["methods", "regularizers"], ["rn-emb"]),
        (["tasks", "list"], ["lab/opinion-relabelled", "super_glue/multirc"]),
        (["tasks", "show", "glue/rte"], ["{mask}"]),
    ],
    ids=lambda given: " ".join(given[:2]),
)
def test_a_list_fits_into_80_columns_and_breaks_no_number(words: list[str], whole: list[str]):
    text = in_terminal(words)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert [piece for piece in whole if piece not in text] == []
    assert "…" not in text


def result(prompt: str, method: str, seed: int, lr: float) -> Result:
    metrics = {"validation": {"score": 0.8123}, "test": {"score": 0.7912}}
    return Result(
        run="r", prompt=prompt, task="t", method=method, seed=seed, metrics=metrics, best_step=1200, trainable=27166464,
        head=0, stored=7680, seconds=1.0, status="stopped early after step 1400", units="rms", lr=lr,
    )  # fmt: skip


def test_the_table_of_a_run_is_broken_between_columns_and_never_in_one():
    rows = summary([result(f"m{seed}-{lr}", "p-tuning-lstm", seed, lr) for lr in (0.3, 0.03) for seed in range(3)])
    text = table(rows, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert table(rows, 300) == table(rows)
    first, second = text.split("\n\n")
    # Method and units are the same in both rows: the learning rate tells them apart, in each table.
    assert [line.split()[:3] for line in first.splitlines()[1:]] == [
        ["p-tuning-lstm", "rms", lr] for lr in ("0.3", "0.03")
    ]
    assert [line.split()[:3] for line in second.splitlines()[1:]] == [
        ["p-tuning-lstm", "rms", lr] for lr in ("0.3", "0.03")
    ]
    assert "0.7912" in first


def test_where_long_names_tell_rows_apart_a_number_stands_for_them():
    names = ["setting", "note", "mean", "worst"]
    lines = [["x" * 50 + str(n), "y" * 45, "0.123456", "0.5"] for n in range(3)]
    text = laid_out(names, lines, [False, False, True, True], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(line.split()[0] in ("row", "1", "2", "3") for line in text.splitlines() if line)
    assert text.count("0.123456") == 3


def test_a_study_of_many_columns_keeps_each_interval_whole():
    numbers = {"n": 5, "dropped": 0, "mean": 0.8, "std": 0.1, "se": 0.05, "low": 0.7, "high": 0.9, "min": 0.6,
               "median": 0.8, "worst": 0.7, "stuck": 0.2, "token_norms": 3.0, "token_norms_p10": 2.0,
               "token_norms_p90": 4.0}  # fmt: skip
    rows = [{"task": task, "method": "prompt-tuning", **numbers} for task in ("lab/opinion", "lab/entailment")]
    text = laid_out(*columns(rows), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.700 .. 0.900") == text.count("3 (2 .. 4)") == 2
    assert len(re.findall(r"^lab/entailment", text, re.MULTILINE)) == text.count("\n\n") + 1


def test_a_long_value_is_broken_at_a_blank_below_itself():
    text = record({"name": "a", "labels": ", ".join(f"label{n}" for n in range(30))}, 40)
    assert max(map(len, text.splitlines())) <= 40
    assert all(line.startswith("        label") for line in text.splitlines()[2:])
