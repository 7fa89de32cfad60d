"""From stored runs to tables: groups of runs in numbers, paired differences, Markdown. No torch here."""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, final

from ..checks import listed
from ..documents import in_markdown
from ..errors import BadInput, UnknownName
from ..metrics import is_stuck
from ..settings import PromptSettings, TrainSettings
from ..tasks import Task, TaskNames
from ._grid import KEYS, SEEDS
from ._spec import RunSpec
from ._stored import StoredRun
from .statistics import bootstrap, settled, wilcoxon

Row = dict[str, Any]

_SPEC = {f.name for f in dataclasses.fields(RunSpec)} - {"task", "prompt", "settings", "tags"}
_PROMPT = {f.name for f in dataclasses.fields(PromptSettings)} - {"seeds"}
_SEEDS = {**SEEDS, "seed": "initialization"}
_SETTINGS = {f.name for f in dataclasses.fields(TrainSettings)}

# Columns of `summary`, `compare` and exported rows, as they are computed and as they are printed.
_COLUMNS = frozenset((
    "n", "dropped", "mean", "std", "se", "low", "high", "95 %", "min", "median", "worst", "stuck",
    "token_norms", "token_norms_p10", "token_norms_p90", "token norms", "paper", "difference",
    "against", "unpaired", "wins", "ties", "losses", "p",
    "run", "state", "majority", "best step", "trainable", "stored numbers", "prompt steps", "seconds",
))  # fmt: skip
# What columns of exported scores begin with.
SPLITS = ("train ", "validation ", "test ")


def is_column(name: str) -> bool:
    """Whether tables have a key or a column of this name, so that a tag of the name would take its place."""
    return name in KEYS or name in _COLUMNS or name.startswith(SPLITS)


def tags_of(specs: Iterable[RunSpec]) -> frozenset[str]:
    """The tags that any of these runs has."""
    return frozenset(tag for spec in specs for tag in spec.tags)


@final
class TableContext:
    """What the value of a key depends on beside its run: the other runs of a table.

    Args:
        specs: of all runs of the table.
    """

    def __init__(self, specs: Iterable[RunSpec] = ()):
        specs = list(specs)
        self.tags = tags_of(specs)
        self._names = TaskNames(spec.declared for spec in specs)

    def task(self, task: Task) -> str:
        """The name of a task, with what differs where tasks of one name are not the same."""
        return self._names.of(task)


_ALONE = TableContext()


def value(spec: RunSpec, key: str, context: TableContext = _ALONE) -> Hashable:
    """A run's value of a key: "task", "seed", any field of its spec, prompt or settings, "options.NAME" or a tag.

    Args:
        spec: the run.
        key: name of the value.
        context: the runs beside it; the value of a tag of theirs that this run lacks is None.

    Raises:
        UnknownName: no such key.
    """
    if key in spec.tags:
        return _hashable(spec.tags[key])
    for names, part in ((_SETTINGS, spec.settings), (_PROMPT, spec.prompt), (_SPEC, spec)):
        if key in names:
            return _hashable(getattr(part, key))
    if key == "task":
        return context.task(spec.declared)
    if key in _SEEDS:
        return getattr(spec.prompt.seeds, _SEEDS[key])
    first, dot, rest = key.partition(".")
    if dot and first in ("options", "backbone"):
        return _hashable((spec.prompt.options if first == "options" else spec.backbone).get(rest))
    if key in context.tags:
        return None
    known = {*_SETTINGS, *_PROMPT, *_SPEC, *_SEEDS, "task", *spec.tags, *context.tags, "options.NAME", "backbone.NAME"}
    raise UnknownName("key of a run", key, known)


