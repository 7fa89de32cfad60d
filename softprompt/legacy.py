"""Names in files of earlier versions, and the names of today: one table, applied when a file is read.

Run folders of format 1, study stores and stored prompts made before the renaming load through `renamed`. Hashes that
name the runs of a study are taken over the earlier names (`as_before`), so that a store made before keeps its runs.
"""

from collections.abc import Mapping
from typing import Any

# Keys of run.json, result.json, checkpoints, stored runs and provenance.
KEYS = {
    "lane": "prompt",
    "lanes": "prompts",
    "lane_steps": "prompt_steps",
    "norm_guard": "max_norm",
    "frozen": "quantize",
    "room": "memory_budget",
}
METHODS = {"head-only": "linear-probe"}
# Keys below these hold the user's own names, which are never renamed: a column may be called "lane".
OWN = ("task", "options", "tags", "metrics", "labels")


def renamed(values: Any) -> Any:
    """The values of a JSON document under the names of today; documents of today are returned as they are."""
    return _changed(values, KEYS, METHODS)


def as_before(values: Any) -> Any:
    """The values under the names of format 1, over which runs of studies are hashed."""
    return _changed(values, _turned(KEYS), _turned(METHODS))


def _turned(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


def _changed(values: Any, keys: Mapping[str, str], methods: Mapping[str, str]) -> Any:
    if isinstance(values, list | tuple):
        return [_changed(value, keys, methods) for value in values]
    if not isinstance(values, Mapping):
        return values
    changed = {}
    for key, value in values.items():
        if key == "method" and isinstance(value, str):
            changed[key] = methods.get(value, value)
        else:
            changed[keys.get(key, key)] = value if key in OWN else _changed(value, keys, methods)
    return changed
