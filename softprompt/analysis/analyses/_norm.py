"""The norm of a prompt over training, beside its validation score (EPT, equation 4 and figures 2 and 11)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...documents import line_places
from ...errors import BadInput
from ...prompts.units import BAND
from ...run_layout import METRICS, is_run
from ...training import damaged_lines, read_plan, read_record
from ..geometry import norm_curve
from ..subjects import chosen_names, distinct_labels, refuse_choice
from ._base import NO_MODEL, NO_ROWS, Analysis, Values, short
from ._bench import Bench
from ._recorded import Recorded


def run_folders(paths: Sequence["str | Path"], prompts: Sequence[str] = ()) -> Iterator[tuple[str, str, Path]]:
    """The name, the task and the folder of each prompt of some runs, finished or not.

    Raises:
        BadInput: a path is neither a run nor a prompt's folder in one.
        UnknownName: a run has no prompt of a given name.
    """
    for path in map(Path, paths):
        run = path.resolve()
        if is_run(path):
            plan = read_plan(path)
            for name in chosen_names(path, plan, prompts):
                yield f"{run.name}/{name}", plan.task.name, path / name
        elif (path / METRICS).is_file():
            refuse_choice(path, prompts)
            task = read_plan(run.parent).task.name if is_run(run.parent) else ""
            yield f"{run.parent.name}/{run.name}", task, path
        else:
            raise BadInput(f"{str(path)!r} is no run; this analysis reads the records of training, so give runs")


def compute(bench: Bench) -> Values:
    """Norms over the steps in token norms, and the validation scores, of each prompt."""
    found = list(run_folders(bench.paths, bench.prompts))
    named = [*((label, task) for label, task, _ in found), *((run.label, run.task.name) for run in bench.recorded)]
    curves = [*(_of_folder(folder) for _, _, folder in found), *map(_of_record, bench.recorded)]
    by_label = dict(zip(distinct_labels(named), curves, strict=True))
    missing = [str(path) for _, _, folder in found if not (path := folder / METRICS).is_file()]
    if not any(by_label.values()):
        raise BadInput(f"none of the runs recorded a prompt norm{_told(missing)}; give runs that trained a prompt")
    return {
        "band": list(BAND),
        "prompts": [{"prompt": label, **curve} for label, curve in by_label.items() if curve],
        "without_norm": [label for label, curve in by_label.items() if not curve],
        "missing": missing,
    }


def _told(missing: Sequence[str]) -> str:
    return f" (missing: {', '.join(missing)})" if missing else ""


def _of_folder(folder: Path) -> dict[str, Any] | None:
    """What training recorded of a prompt; None where that is no norm, as of one that was dropped at its first step."""
    try:
        curve = norm_curve(folder)
    except BadInput:
        return None
    scores = [row for row in read_record(folder / METRICS) if row.get("split") == "validation"]
    known = [norm for norm in curve.token_norms if norm is not None]
    return {
        "step": list(curve.steps),
        "raw": list(curve.raw),
        "token_norms": list(curve.token_norms) if len(known) == len(curve.steps) else None,
        "evaluated": [row["step"] for row in scores],
        "score": [row["score"] for row in scores],
        "damaged_lines": damaged_lines(folder / METRICS),
    }


def _of_record(run: Recorded) -> dict[str, Any] | None:
    if not run.norms:
        return None
    return {
        "step": list(run.steps),
        "raw": list(run.norms),
        "token_norms": None if run.token_norms is None else list(run.token_norms),
        "evaluated": list(run.evaluated),
        "score": list(run.scores),
        "damaged_lines": [],
    }


def draw(values: Values, figures: Any) -> Any:
    """Norms above, scores below, over the same steps."""
    named = list(zip(short(values), values["prompts"], strict=True))
    norms = {name: (p["step"], p["token_norms"] or p["raw"]) for name, p in named}
    scores = {name: (p["evaluated"], p["score"]) for name, p in named}
    return figures.norm_and_score_figure(norms, scores, band=tuple(values["band"]))


def rows(values: Values) -> list[dict[str, Any]]:
    """The first, largest and last norm of each prompt."""
    return [
        {"prompt": p["prompt"], "first": norms[0], "largest": max(norms), "last": norms[-1],
         "best score": max(p["score"], default=None)}
        for p in values["prompts"]
        for norms in [p["token_norms"] or p["raw"]]
    ]  # fmt: skip


def warning(values: Values) -> str | None:
    """Which lines of which records are left out, because they are damaged, and which runs have no norm."""
    told = []
    damaged = [f"{p['prompt']} in {line_places(p['damaged_lines'])}" for p in values["prompts"] if p["damaged_lines"]]
    if damaged:
        told.append(f"damaged lines of records are left out: {'; '.join(damaged)}")
    if values["without_norm"]:
        without = ", ".join(values["without_norm"]) + _told(values["missing"])
        told.append(f"runs that recorded no prompt norm are left out: {without}")
    return "; ".join(told) or None


NORM = Analysis(
    "norm over training in token norms, beside the score (EPT, figures 2 and 11)",
    compute, draw, rows, reads_records=True, ignores=NO_ROWS | NO_MODEL, warning=warning,
)  # fmt: skip