def varying(specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """The keys that differ between runs, except seeds. A table shows these by default."""
    context = TableContext(specs)
    keys = ["model", "task", *sorted(context.tags), "method"]
    keys += [f.name for f in dataclasses.fields(PromptSettings) if f.name not in ("method", "seeds")]
    keys += [f.name for f in dataclasses.fields(TrainSettings)]
    keys += sorted(_SPEC - {"model"})
    # Runs of a study share most of their settings, so that few of them have to be looked at for these keys.
    few = list({id(spec.settings): spec for spec in specs}.values())
    shared = _SETTINGS - context.tags
    return tuple(
        key for key in keys if len({value(spec, key, context) for spec in (few if key in shared else specs)}) > 1
    )


def ceilings(runs: Sequence[StoredRun]) -> dict[str, float]:
    """The best test score of each task."""
    return {task: max(scores) for task, scores in _by_task(runs, TableContext(run.spec for run in runs)).items()}


def stuck(run: StoredRun, ceiling: Mapping[str, float], context: TableContext = _ALONE) -> bool | None:
    """Whether a run has not got half of the way from the majority class to the task's ceiling; None if unknown.

    A run without a score is stuck.
    """
    if run.score is None:
        return True
    task = context.task(run.spec.declared)
    chance = run.majority if run.spec.declared.answer == "label" else run.majority or 0.0
    if chance is None or task not in ceiling:
        return None
    return is_stuck(run.score, chance, ceiling[task])


def summary(
    runs: Sequence[StoredRun], by: Sequence[str] = ("task", "method"), *, ceiling: Mapping[str, float] | None = None
) -> list[Row]:
    """One row for each combination of keys that occurs, in order of appearance.

    `n` runs, of which `dropped` have no score; of the others' test scores `mean`, `std` (n - 1), `se` (std / sqrt n),
    `low` and `high` (95 % bootstrap interval of the mean), `min`, `median`, and `worst`, the lowest mean of a task
    in the row; `stuck`, the share of all n that is stuck; the median, 10th and 90th percentile of the prompt's norm in
    token norms at the best checkpoint. What is not known is None.

    Args:
        runs: of one or more studies.
        by: keys as in `value`; a tag may be missing in some of the runs, and is None there.
        ceiling: what can be reached, by task; default the best of `runs`. A task left out takes that too.
    """
    by = listed("--by", by)
    best, context = ceilings(runs) | dict(ceiling or {}), TableContext(run.spec for run in runs)
    groups = grouped(runs, by)
    return [
        {**dict(zip(by, keys, strict=True)), **_numbers(members, best, context)} for keys, members in groups.items()
    ]


def grouped(runs: Sequence[StoredRun], by: Sequence[str]) -> dict[tuple[Hashable, ...], list[StoredRun]]:
    """The runs by their values of these keys, each once in a group: a run that a list holds twice was trained once.

    Two tables of a study may list one run with different tags. It is then in the groups of both.
    """
    context = TableContext(run.spec for run in runs)
    groups: dict[tuple[Hashable, ...], dict[str, StoredRun]] = {}
    for run in runs:
        groups.setdefault(tuple(value(run.spec, key, context) for key in by), {})[run.name] = run
    return {keys: list(members.values()) for keys, members in groups.items()}


def compare(
    runs: Sequence[StoredRun], by: str, baseline: Hashable, *, pair: Sequence[str] = ("task", "seed")
) -> list[Row]:
    """Compare every other value of a key with one of them, over pairs of runs that agree in the `pair` keys.

    `n` pairs, `unpaired` runs without a partner or a score, the mean `difference` of test scores with its 95 %
    bootstrap interval `low`, `high` over pairs, `wins`, `ties`, `losses`, and `p` of Wilcoxon's signed-rank test,
    uncorrected.

    Raises:
        UnknownName: no run has the baseline.
        BadInput: two runs of one value agree in the pair keys, so that pairs are not defined.
    """
    pair = listed("--pair", pair)
    context = TableContext(run.spec for run in runs)
    arms: dict[Hashable, dict[tuple[Hashable, ...], StoredRun]] = {}
    for run in runs:
        arm = arms.setdefault(value(run.spec, by, context), {})
        key = tuple(value(run.spec, name, context) for name in pair)
        if key in arm and arm[key].name != run.name:
            raise BadInput(
                f"{run.spec.describe()} and {arm[key].spec.describe()} agree in {', '.join((by, *pair))}; "
                "pair by more keys, or compare fewer runs"
            )
        arm[key] = run
    if baseline not in arms:
        raise UnknownName(by, str(baseline), map(str, arms))
    others = {name: arm for name, arm in arms.items() if name != baseline}
    return [{by: name, "against": baseline, **_paired(arm, arms[baseline])} for name, arm in others.items()]


def _numbers(runs: Sequence[StoredRun], ceiling: Mapping[str, float], context: TableContext) -> Row:
    import numpy as np

    scores = np.array([run.score for run in runs if run.score is not None], dtype=float)
    row: Row = {"n": len(runs), "dropped": len(runs) - len(scores)}
    row |= dict.fromkeys(("mean", "std", "se", "low", "high", "min", "median", "worst"))
    if len(scores):
        row |= {"mean": float(scores.mean()), "min": float(scores.min()), "median": float(np.median(scores))}
        row["worst"] = min(sum(each) / len(each) for each in _by_task(runs, context).values())
    interval = bootstrap(scores)
    if interval:
        deviation = float(scores.std(ddof=1))
        row |= {"std": deviation, "se": deviation / len(scores) ** 0.5, "low": interval[0], "high": interval[1]}
    verdicts = [stuck(run, ceiling, context) for run in runs]
    row["stuck"] = None if None in verdicts else sum(map(bool, verdicts)) / len(runs)
    norms = [norm for norm in (run.at_best("token_norms") for run in runs if run.score is not None) if norm is not None]
    names = ("token_norms", "token_norms_p10", "token_norms_p90")
    levels = np.quantile(norms, [0.5, 0.1, 0.9]).tolist() if norms else [None] * 3
    return row | dict(zip(names, levels, strict=True))


def _by_task(runs: Sequence[StoredRun], context: TableContext) -> dict[str, list[float]]:
    """The test scores of each task."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run.score is not None:
            scores.setdefault(context.task(run.spec.declared), []).append(run.score)
    return scores


def _paired(arm: Mapping[Any, StoredRun], baseline: Mapping[Any, StoredRun]) -> Row:
    both = [(arm[key], baseline[key]) for key in arm if key in baseline]
    # Tags among the pair keys may name the same two runs twice.
    scores = {
        (ours.name, theirs.name): ours.score - theirs.score
        for ours, theirs in both
        if ours.score is not None and theirs.score is not None
    }
    paired = {name for names in scores for name in names}
    differences = settled(list(scores.values()))
    interval = bootstrap(differences) or (None, None)
    return {
        "n": len(scores),
        "unpaired": len({run.name for run in (*arm.values(), *baseline.values())} - paired),
        "difference": float(differences.mean()) if len(scores) else None,
        "low": interval[0],
        "high": interval[1],
        "wins": int((differences > 0).sum()),
        "ties": int((differences == 0).sum()),
        "losses": int((differences < 0).sum()),
        "p": wilcoxon(differences),
    }


def markdown(rows: Sequence[Row], cell: Callable[[str], str] = in_markdown) -> str:
    """The rows as a Markdown table, numbers to the right, scores with three digits.

    Args:
        rows: by column.
        cell: how a text is written; by default its links are none, since names may be a stranger's.
    """
    names, cells, right = columns(rows)
    lines = [[cell(text).replace("|", "\\|") for text in line] for line in (names, *cells)]
    lines.insert(1, ["--:" if r else "---" for r in right])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[bool]]:
    """Column names, the texts of each row, and which columns are numbers, of what is `shown`."""
    kept = shown(rows)
    names = list(kept[0]) if kept else []
    right = [all(_is_number(row.get(name)) for row in rows) for name in names]
    return names, [[_text(name, item) for name, item in row.items()] for row in kept], right


def shown(rows: Sequence[Row]) -> list[Row]:
    """The rows as people read them: intervals in one column each, columns without any value left out."""
    texts = [_joined(row) for row in rows]
    names = [name for name in (texts[0] if texts else ()) if any(row[name] not in (None, "") for row in texts)]
    if not any(row.get("dropped") for row in texts):
        names = [name for name in names if name != "dropped"]
    return [{name: row[name] for name in names} for row in texts]


def _joined(row: Row) -> Row:
    """The row with both ends of each interval in one text."""
    joined: Row = {}
    for name, item in row.items():
        if name == "low":
            joined["95 %"] = "" if item is None else f"{item:.3f} .. {row['high']:.3f}"
        elif name == "token_norms":
            spread = (
                "" if item is None else f"{item:.2g} ({row['token_norms_p10']:.2g} .. {row['token_norms_p90']:.2g})"
            )
            joined["token norms"] = spread
        elif name not in ("high", "token_norms_p10", "token_norms_p90"):
            joined[name] = item
    return joined


# Columns of scores, which are written with three digits.
SCORES = ("mean", "std", "se", "min", "median", "worst", "stuck", "difference", "paper", "p")


def _text(name: str, item: Any) -> str:
    if item is None:
        return ""
    # A text is an already formatted number.
    return f"{item:.3f}" if name in SCORES and _is_number(item) else str(item)


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool)


def _hashable(item: Any) -> Hashable:
    if type(item) in (str, int, float, bool, type(None)):
        return item
    if isinstance(item, Mapping):
        return ", ".join(f"{key}={item[key]}" for key in sorted(item))
    return tuple(item) if isinstance(item, list) else item
