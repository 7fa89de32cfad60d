"""An analysis of trained prompts: what it computes, how it is drawn, and how it is told in a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._bench import Bench

Values = Mapping[str, Any]
# Options that an analysis may have no use for, each with the reason.
NO_ROWS: dict[str, str] = dict.fromkeys(("rows", "split", "seed", "data_root"), "reads no rows")
NO_MODEL: dict[str, str] = dict.fromkeys(("model", "device"), "asks no model")


def short(values: Values) -> list[str]:
    """The names of the prompts, without that of their run where all are of one."""
    labels = [str(prompt["prompt"]) for prompt in values["prompts"]]
    one_run = len({label.rpartition("/")[0] for label in labels}) == 1
    return [label.rpartition("/")[2] if one_run else label for label in labels]


@dataclass(frozen=True)
class Analysis:
    """One line of ANALYSES.

    Args:
        summary: what it shows, and where that is from.
        compute: the numbers, as plain values that JSON can hold.
        draw: a figure of these values, from the module of figures.
        rows: the same as a short table.
        ignores: options that say nothing to it, each with the reason.
        reads_records: whether what training recorded is enough, so that no vectors are read.
        warning: what a reader of the values should know; None where it is nothing.
    """

    summary: str
    compute: Callable[[Bench], Values]
    draw: Callable[[Values, Any], Any]
    rows: Callable[[Values], Sequence[dict[str, Any]]]
    ignores: Mapping[str, str] = field(default_factory=dict)
    reads_records: bool = False
    warning: Callable[[Values], str | None] = lambda values: None
