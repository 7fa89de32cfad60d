"""A finished run in a notebook: its records as a DataFrame, and a table with the curves of validation scores."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..run_layout import METRICS
from ._records import read_record

if TYPE_CHECKING:
    from pandas import DataFrame

# Width and height of the drawing, and the colours of the prompts, which repeat.
WIDTH, HEIGHT, MARGIN = 480, 160, 24
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def history(folder: Path, prompts: Sequence[str]) -> "DataFrame":
    """What was recorded of each prompt, one row a step and one an evaluation.

    The columns are `prompt`, `step`, `split` ("train" at a step, "validation" at an evaluation), and each recorded
    quantity by its name, as `loss`, `lr`, `token_norms` and `score`.

    Args:
        folder: of the run.
        prompts: their folders in it.
    """
    import pandas as pd

    rows = [
        {"prompt": prompt, "step": row["step"], "split": row.get("split", "train"), **row}
        for prompt in prompts
        for row in read_record(folder / prompt / METRICS)
    ]
    return pd.DataFrame(rows, columns=None if rows else ["prompt", "step", "split", "loss", "score"])


def html_of(folder: Path, results: Sequence[Any]) -> str:
    """The run as HTML: a table of its prompts, and the validation score of each over the steps."""
    curves = {
        result.prompt: [
            (row["step"], row["score"])
            for row in read_record(folder / result.prompt / METRICS)
            if row.get("split") == "validation"
        ]
        for result in results
    }
    colours = {result.prompt: COLOURS[place % len(COLOURS)] for place, result in enumerate(results)}
    return f"<div><p>{escape(str(folder))}</p>{_table(results, colours)}{_drawn(curves, colours)}</div>"


def _table(results: Sequence[Any], colours: Mapping[str, str]) -> str:
    names = ("prompt", "best step", "validation", "test", "status")
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    body = ""
    for result in results:
        scores = [_score(result.metrics.get(split, {}).get("score")) for split in ("validation", "test")]
        cells = [str(result.best_step), *scores, result.status]
        mark = f"<span style='color:{colours[result.prompt]}' aria-hidden='true'>&#9632;</span> "
        first = f"<th scope='row'>{mark}{escape(result.prompt)}</th>"
        body += f"<tr>{first}{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _score(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"


def _drawn(curves: Mapping[str, Sequence[tuple[int, float]]], colours: Mapping[str, str]) -> str:
    """The curves as SVG; nothing where no prompt was scored twice."""
    points = [point for curve in curves.values() for point in curve]
    steps, scores = [step for step, _ in points], [score for _, score in points]
    if len(set(steps)) < 2:
        return ""
    low, high = min(scores), max(scores)
    right, spread = max(steps), (high - low) or 1.0

    def place(step: int, score: float) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / right
        return f"{x:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (score - low) / spread:.1f}"

    lines = "".join(
        f"<polyline fill='none' stroke-width='2' stroke='{colours[prompt]}' "
        f"points='{' '.join(place(*point) for point in curve)}'><title>{escape(prompt)}</title></polyline>"
        for prompt, curve in curves.items()
    )
    label = f"validation score over steps, from {low:.3f} to {high:.3f}"
    texts = (
        f"<text x='{MARGIN}' y='{MARGIN - 8}' font-size='11'>{high:.3f}</text>"
        f"<text x='{MARGIN}' y='{HEIGHT - 6}' font-size='11'>{low:.3f}; step 0 to {right}</text>"
    )
    return f"<svg role='img' aria-label='{label}' width='{WIDTH}' height='{HEIGHT}'>{texts}{lines}</svg>"
