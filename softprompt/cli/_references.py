"""The table that compares prompts with the frozen model on the same rows."""

from typing import TYPE_CHECKING, Any

from .printing import table

if TYPE_CHECKING:
    from ..training import Comparison


def comparison_table(comparison: "Comparison", width: int | None = None) -> str:
    """The frozen model without training, and below it the prompts with their difference to what was written."""
    column = f"minus {comparison.reference}"
    rows: list[dict[str, Any]] = [
        {"on the same rows": named(line), "score": line.score, "95 % interval": ends(line.interval), column: ""}
        for line in comparison.baselines
    ]
    rows += [
        {
            "on the same rows": prompt.name,
            "score": prompt.score,
            "95 % interval": ends(prompt.interval),
            column: f"{prompt.difference:+.3f} ({ends(prompt.difference_interval, sign='+')})",
        }
        for prompt in comparison.prompts
    ]
    of = "" if comparison.rows == comparison.of else f" drawn of {comparison.of:,}"
    return f"{table(rows, width)}\n{comparison.rows:,} test rows{of}"


def named(line: Any) -> str:
    """A baseline by its name, and by its draw where there are several."""
    return line.name if line.draw is None else f"{line.name}, draw {line.draw + 1}"


def ends(interval: tuple[float, float] | None, sign: str = "") -> str:
    """Both ends of an interval."""
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"
