"""Published numbers beside ours: JSON files of cells, which a study file names and a report finds by task and model."""

import json
import operator
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInput, UnknownName
from ..settings import DEFAULT_STEPS
from ._chosen import other_keys, values_of
from ._file import parsed
from ._spec import RunSpec
from ._stored import StoredRun
from .tables import Row, TableContext, grouped, value

# What papers print, as far as it is known: EPT's tables.
PUBLISHED = Path(__file__).parent / "published"
# What a published number holds beside the keys that say which runs it is of.
_NOT_KEYS = ("value", "label", "tasks")
# What runs are of, whatever a table of published numbers names.
_ALWAYS = ("model", "task", "method")
_NOTHING: Row = {"paper": None, "difference": None}
UNIT = 100.0

Number = Mapping[str, Any]
What = tuple[Hashable, ...]


@dataclass(frozen=True)
class PublishedTable:
    """What a paper prints in a table.

    Args:
        cells: each with the keys of its runs, and a `value`, or a `label` of why it has none.
        means: over the tasks of a group, which `tasks` names; else like cells.
        groups: the tasks of each group of `means`.
        settings: what all its runs were trained with, as far as it is known.
    """

    cells: Sequence[Number]
    means: Sequence[Number]
    groups: Mapping[str, frozenset[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """Those that tell which number a run belongs to."""
        named = {key for number in (*self.cells, *self.means) for key in number if key not in _NOT_KEYS}
        return (*_ALWAYS, *sorted(named - set(_ALWAYS)))


class _Beside:
    """The published numbers of a study's runs.

    Args:
        table: of the paper.
        specs: all runs of the study.
        best: settings of which only the chosen values' runs are shown.
    """

    def __init__(self, table: PublishedTable, specs: Sequence[RunSpec], best: Sequence[str]):
        self.table, self.context, self._keys = table, TableContext(specs), table.keys
        same: dict[What, list[RunSpec]] = {}
        for spec in specs:
            same.setdefault(self._what(spec), []).append(spec)
        known = {*self._keys, *self.context.tags}
        # The settings in which runs of one published number differ, by what it is of.
        self.differing = {
            what: keys
            for what, members in same.items()
            if (keys := [key for key in other_keys(members, best) if key not in known]) and self.has_number(members[0])
        }

    def of_row(self, runs: Sequence[StoredRun]) -> Row:
        """The published number of these runs: of the group that their tasks are, or of the cells of all."""
        if not self._are_of_one_choice(runs):
            return _NOTHING
        tasks = _by_task(runs, self.context).keys()
        for group, members in self.table.groups.items():
            if members == tasks and (row := self.of_group(runs, group))["paper"] is not None:
                return row
        cells: dict[int, list[float]] = {}
        for run in runs:
            place = self._place(run.spec, self.table.cells)
            if place is None:
                return _NOTHING
            cells.setdefault(place, []).extend(_scores([run]))
        return _compared([(self.table.cells[place], [scores]) for place, scores in cells.items()])

    def of_group(self, runs: Sequence[StoredRun], group: str) -> Row:
        """The published mean over the tasks of a group, whose runs these are."""
        means = [mean for mean in self.table.means if mean["tasks"] == group]
        places = {self._place(run.spec, means) for run in runs}
        place = places.pop()
        if place is None or places or not self._are_of_one_choice(runs):
            return _NOTHING
        return _compared([(means[place], list(_by_task(runs, self.context).values()))])

    def averages(self, runs: Sequence[StoredRun], by: Sequence[str], best: Sequence[str]) -> list[Row]:
        """A row of each group all of whose tasks have a score, for each combination of the keys but the task."""
        keys, rows = [key for key in by if key != "task"], []
        for values, members in grouped(runs, keys).items():
            tasks = _by_task(members, self.context)
            for group, names in self.table.groups.items():
                # Without a column of tasks, the row of just these tasks is there.
                if all(tasks.get(name) for name in names) and ("task" in by or names != tasks.keys()):
                    ours = [run for run in members if self.context.task(run.spec.declared) in names]
                    row = {**dict(zip(keys, values, strict=True)), "task": f"Avg {group}", **values_of(ours, best)}
                    rows.append({**row, **_average(ours, self.context), **self.of_group(ours, group)})
        return rows

    def _are_of_one_choice(self, runs: Sequence[StoredRun]) -> bool:
        return not any(self._what(run.spec) in self.differing for run in runs)

    def has_number(self, spec: RunSpec) -> bool:
        """Whether a cell or a mean is of such a run."""
        if self._place(spec, self.table.cells) is not None:
            return True
        groups = [name for name, tasks in self.table.groups.items() if self.context.task(spec.declared) in tasks]
        return self._place(spec, [mean for mean in self.table.means if mean["tasks"] in groups]) is not None

    def _what(self, spec: RunSpec) -> What:
        return tuple(value(spec, key, self.context) for key in self._keys)

    def _place(self, spec: RunSpec, numbers: Sequence[Number]) -> int | None:
        """The place of a run's number: the first of which all keys are the run's own."""
        return next((place for place, number in enumerate(numbers) if self._is_of(spec, number)), None)

    def _is_of(self, spec: RunSpec, number: Number) -> bool:
        return all(value(spec, key, self.context) == number[key] for key in number if key not in _NOT_KEYS)


def with_reference(
    rows: Sequence[Row],
    runs: Sequence[StoredRun],
    by: Sequence[str],
    path: "Path | str",
    *,
    specs: Sequence[RunSpec] | None = None,
    best: Sequence[str] = (),
) -> list[Row]:
    """Rows of `summary` with the published numbers that the study file names, where they are of the same runs.

    `paper` is the mean of the published cells of all tasks, models and methods in the row, in the unit of our scores,
    and `difference` is the mean over the same cells of ours minus theirs, whatever the number of runs of each. Both are
    None where a cell of the row is missing or not of this model and task, and where the study's runs of a cell differ
    in a setting, of which the paper has one value; the difference also where a cell has no score of ours yet. In place
    of a number that is damaged in the copy of the paper that was read stands its label. A number of the paper is of its
    own seeds and runs.

    Behind them stands a row for each group of tasks whose mean is published, where all of its tasks have a score: the
    mean over tasks of ours.

    Args:
        rows: of `summary(runs, by)`.
        runs: the runs of these rows.
        by: the keys of the rows.
        path: the study file; without `reference` in it the rows stay as they are.
        specs: all runs of the study; default those of `runs`.
        best: the settings that `chosen` has chosen `runs` by.

    Raises:
        BadInput: the file of the reference cannot be read, or holds no cells.
        UnknownName: it has no such table.
    """
    table = reference_of(Path(path))
    if table is None:
        return list(rows)
    beside = _Beside(table, [run.spec for run in runs] if specs is None else specs, best)
    groups = grouped(runs, by)
    numbered = []
    for row in rows:
        known = _NOTHING if row.get("mean") is None else beside.of_row(groups[tuple(row[key] for key in by)])
        numbered.append({**row, **known})
    averages = beside.averages(runs, by, best) if numbered else []
    if not averages:
        return numbered
    columns = dict.fromkeys((*by, "task", *numbered[0]))
    return [{**columns, **row} for row in (*numbered, *averages)]


def without_number(specs: Sequence[RunSpec], path: "Path | str", best: Sequence[str] = ()) -> str | None:
    """One line that says which of a study's runs have no published number beside them because they differ, or None.

    Args:
        specs: all runs of the study.
        path: as in `with_reference`.
        best: as in `with_reference`.
    """
    table = reference_of(Path(path))
    differing = _Beside(table, specs, best).differing if table else {}
    keys = list(dict.fromkeys(key for each in differing.values() for key in each))
    if not keys:
        return None
    asked = " ".join(f"--best {key}" for key in keys)
    return (
        f"no published number stands beside runs that differ in {', '.join(keys)}: each is of one value, chosen on "
        f"validation rows; give {asked}"
    )


def other_settings(specs: Sequence[RunSpec], path: "Path | str") -> str | None:
    """One line that says in which settings runs differ from those of the published numbers beside them, or None.

    Args:
        specs: all runs of the study.
        path: as in `with_reference`.
    """
    table = reference_of(Path(path))
    if table is None:
        return None
    beside = _Beside(table, specs, ())
    numbered = [spec for spec in specs if beside.has_number(spec)]
    ours = {key: dict.fromkeys(_used(spec, key, beside.context) for spec in numbered) for key in table.settings}
    differing = [key for key, theirs in table.settings.items() if ours[key].keys() - {theirs}]
    if not differing:
        return None
    theirs = ", ".join(f"{key} {table.settings[key]}" for key in differing)
    these = ", ".join(f"{key} {' or '.join(map(str, ours[key]))}" for key in differing)
    return f"the published numbers are of {theirs}; these runs have {these}"


def _used(spec: RunSpec, key: str, context: TableContext) -> Hashable:
    """A run's value of a key; of steps that are left open, those that a run takes then."""
    if key == "steps" and spec.settings.steps is None:
        return DEFAULT_STEPS if spec.settings.epochs is None else f"of {spec.settings.epochs:g} epochs"
    return value(spec, key, context)


def reference_of(path: Path) -> PublishedTable | None:
    """The published table that a study file names by `reference = "FILE.json#TABLE"`; None where it names none."""
    named = parsed(path).get("reference")
    if named is None:
        return None
    if not isinstance(named, str) or "#" not in named:
        raise BadInput(f"{path}: reference is {named!r}; give a file and its table, as in 'ept.json#table1'")
    file, _, table = named.partition("#")
    stored_file = path.parent / file
    place = stored_file if stored_file.exists() or not (PUBLISHED / file).is_file() else PUBLISHED / file
    document = _document(place, f"the reference of {path}")
    if table not in document["tables"]:
        raise UnknownName(f"table of {place}", table, document["tables"])
    return _checked(document["tables"][table], document.get("groups", {}), f"table {table!r} of {place}")


def _checked(table: Any, groups: Any, what: str) -> PublishedTable:
    cells = table.get("cells") if isinstance(table, Mapping) else None
    if cells is None or not _are_numbers(cells):
        raise BadInput(
            f"{what} holds no `cells`, each with the keys of its runs and a `value` that is a number or null"
        )
    means, known = table.get("means", []), groups if isinstance(groups, Mapping) else {}
    named = {str(mean.get("tasks")) for mean in means} if _are_numbers(means) else {""}
    if not all(_are_texts(known.get(name)) for name in named):
        raise BadInput(
            f"{what} holds `means` that are not all numbers like its cells, over `tasks` that the file's `groups` list"
        )
    settings = table.get("settings", {})
    if not isinstance(settings, Mapping):
        raise BadInput(f"{what} holds `settings` that are no names with values")
    return PublishedTable(cells, means, {name: frozenset(known[name]) for name in known if name in named}, settings)


def _are_numbers(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(
        isinstance(number, Mapping) and isinstance(number.get("value", ""), int | float | None) for number in numbers
    )


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)


def published(task: str, model: str) -> dict[str, float]:
    """The score that the table 1 of Explosive Prompt Tuning prints for each method on a task and a model, in 0..1.

    Args:
        task: its name.
        model: a name on the hub, or a folder that is called like it; empty for models that the paper does not have.
    """
    cells = _document(PUBLISHED / "ept.json", "what the paper prints")["tables"]["table1"]["cells"]
    name = model.rstrip("/").rpartition("/")[2]
    of_model = [cell for cell in cells if cell["task"] == task and cell["model"].rpartition("/")[2] == name]
    return {cell["method"]: cell["value"] / UNIT for cell in of_model}


def _document(place: Path, what: str) -> dict[str, Any]:
    try:
        document = json.loads(place.read_text(encoding="utf-8"))
        return {**document, "tables": document["tables"]}
    except OSError as error:
        raise BadInput(f"cannot read {place}, {what}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{place}, {what}, holds no tables of published numbers; give another file") from error


def _compared(numbers: Sequence[tuple[Number, Sequence[Sequence[float]]]]) -> Row:
    """The mean of published numbers and of the differences of ours from them, each with our scores by task."""
    damaged = [number for number, _ in numbers if number["value"] is None]
    if damaged:
        return {"paper": damaged[0].get("label"), "difference": None}
    theirs = [number["value"] / UNIT for number, _ in numbers]
    paper = statistics.fmean(theirs)
    if not all(scores for _, tasks in numbers for scores in tasks):
        return {"paper": paper, "difference": None}
    ours = [statistics.fmean(map(statistics.fmean, tasks)) for _, tasks in numbers]
    return {"paper": paper, "difference": statistics.fmean(map(operator.sub, ours, theirs))}


def _average(runs: Sequence[StoredRun], context: TableContext) -> Row:
    means = [statistics.fmean(scores) for scores in _by_task(runs, context).values()]
    return {
        "n": len(runs),
        "dropped": len(runs) - len(_scores(runs)),
        "mean": statistics.fmean(means),
        "worst": min(means),
    }


def _by_task(runs: Sequence[StoredRun], context: TableContext) -> dict[str, list[float]]:
    """The test scores of each task; none of one whose runs have none."""
    tasks: dict[str, list[float]] = {}
    for run in runs:
        tasks.setdefault(context.task(run.spec.declared), []).extend(_scores([run]))
    return tasks


def _scores(runs: Sequence[StoredRun]) -> list[float]:
    return [run.score for run in runs if run.score is not None]
