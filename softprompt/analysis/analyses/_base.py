"""An analysis of trained prompts: what it computes, how it is drawn, and how it is told in a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._bench import Bench

Values = Mapping[str, Any]


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
    """

    summary: str
    compute: Callable[[Bench], Values]
    draw: Callable[[Values, Any], Any]
    rows: Callable[[Values], Sequence[dict[str, Any]]]
