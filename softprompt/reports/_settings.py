"""Entries by setting: what differs between the runs of a task beside their seeds, and each setting in numbers."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import known_score
from ..settings import Seeds
from ..study import RunSpec, summary
from ..study.tables import TableContext, value, varying
from ._entry import Entry

Key = tuple[str, str]
# Keys that are shown in columns of their own, or that say nothing about a setting.
_APART = ("task", "model", "setting")
# Scores on other rows are other scores, whatever else tells them apart.
_ROWS = "test_rows"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The finished prompts of one setting on one task and model.

    Args:
        name: what tells it from the other settings of its task.
        key: task and model.
        entries: its prompts, those that were dropped among them.
        numbers: as in `softprompt study table`: n, mean, std, low, high, min ...
        validation: mean validation score, by which settings are chosen; None without any.
    """

    name: str
    key: Key
    entries: Sequence[Entry]
    numbers: Mapping[str, Any]
    validation: float | None

    @property
    def worst_seed(self) -> int | None:
        """The seed with the lowest test score; None where there is no score."""
        scored = [entry for entry in self.entries if entry.run.score is not None]
        worst = min(scored, key=lambda entry: known_score(entry.run.score), default=None)
        return None if worst is None else worst.run.spec.prompt.seeds.initialization

    @property
    def best(self) -> Entry | None:
        """The prompt with the best validation score; its test score has no part in the choice."""
        scored = [entry for entry in self.entries if entry.run.validation_score is not None]
        return max(scored, key=lambda entry: known_score(entry.run.validation_score), default=None)


def settings_of(entries: Sequence[Entry]) -> list[Setting]:
    """The settings, in order of appearance. Prompts that are not finished are in none."""
    by_key: dict[Key, dict[str, list[Entry]]] = {}
    for entry, name in names_of(entries):
        if entry.state == "finished":
            by_key.setdefault(entry.key, {}).setdefault(name, []).append(entry)
    return [_setting(name, key, members) for key, group in by_key.items() for name, members in group.items()]


def names_of(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Each entry with the name of its setting: its method, and what varies on its task and model."""
    named: dict[int, str] = {}
    by_key: dict[Key, list[int]] = {}
    for place, entry in enumerate(entries):
        by_key.setdefault(entry.key, []).append(place)
    for places in by_key.values():
        specs = [entries[place].run.spec for place in places]
        context = TableContext(specs)
        keys = [key for key in varying(specs) if key not in _APART and not _follows(specs, key, context)]
        same_tag: dict[str, set[str]] = {}
        for spec in specs:
            same_tag.setdefault(_tag(spec), set()).add(spec.with_seeds(Seeds()).name)
        for place, spec in zip(places, specs, strict=True):
            values = {key: item for key in keys if (item := value(spec, key, context)) not in (None, "")}
            parts = [str(item) if key == "method" else f"{key} {item}" for key, item in values.items()]
            parts += [words] if (words := entries[place].words) else []
            tag = _tag(spec)
            # Two searches in one store may call different settings alike.
            if tag and len(same_tag[tag]) == 1:
                parts = [f"{_ROWS} {values[_ROWS]}"] if _ROWS in values else []
            parts = [tag, *(part for part in parts if part not in tag)] if tag else parts
            named[place] = ", ".join(parts) or spec.prompt.method
    return [(entry, named[place]) for place, entry in enumerate(entries)]


def _tag(spec: RunSpec) -> str:
    return str(spec.tags.get("setting", ""))


def _follows(specs: Sequence[RunSpec], key: str, context: TableContext) -> bool:
    """Whether a key has one value for each method, so that the method's name says it."""
    values: dict[str, set[Hashable]] = {}
    for spec in specs:
        values.setdefault(spec.prompt.method, set()).add(value(spec, key, context))
    return key not in ("method", _ROWS) and all(len(of_method) == 1 for of_method in values.values())


def _setting(name: str, key: Key, members: Sequence[Entry]) -> Setting:
    (numbers,) = summary([entry.run for entry in members], by=())
    scores = [score for entry in members if (score := entry.run.validation_score) is not None]
    mean = sum(scores) / len(scores) if scores else None
    return Setting(name=name, key=key, entries=members, numbers=numbers, validation=mean)


def best_setting(settings: Sequence[Setting]) -> Setting | None:
    """The setting with the best mean validation score, the first of equals; by test score where none was recorded."""
    judged = [setting for setting in settings if setting.validation is not None]
    if judged:
        return max(judged, key=lambda setting: known_score(setting.validation))
    scored = [setting for setting in settings if setting.numbers["mean"] is not None]
    return max(scored, key=lambda setting: setting.numbers["mean"], default=None)
