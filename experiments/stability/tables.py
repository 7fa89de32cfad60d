"""Tables of the stability study, from the committed results alone.

    python -m experiments.stability.tables

Writes results/stability.md, which has every test, and the tables of docs/results/stability.md.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from softprompt.study.stability import Against, against, report, text

from ..common.page import write_page
from ..common.places import PAGES, RESULTS
from .study import (
    BLOCK,
    FIRST_FRESH,
    MODEL,
    NOTHING,
    REAL_SHOTS,
    REAL_STEPS,
    SCALE,
    SCALE_AND_RESTARTS,
    SCREEN_SEEDS,
    SCREENED,
    SECOND_SEEDS,
    STEPS,
    TASK_ROWS,
    arm,
    best_of_second,
    confirmed_settings,
    kept,
    read,
    screened,
    second,
)

PAGE = PAGES / "stability.md"
BEGIN = "<!-- tables: experiments/stability/tables.py -->"
# Of a 95 % interval, normal.
Z = 1.96
ENCODER = "all-MiniLM-L6-v2"
# Task -> setting -> seed -> what was found.
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def everything() -> Iterator[str]:
    """All tables, every test among them."""
    yield f"# Screen: {len(SCREEN_SEEDS)} seeds, {' and '.join(SCREENED)}\n"
    yield "| setting | standard deviation over that of nothing | mean score |\n|---|---:|---:|"
    for name, (ratio, mean) in sorted(screened().items(), key=lambda item: item[1][0]):
        yield f"| {name} | {ratio:.2f} | {mean:.3f} |"
    yield f"\nKept: {', '.join(kept()) or 'not known yet'}\n"
    yield f"# Second screen: {len(SECOND_SEEDS)} seeds, {', '.join(TASK_ROWS)}\n"
    yield "| setting | largest of three ratios of standard deviations | least gain in the mean |\n|---|---:|---:|"
    for name, (ratio, gain) in sorted(second().items(), key=lambda item: item[1][0]):
        yield f"| {name} | {ratio:.2f} | {gain:+.3f} |"
    yield f"\nTaken: {best_of_second() or 'not known yet'}\n"
    for part, model, steps in (("confirm", MODEL, STEPS), ("real", ENCODER, REAL_STEPS)):
        for name, cell in read(part).items():
            about = {"task": f"{name} from {rows_of(name)} rows", "model": model, "steps": steps}
            summary = report({called: arm(called, item) for called, item in cell.items()})
            yield text(dataclasses.replace(summary, about=about))
    yield from settings_side_by_side()


def of_the_page() -> Iterator[str]:
    """The tables of docs/results/stability.md: restarts, and what users get."""
    yield "**Restarts at equal cost**, in prompt steps; `weekend` and `same-color` from 64 rows, 12 seeds each.\n"
    yield from equal_cost(json.loads((RESULTS / "restarts.json").read_text()))
    confirmed = read("confirm")
    yield "\n**Eight restarts**, 950 prompt steps, against `nothing`, 250 steps, on the same fresh seeds.\n"
    yield from against_nothing(confirmed, "restarts 8")
    yield "\n**Today's default**, with and without restarts and PTP's noise, against `nothing`.\n"
    yield from wide(confirmed, dict.fromkeys((SCALE, SCALE_AND_RESTARTS, f"{SCALE}, ptp-rn"), NOTHING))


def settings_side_by_side() -> Iterator[str]:
    """The same numbers with one row a setting: over all tasks, without a correction for the number of settings."""
    confirmed, real = read("confirm"), read("real")
    yield "\n# Settings side by side"
    yield f"\n**Every confirmed setting**, prompt tuning unless a method is named, `{MODEL}`, {STEPS} steps.\n"
    yield from wide(confirmed, dict.fromkeys(names(confirmed), NOTHING))
    yield "\n**Regularisers**, each against the same setting without it.\n"
    yield from wide(confirmed, without("regularizer"))
    yield "\n**Restarts**, each against the same setting without them.\n"
    yield from wide(confirmed, without("restarts"))
    if real:
        yield f"\n**A real encoder**, {ENCODER}, {REAL_STEPS} steps, a learned head beside every prompt.\n"
        yield from wide(real, dict.fromkeys(names(real), NOTHING))


def equal_cost(results: Mapping[str, Any]) -> Iterator[str]:
    """One row a cost and number of restarts: a run as long, the restarts, and what they gain."""
    yield from _header("cost", "one run as long", "restarts", "difference of the mean")
    several = [row for row in results["rows"] if " restarts, " in row["row"]]
    for alone in (row for row in results["rows"] if row not in several):
        # Restarts at the cost of a single run may be a step short of it.
        for row in (other for other in several if 0 <= alone["cost"] - other["cost"] <= 1):
            restarts = f"{row['row'].split()[0]}: {_deviating(row['mean'], row['std'])}"
            gain = _gain(results, row["row"], alone["row"])
            yield _line(f"{alone['cost']} steps", _deviating(alone["mean"], alone["std"]), restarts, gain)


def _gain(results: Mapping[str, Any], called: str, reference: str) -> str:
    """The difference of two rows with its interval, over pairs where these were kept, else from the tasks' own."""
    compared = [*results["against a single run"], *results.get("against a run as long", ())]
    paired = [item for item in compared if (item["row"], item["against"]) == (called, reference)]
    if paired:
        return difference(paired[0]["difference"], paired[0]["low"], paired[0]["high"])
    ours, theirs = (
        {item["task"]: item for item in results["rows by task"] if item["row"] == n} for n in (called, reference)
    )
    mean, error = unpaired([(ours[task], theirs[task]) for task in ours])
    return f"{difference(mean, mean - Z * error, mean + Z * error)}, unpaired"


