"""Runs as a product of named axes."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..checks import require_different
from ..errors import BadInput, UnknownName
from ..settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from ._spec import OF_MODEL, RunSpec

_PROMPT = {f.name for f in dataclasses.fields(PromptSettings)} - {"seeds"}
_SETTINGS = {f.name for f in dataclasses.fields(TrainSettings)}
_SPEC = {f.name for f in dataclasses.fields(RunSpec)} - {"prompt", "settings"}
SEEDS = {"init_seed": "initialization", "order_seed": "order", "draw_seed": "draw", "noise_seed": "noise"}
KEYS = frozenset(_PROMPT | _SETTINGS | _SPEC | SEEDS.keys() | {"seed"})
# Axes that stand in a mapping of a run, and which.
_INSIDE = {
    "prompt_length": "options",
    **{f.name: "backbone" for f in dataclasses.fields(ModelSpec) if f.name not in ("name", "device", *OF_MODEL)},
}
_HINTS: dict[str, Any] = {
    **dict.fromkeys(("seed", "prompt_length", *SEEDS), int),
    **get_type_hints(ModelSpec),
    **get_type_hints(RunSpec),
    **get_type_hints(TrainSettings),
    **get_type_hints(PromptSettings),
}


def grid(**axes: Any) -> list[RunSpec]:
    """One run for each combination of the axes, the last axis fastest.

        grid(task=["glue/sst2", "glue/rte"], model="lab-t5", method=["scaled", "ept-star"], seed=range(5), steps=250)

    Args:
        **axes: any field of PromptSettings, TrainSettings, RunSpec and ModelSpec by its name, one value or a list of
            them; `prompt_length`; `seed` for every purpose, `init_seed`, `order_seed`, `draw_seed`, `noise_seed` for
            one.

    Raises:
        UnknownName: an axis that does not exist.
        BadInput: no task or model, an axis without values or with one twice, a value of the wrong kind, or a `backbone`
            with what is a key of the run itself.
    """
    for name in axes:
        if name not in KEYS and name not in _INSIDE:
            raise UnknownName("setting of a run", name, {*KEYS, *_INSIDE})
    for name in ("task", "model"):
        if name not in axes:
            raise BadInput(f"the runs have no {name}; give one")
    values = {name: _values(name, given) for name, given in axes.items()}
    return [_spec(dict(zip(values, chosen, strict=True))) for chosen in itertools.product(*values.values())]


def _values(name: str, given: Any) -> list[Any]:
    values = list(given) if isinstance(given, list | tuple | range) else [given]
    if not values:
        raise BadInput(f"{name} has no values; give one or leave it out")
    checked = [_checked(name, value, _HINTS[name]) for value in values]
    require_different(name, checked)
    if name == "backbone":
        _refuse_own_keys(checked)
    return checked


def _refuse_own_keys(backbones: list[Mapping[str, Any]]) -> None:
    """Refuse what a run says by a key of its own: it would replace that key, whatever the run says."""
    for key in itertools.chain.from_iterable(backbones):
        if key == "device":
            raise BadInput("backbone has 'device', and a run is of no machine; leave it out, and give --device")
        own = "model" if key == "name" else key
        if own in OF_MODEL:
            raise BadInput(f"backbone has {key!r}, which is the run's own {own!r}; give that beside backbone")


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in the type of its setting. A whole number may stand for a float; nothing else is converted."""
    kinds = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    if any(_is_a(value, kind) for kind in kinds):
        return value
    if float in kinds and _is_a(value, int):
        return float(value)
    wanted = " or ".join(_spoken(kind) for kind in kinds)
    raise BadInput(f"{name} must be {wanted}, not {value!r}")


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    # Python counts True as an int, and a user who writes True does not mean one step.
    return isinstance(value, get_origin(kind) or kind) and (kind is bool or not isinstance(value, bool))


def _spoken(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return "a table" if get_origin(kind) else {"NoneType": "left out"}.get(kind.__name__, f"of type {kind.__name__}")


def _spec(chosen: Mapping[str, Any]) -> RunSpec:
    chosen = _put_inside(chosen)
    seeds = Seeds.all(chosen.get("seed", 0))
    explicit = {purpose: chosen[name] for name, purpose in SEEDS.items() if name in chosen}
    prompt = {name: value for name, value in chosen.items() if name in _PROMPT}
    return RunSpec(
        prompt=PromptSettings(**prompt, seeds=dataclasses.replace(seeds, **explicit)),
        settings=_settings(tuple((name, value) for name, value in chosen.items() if name in _SETTINGS)),
        **{name: value for name, value in chosen.items() if name in _SPEC},
    )


def _put_inside(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The values with those of `_INSIDE` in their mapping; a default of the model's is left out, as it is in names."""
    outside = {name: value for name, value in chosen.items() if name not in _INSIDE}
    for name, mapping in _INSIDE.items():
        if name in chosen and chosen[name] != getattr(ModelSpec, name, None):
            outside[mapping] = {**outside.get(mapping, {}), name: chosen[name]}
    return outside


@functools.lru_cache(maxsize=4096)
def _settings(chosen: tuple[tuple[str, Any], ...]) -> TrainSettings:
    """One object for all runs that share these settings: they are checked once, and take memory once."""
    return TrainSettings(**dict(chosen))
