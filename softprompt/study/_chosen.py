"""Settings that are chosen on validation rows, as papers choose a learning rate: of each, the best value's runs."""

import statistics
from collections.abc import Hashable, Mapping, Sequence

from ..checks import listed
from ..errors import BadInput
from ._grid import SEEDS
from ._spec import RunSpec
from ._stored import StoredRun
from ._texts import canonical
from .tables import Row, TableContext, grouped, value, varying

# What is measured again and again, or apart, and no setting.
_NEVER = ("task", "seed", *SEEDS)


def chosen(
    runs: Sequence[StoredRun], best: Sequence[str], specs: Sequence[RunSpec] | None = None
) -> tuple[list[StoredRun], list[StoredRun]]:
    """The runs at the best values of some settings, for each combination of everything else that varies but seeds.

    The best value is that of the highest mean validation score, as over seeds; of equal ones, the study's first. Values
    some of whose runs have no validation score come after all others, for a rate at which seeds were dropped is not the
    better for it. Of one value nothing has to be chosen.

    Args:
        runs: of one study.
        best: keys as in `tables.value`.
        specs: all runs of the study; default those of `runs`.

    Returns:
        These runs, and those of combinations of several values without any validation score.

    Raises:
        UnknownName: no such key.
        BadInput: a task or a seed, which is no setting.
    """
    best = _settings(best)
    if not best:
        return list(runs), []
    specs = [run.spec for run in runs] if specs is None else specs
    context, others = TableContext(specs), other_keys(specs, best)
    groups: dict[tuple[Hashable, ...], dict[tuple[Hashable, ...], list[StoredRun]]] = {}
    places = []
    for run in runs:
        group = tuple(_other(run.spec, key, best, context) for key in others)
        places.append((group, tuple(value(run.spec, key, context) for key in best)))
        groups.setdefault(group, {}).setdefault(places[-1][1], []).append(run)
    winners = {group: _winner(values) for group, values in groups.items()}
    placed = list(zip(runs, places, strict=True))
    return (
        [run for run, (group, values) in placed if winners[group] == values],
        [run for run, (group, _) in placed if winners[group] is None],
    )


def other_keys(specs: Sequence[RunSpec], best: Sequence[str]) -> tuple[str, ...]:
    """The keys that differ between runs, except seeds and the settings that are chosen."""
    if not best:
        return varying(specs)
    context = TableContext(specs)
    return tuple(
        key
        for key in varying(specs)
        if key not in best and len({_other(spec, key, best, context) for spec in specs}) > 1
    )


def with_chosen(rows: Sequence[Row], runs: Sequence[StoredRun], by: Sequence[str], best: Sequence[str]) -> list[Row]:
    """Rows of `summary(runs, by)` with the chosen values behind their keys."""
    if not best:
        return list(rows)
    groups = grouped(runs, by)
    return [
        {**{key: row[key] for key in by}, **values_of(groups[tuple(row[key] for key in by)], best), **row}
        for row in rows
    ]


def values_of(runs: Sequence[StoredRun], best: Sequence[str]) -> Row:
    """The value of each of these settings in the runs, or all of them in one text."""
    context = TableContext(run.spec for run in runs)
    row: Row = {}
    for key in best:
        values = list(dict.fromkeys(value(run.spec, key, context) for run in runs))
        row[key] = values[0] if len(values) == 1 else ", ".join(map(str, sorted(values, key=_in_order)))
    return row


def _settings(best: Sequence[str]) -> Sequence[str]:
    best = listed("--best", best)
    for key in best:
        if key in _NEVER:
            raise BadInput(f"--best names {key!r}, which validation scores cannot choose; give a setting, such as lr")
    return best


def _other(spec: RunSpec, key: str, best: Sequence[str], context: TableContext) -> Hashable:
    """A run's value of a key, of a mapping without what is chosen in it."""
    mapping = {"options": spec.prompt.options, "backbone": spec.backbone}.get(key)
    if mapping is None:
        return value(spec, key, context)
    return canonical({name: item for name, item in mapping.items() if f"{key}.{name}" not in best})


def _winner(values: Mapping[tuple[Hashable, ...], Sequence[StoredRun]]) -> tuple[Hashable, ...] | None:
    if len(values) == 1:
        return next(iter(values))
    ranks = {}
    for each, runs in values.items():
        scores = {run.name: run.validation_score for run in runs}.values()
        known = [score for score in scores if score is not None]
        if known:
            ranks[each] = (len(known) == len(scores), statistics.fmean(known))
    return max(ranks, key=lambda each: ranks[each], default=None)


def _in_order(item: Hashable) -> tuple[bool, float, str]:
    """Numbers by size, and before texts."""
    is_number = isinstance(item, int | float)
    return (not is_number, float(item) if is_number else 0.0, str(item))