def unpaired(tasks: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[float, float]:
    """The mean over tasks of a difference of means, and its standard error by Welch: seeds as independent samples."""
    mean = statistics.mean(first["mean"] - second["mean"] for first, second in tasks)
    return mean, sum(first["se"] ** 2 + second["se"] ** 2 for first, second in tasks) ** 0.5 / len(tasks)


def against_nothing(results: Results, called: str) -> Iterator[str]:
    """One row a task, and one without the first block of seeds, which were looked at before the others were run."""
    yield from _header("task", "seeds", "`nothing`", "restarts", "difference of the mean", "ratio of deviations")
    for name, cell in results.items():
        for first, which in ((FIRST_FRESH, ""), (FIRST_FRESH + BLOCK, "the later ")):
            chosen = {
                setting: {seed: run for seed, run in cell[setting].items() if int(seed) >= first} for setting in cell
            }
            seeds = shared(chosen, called, NOTHING)
            means = (_spread(_scores(cell[setting][seed] for seed in seeds)) for setting in (NOTHING, called))
            comparison = against(arm(called, chosen[called]), arm(NOTHING, chosen[NOTHING]))
            yield _line(
                titled(name),
                f"{which}{len(seeds)}",
                *means,
                difference(comparison.difference, comparison.low, comparison.high),
                ratio(comparison),
            )


def wide(results: Results, references: Mapping[str, str]) -> Iterator[str]:
    """One row a setting, against its reference: a task's mean, difference of means and ratio of deviations."""
    yield from _header("setting", "seeds", *(cell for name in results for cell in (titled(name), "ratio")))
    for called, reference in references.items():
        counts = [len(shared(cell, called, reference)) for cell in results.values()]
        row = [f"`{called}`" if ":" in called else called]
        row.append(str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts)))
        for cell in results.values():
            row.extend(_mean_and_ratio(cell, called, reference))
        yield _line(*row)


def _mean_and_ratio(cell: Mapping[str, Mapping[str, Any]], called: str, reference: str) -> tuple[str, str]:
    scores = _scores(cell.get(called, {}).values())
    if called == reference:
        return _deviating(statistics.mean(scores), statistics.stdev(scores)), ""
    if len(shared(cell, called, reference)) < 2:
        return "", ""
    comparison = against(arm(called, cell[called]), arm(reference, cell[reference]))
    change = difference(comparison.difference, comparison.low, comparison.high)
    return f"{statistics.mean(scores):.3f}; {change}", ratio(comparison)


def names(results: Results) -> list[str]:
    """Of all settings, in the order in which they were found."""
    return list(dict.fromkeys(called for cell in results.values() for called in cell))


def without(what: str) -> dict[str, str]:
    """Confirmed setting that has this field -> the one that differs in nothing else."""
    settings = confirmed_settings(kept())
    bare = {name: {key: value for key, value in prompt.items() if key != what} for name, prompt in settings.items()}
    plain = [name for name, prompt in settings.items() if what not in prompt]
    return {name: other for name in settings for other in plain if name not in plain and bare[name] == settings[other]}


def shared(cell: Mapping[str, Mapping[str, Any]], called: str, reference: str) -> list[str]:
    """Seeds that two settings both have."""
    return [seed for seed in cell.get(called, {}) if seed in cell.get(reference, {})]


def difference(mean: float | None, low: float | None, high: float | None) -> str:
    """Of the means, with its interval."""
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def ratio(comparison: Against) -> str:
    """Of the standard deviations, with its interval; none where all seeds of nothing agree."""
    if comparison.ratio is None or comparison.ratio_low is None:
        return "none"
    return f"{comparison.ratio:.2f} ({comparison.ratio_low:.2f} to {comparison.ratio_high:.2f})"


def rows_of(name: str) -> int:
    """Rows that a prompt learns from."""
    return TASK_ROWS.get(name, REAL_SHOTS)


def titled(name: str) -> str:
    """A task in a table."""
    return f"`{name.removeprefix('lab/')}`, {rows_of(name)} rows"


def _scores(runs: Iterable[Mapping[str, Any]]) -> list[float]:
    """A dropped run counts as 0."""
    return [run["score"] or 0.0 for run in runs]


def _deviating(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"


def _spread(scores: Sequence[float]) -> str:
    return f"{_deviating(statistics.mean(scores), statistics.stdev(scores))}, worst {min(scores):.2f}"


def _header(*names: str) -> Iterator[str]:
    # study.markdown is not used, because columns of several tasks have the same name.
    yield _line(*names)
    yield f"|{'---|' * len(names)}"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    (RESULTS / "stability.md").write_text("\n".join(everything()))
    write_page(PAGE, "\n".join(of_the_page()) + "\n", BEGIN)
