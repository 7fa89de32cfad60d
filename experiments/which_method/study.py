"""The study: learning rates, then blocks of seeds over all tasks and methods, so that tables are always balanced."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from softprompt.errors import Interrupted, UnknownName

from .design import Design, Part
from .rates import choose_rates, head_rate
from .results import Results, change_results, key_of, read_results
from .runs import Place, RunRequest, measured

log = logging.getLogger("softprompt")

RATES = "rates"
ALL = "all"
# The part whose rows come from the hub or from a folder.
REAL_PART = "real"


def confirm(design: Design, place: Place, part: str = ALL) -> Results:
    """Run what the results lack, one block of seeds after the other over the chosen parts; the results.

    It may be interrupted or killed at any time and called again, and called by several processes at once, best for
    different parts. A model's rates are chosen before its first reported run.

    Args:
        design: what to run.
        place: where.
        part: of the design; "rates" for the learning rates of all its models alone, "all" for everything.

    Raises:
        UnknownName: no such part.
        Interrupted: after Ctrl-C; the same call goes on.
        SoftPromptError: as in `run_all`.
    """
    parts = chosen_parts(design, part)
    if part != REAL_PART and place.data_root is None and parts.pop(REAL_PART, None):
        log.info("part real is left out: its rows are not at hand; give --data-root, or name it with --part real")
    try:
        if part == RATES:
            for model, candidates in _methods_by_model(parts).items():
                _choose(design, model, candidates, place)
        else:
            for chosen, name, model, task, seeds in blocks(parts):
                _block(design, chosen, name, model, task, seeds, place)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; {place.results} has what is done, and the same command goes on") from error
    return read_results(place.results)


def chosen_parts(design: Design, part: str) -> dict[str, Part]:
    """The parts that a name stands for.

    Raises:
        UnknownName: no such part.
    """
    if part in (ALL, RATES):
        return dict(design.parts)
    if part not in design.parts:
        raise UnknownName("part of the confirmation study", part, [RATES, *design.parts, ALL])
    return {part: design.parts[part]}


def blocks(parts: dict[str, Part]) -> Iterator[tuple[Part, str, str, str, tuple[int, ...]]]:
    """(part, its name, model, task, seeds): the first block of every part, then the second of every part ..."""
    for number in range(max((part.rounds for part in parts.values()), default=0)):
        for name, part in parts.items():
            if seeds := part.block_of(number):
                yield from ((part, name, model, task, seeds) for model in part.models for task in part.tasks)


def missing(
    results: Results, name: str, part: Part, model: str, task: str, seeds: Sequence[int]
) -> list[tuple[str, int]]:
    """(method, seed) of the runs that are not in the results."""
    cells = {candidate: results.cells.get(key_of(name, model, task, candidate), {}) for candidate in part.candidates}
    return [(candidate, seed) for seed in seeds for candidate in part.candidates if str(seed) not in cells[candidate]]


def _block(design: Design, part: Part, name: str, model: str, task: str, seeds: Sequence[int], place: Place) -> None:
    results = read_results(place.results)
    left = missing(results, name, part, model, task, seeds)
    if not left:
        return
    results = _choose(design, model, part.candidates, place)
    wanted = []
    for candidate, seed in left:
        rate = results.chosen(model, candidate)
        assert rate is not None, "choose_rates ends when all are chosen"
        wanted.append(
            RunRequest(task=task, candidate=candidate, rate=rate, seed=seed, head_rate=head_rate(results, model))
        )
    runs = measured(model, design.models[model], part, wanted, place)

    def change(cells: dict[str, Any], rates: dict[str, Any]) -> None:
        for request, run in zip(wanted, runs, strict=True):
            cells.setdefault(key_of(name, model, task, request.candidate), {})[str(request.seed)] = run

    change_results(place.results, place.store, change)
    log.info("%s, %s, %s: %d runs, seeds %s", name, model, task, len(wanted), ", ".join(map(str, seeds)))


def _choose(design: Design, model: str, candidates: Sequence[str], place: Place) -> Results:
    """Choose the rates of a model. The head's rate comes first, because the head beside a prompt has it too."""
    if "head-only" in candidates:
        choose_rates(design, model, ["head-only"], place)
    return choose_rates(design, model, candidates, place)


def _methods_by_model(parts: dict[str, Part]) -> dict[str, list[str]]:
    by_model: dict[str, dict[str, None]] = {}
    for part in parts.values():
        for model in part.models:
            by_model.setdefault(model, {}).update(dict.fromkeys(part.candidates))
    return {model: list(candidates) for model, candidates in by_model.items()}
