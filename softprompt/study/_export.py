"""The runs of a study as one table for other programs: one row a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..documents import csv_table
from ..errors import BadInput
from ._failed import failed_names, failure_of
from ._grid import SEEDS
from ._spec import RunSpec
from ._stored import load
from ._texts import canonical
from .tables import SCORES, SPLITS, TableContext, shown, value, varying

FORMATS = (".csv", ".parquet", ".json", ".md", ".tex")
# Of tables of scores, which may hold a text where a number is not known.
TABLE_FORMATS = (".csv", ".tex", ".md")


def rows_of(folder: "Path | str", specs: Sequence[RunSpec]) -> list[dict[str, Any]]:
    """One row a run and its tags, in the order of the study: what varies, seeds, state, scores and cost.

    The state is "finished", "stopped early ...", "dropped ...", "failed: ..." or "missing".
    """
    store, unique = Path(folder), list({(spec.name, canonical(spec.tags)): spec for spec in specs}.values())
    context, failed = TableContext(unique), failed_names(store)
    keys = [*(varying(unique) or ("task", "method")), *_seeds(unique)]
    rows = []
    for spec in unique:
        row: dict[str, Any] = {"run": spec.name, **{key: _plain(value(spec, key, context)) for key in keys}}
        run = load(store, spec.name, whole=False, spec=spec)
        if run is None:
            state = f"failed: {failure_of(store, spec.name)}" if spec.name in failed else "missing"
            rows.append({**row, "state": state})
            continue
        scores = {f"{split} {name}": number for split, named in run.metrics.items() for name, number in named.items()}
        numbers = {"majority": run.majority, "best step": run.best_step, "token norms": run.at_best("token_norms")}
        cost = {"trainable": run.trainable, "stored numbers": run.stored, "prompt steps": run.prompt_steps}
        rows.append({**row, "state": run.status, **scores, **numbers, **cost, "seconds": run.seconds})
    return rows


def export(rows: Sequence[dict[str, Any]], path: "Path | str", formats: Sequence[str] = FORMATS) -> Path:
    """Write rows as CSV, Parquet, JSON, Markdown or LaTeX, as the end of the file's name says.

    Args:
        rows: of `rows_of`, or of `summary` and `with_reference`.
        path: of the file.
        formats: the ends that it may have.

    Raises:
        BadInput: another end, or the file exists.
        StorageFailure: it cannot be written.
    """
    from ..store import write_file

    path = Path(path)
    if path.suffix not in formats:
        raise BadInput(f"{path.name!r} ends in none of {', '.join(formats)}; give a file that does")
    columns = dict.fromkeys(name for row in rows for name in row)
    plain = [{name: None if (item := row.get(name)) != item else item for name in columns} for row in rows]
    return write_file(path, _content(plain, path.suffix), what="the table")


def _content(plain: list[dict[str, Any]], kind: str) -> bytes:
    import pandas

    from .tables import markdown

    match kind:
        case ".csv":
            # Not by pandas, which leaves a lone carriage return in a cell without quotes.
            return csv_table([plain[0], *(row.values() for row in plain)]).encode() if plain else b""
        case ".parquet":
            return pandas.DataFrame(plain).to_parquet(index=False)
        case ".json":
            return (json.dumps(plain, ensure_ascii=False, indent=1) + "\n").encode()
        case ".md":
            return (markdown(plain) + "\n").encode()
        case _:
            frame = pandas.DataFrame(shown(plain))
            texts = {name: _score_text if _is_score(name) else _plain_text for name in frame}
            styled: Any = frame.style.hide(axis="index").format(texts, na_rep="", escape="latex")
            return styled.format_index(escape="latex", axis=1).to_latex().encode()


def _is_score(column: Any) -> bool:
    return column in SCORES or column.startswith((*SPLITS, "majority"))


def _score_text(item: Any) -> str:
    return f"{item:.3f}" if isinstance(item, float) else str(item)


def _plain_text(item: Any) -> str:
    """The number without digits that say nothing, as those of a whole number that pandas has made a float of."""
    if not isinstance(item, float):
        return str(item)
    return str(int(item)) if item.is_integer() else f"{item:g}"


def best(runs: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The rows of the runs with the best validation scores, by which they are chosen; the test score stands beside.

    A run that stands in several rows, with different tags, is in the first of them.
    """
    first = {row["run"]: row for row in reversed(runs) if row.get("validation score") is not None}
    return sorted(reversed(first.values()), key=lambda row: -row["validation score"])[:count]


def _seeds(specs: Sequence[RunSpec]) -> list[str]:
    """The keys of seeds that differ between runs; those of one purpose only where they are not the seed itself."""
    values = {key: [value(spec, key) for spec in specs] for key in ("seed", *SEEDS)}
    differing = [key for key in SEEDS if key != "init_seed" and values[key] != values["seed"]]
    return [key for key in ("seed", *differing) if len(set(values[key])) > 1]


def _plain(item: Any) -> Any:
    return ", ".join(map(str, item)) if isinstance(item, tuple) else item
