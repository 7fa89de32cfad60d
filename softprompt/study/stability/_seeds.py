"""Which of the seeds vary: all of them, or each source of variance alone and then together."""

import dataclasses
from collections.abc import Sequence

from ...checks import listed, require_numbers
from ...errors import BadInput, UnknownName
from ...settings import Seeds

# The names on the command line -> the purposes of Seeds.
SOURCES = {"init": "initialization", "order": "order", "draw": "draw", "noise": "noise"}
ALL = "all"
TOGETHER = "together"


def seed_sets(vary: Sequence[str] = (), seeds: int = 20, base_seed: int = 0) -> dict[str, tuple[Seeds, ...]]:
    """By name, sets of `seeds` seeds base_seed, base_seed + 1 ...; what does not vary in a set stays at base_seed.

    Nothing in `vary`: one set "all", each seed for every purpose. One source: one set of its name. Several: a set for
    each alone, and last "together", in which all of them vary.

    Args:
        vary: of SOURCES.
        seeds: in each set.
        base_seed: the first.

    Raises:
        UnknownName: a source that does not exist.
        BadInput: fewer than two seeds, a negative one, or a source named twice.
    """
    vary = listed("--vary", vary)
    require_numbers({"seeds": seeds}, whole=True, zero=True)
    Seeds.all(base_seed)
    for source in vary:
        if source not in SOURCES:
            raise UnknownName("source of variance", source, SOURCES)
    if len(set(vary)) < len(vary):
        raise BadInput(f"--vary {','.join(vary)} names a source twice; name each once")
    if seeds < 2:
        raise BadInput(f"{seeds} seeds have no spread; at least 2 are needed, and 20 to see anything")
    if base_seed < 0:
        raise BadInput(f"the base seed must not be negative, and is {base_seed}")
    numbers = range(base_seed, base_seed + seeds)
    if not vary:
        return {ALL: tuple(map(Seeds.all, numbers))}
    sets: dict[str, tuple[str, ...]] = {source: (source,) for source in vary}
    if len(vary) > 1:
        sets[TOGETHER] = tuple(vary)
    return {name: tuple(_seeds(sources, base_seed, n) for n in numbers) for name, sources in sets.items()}


def _seeds(sources: Sequence[str], base: int, seed: int) -> Seeds:
    return dataclasses.replace(Seeds.all(base), **{SOURCES[source]: seed for source in sources})
