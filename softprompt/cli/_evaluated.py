"""An evaluation as people read it in a terminal: tables of at most 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .printing import table

if TYPE_CHECKING:
    from ..inference.class_scores import ClassScores
    from ..inference.report import Report

WIDTH = 80
# A label is cut to so many characters, as a column's head to fewer.
LABEL, HEAD = 30, 12
# So many classes, or pairs of them, are shown; --json has all.
MOST_CLASSES, MOST_PAIRS = 30, 10


def in_words(report: "Report") -> str:
    """Metrics with their intervals, each class, and which classes are answered in the place of which."""
    parts = [_metrics(report)]
    if report.classes is not None:
        parts += [_classes(report.classes), _confusion(report.classes)]
    return "\n\n".join(part for part in parts if part)


def _metrics(report: "Report") -> str:
    rows: list[dict[str, Any]] = [
        {"metric": name, "value": value, "95 % interval": _ends(report.intervals.get(name))}
        for name, value in report.metrics.items()
    ]
    if report.calibration_error is not None:
        rows.append({"metric": "calibration error", "value": report.calibration_error, "95 % interval": ""})
    drawn = "" if report.of is None else f" drawn of {report.of:,}"
    return f"{table(rows)}\n{report.n:,} rows{drawn}, {report.invalid:,} invalid answers"


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


def _classes(classes: "ClassScores") -> str:
    rows = classes.by_class()
    rows = [{**row, "label": name} for row, name in zip(rows, apart(classes.labels, LABEL), strict=True)]
    worst = sorted(rows, key=lambda row: row["f1"])[:MOST_CLASSES] if len(rows) > MOST_CLASSES else rows
    body = table(worst)
    if len(rows) == len(worst):
        return body
    return f"{body}\nthe {MOST_CLASSES} of {len(rows)} classes with the lowest F1; --json has all"


def _confusion(classes: "ClassScores") -> str:
    """The matrix, or, where it is too wide, the pairs that are confused most often."""
    answered, matrix = apart(classes.labels, HEAD), []
    for label, counts, invalid in zip(answered, classes.confusion, classes.invalid, strict=True):
        row = {"is \\ answered": label, **dict(zip(answered, counts, strict=True))}
        matrix.append({**row, "no label": invalid} if any(classes.invalid) else row)
    text = table(matrix)
    return text if max(map(len, text.splitlines())) <= WIDTH else _pairs(classes)


def _pairs(classes: "ClassScores") -> str:
    labels = apart(classes.labels, LABEL)
    pairs = [
        {"is": labels[i], "answered": labels[j], "rows": count}
        for i, counts in enumerate(classes.confusion)
        for j, count in enumerate(counts)
        if i != j and count
    ]
    most = sorted(pairs, key=lambda pair: -pair["rows"])[:MOST_PAIRS]
    return table(most) if most else ""


def apart(labels: Sequence[str], width: int) -> list[str]:
    """The labels in so many characters each, no two alike.

    Their ends are cut away; where that leaves two alike, their middles; and else each has its number before it.
    """
    for cut in (short, _without_middle):
        found = [cut(label, width) for label in labels]
        if len(set(found)) == len(found):
            return found
    return [f"{number} {short(label, width - len(str(number)) - 1)}" for number, label in enumerate(labels)]


def _without_middle(text: str, width: int) -> str:
    text = " ".join(text.split())
    end = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - end]}…{text[-end:]}"


def short(text: str, width: int) -> str:
    """The text in so many characters, its end cut away and a line end written as a blank."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
