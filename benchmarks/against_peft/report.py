"""Tables in Markdown from the results: no number of the documentation is typed by hand."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.against_peft.cells import VARIANTS

Cells = Mapping[str, Mapping[str, Any]]

# What is compared with what: (slower, faster). What each quotient tells is in docs/results/speed.md.
RATIOS = (
    ("A", "packed"),
    ("B", "packed"),
    ("B2", "packed"),
    ("A", "reference"),
    ("B", "reference"),
    ("B2", "reference"),
    ("reference", "packed"),
    ("A", "B"),
    ("B", "B2"),
    ("A", "packed, no oneDNN"),
    ("B2", "packed, no oneDNN"),
    ("packed, no oneDNN", "packed"),
    ("packed, ept-star", "packed"),
)
# Of these, what the page shows; results/training.md has all of them.
SHOWN_PART = "main"
SHOWN_RATIOS = (*RATIOS[:3], ("reference", "packed"), ("packed, no oneDNN", "packed"))
# What the packed engine was built to reach: (cell, slower variant, what of it, least quotient).
SMALL = "main t5-small b16 realistic prompt-tuning n10 k1 fp32"
BASE = "main t5-base b4 realistic prompt-tuning n10 k1 fp32"
WANTED = (
    (SMALL, "A", "seconds", 4.0),
    (SMALL, "B", "seconds", 3.2),
    (SMALL, "B2", "seconds", 2.2),
    (SMALL, "B", "kept_bytes", 6.0),
    (BASE, "A", "seconds", 2.8),
)
WANTED_SHARE = 0.55
TITLES = {"seconds": "time", "kept_bytes": "kept activations"}
# What the packed engine is where all multiply by one library.
OTHER = "packed, no oneDNN"


def per_run(cell: Mapping[str, Any], name: str) -> list[float]:
    """Seconds of one run's step in each round: a fleet's step is shared by its runs."""
    runs = cell["cell"]["fleet"] if VARIANTS[name].engine else 1
    return [seconds / runs for seconds in cell["variants"][name]["seconds"]]


def quotients(cell: Mapping[str, Any], slow: str, fast: str) -> list[float]:
    """Time of one over time of the other, round by round."""
    return [a / b for a, b in zip(per_run(cell, slow), per_run(cell, fast), strict=True)]


def share(cell: Mapping[str, Any], name: str) -> float:
    """The counted operations of the probed round's pass over what the machine's matrix products could have done in it.

    A pass over the time of a whole step: what the step does beside the pass makes the share smaller.
    """
    variant = cell["variants"][name]
    return variant["flops"] / variant["seconds"][cell["probed_round"]] / max(cell["matrix_rate"])


def tables(cells: Cells, *, details: bool = False) -> str:
    """The summary for the page; with details also targets, all parts and ratios, and what each variant's step costs."""
    parts = list(dict.fromkeys(cell["cell"]["part"] for cell in cells.values()))
    is_summary = not details and SHOWN_PART in parts
    blocks = [regularizer_context(cells)]
    if not is_summary and (SMALL in cells or BASE in cells):
        blocks.append(wanted(cells))
    for part in [SHOWN_PART] if is_summary else parts:
        mine = {key: cell for key, cell in cells.items() if cell["cell"]["part"] == part}
        blocks += [f"**{part}**: ratios of the time of a step", ratios(mine, SHOWN_RATIOS if is_summary else RATIOS)]
        if details:
            blocks += [f"**{part}**: what a step costs", costs(mine)]
    return "\n\n".join(blocks)


def regularizer_context(cells: Cells) -> str:
    """Where the cells were measured, and how busy the machine was: one line for each place."""
    loads: dict[str, list[float]] = {}
    for cell in cells.values():
        place = ", ".join(f"{name} {value}" for name, value in cell["environment"].items())
        loads.setdefault(place, []).extend(cell["load"])
    return "\n".join(f"Measured on {place}; load average up to {max(values):.1f}." for place, values in loads.items())


def wanted(cells: Cells) -> str:
    """What was asked for and what was found, where it is measured; also without the help of another library."""
    lines: list[Sequence[str]] = [("cell", "packed against", "wanted", "found", "found, no oneDNN")]
    for key, slow, what, least in WANTED:
        cell = cells.get(key)
        if cell is None or "packed" not in cell["variants"]:
            continue
        if what == "seconds":
            measured = [quotients(cell, slow, fast) for fast in ("packed", OTHER) if fast in cell["variants"]]
            texts = [f"{_spread(values)} {_met(statistics.median(values) >= least)}" for values in measured]
        else:
            quotient = cell["variants"][slow][what] / cell["variants"]["packed"][what]
            texts = [f"{quotient:.1f} {_met(quotient >= least)}"]
        lines.append((_short(key), f"{slow}, {TITLES[what]}", f"{least:g}", *_filled(texts)))
    cell = cells.get(SMALL)
    if cell is not None and "packed" in cell["variants"]:
        measured = [share(cell, name) for name in ("packed", OTHER) if name in cell["variants"]]
        texts = [f"{value:.0%} {_met(value >= WANTED_SHARE)}" for value in measured]
        lines.append((_short(SMALL), "the peak rate", f"{WANTED_SHARE:.0%}", *_filled(texts)))
    return _markdown(lines)


def _filled(texts: Sequence[str]) -> tuple[str, str]:
    return texts[0], texts[1] if len(texts) > 1 else ""


def ratios(cells: Cells, pairs: Sequence[tuple[str, str]] = RATIOS) -> str:
    """One line a cell, one column a quotient: the median over rounds, the smallest and the largest."""
    present = [pair for pair in pairs if any(set(pair) <= set(cell["variants"]) for cell in cells.values())]
    lines: list[Sequence[str]] = [("cell", *(f"{slow} / {fast}" for slow, fast in present))]
    for key, cell in cells.items():
        spreads = [_spread(quotients(cell, *pair)) if set(pair) <= set(cell["variants"]) else "" for pair in present]
        lines.append((_short(key), *spreads))
    return _markdown(lines)


def costs(cells: Cells) -> str:
    """One line a cell and variant."""
    titles = ("cell", "variant", "s/step", "rows/s", "tokens/s", "kept MiB", "peak MiB", "GFLOP", "share of peak rate")
    lines: list[Sequence[str]] = [titles]
    for key, cell in cells.items():
        rows, tokens = cell["cell"]["batch"], statistics.median(cell["tokens"])
        for name, variant in cell["variants"].items():
            seconds = statistics.median(per_run(cell, name))
            runs = cell["cell"]["fleet"] if VARIANTS[name].engine else 1
            numbers = (f"{seconds:.3g}", f"{rows / seconds:.3g}", f"{tokens / seconds:.0f}")
            sizes = tuple(f"{variant[what] / runs / 2**20:.1f}" for what in ("kept_bytes", "peak_bytes"))
            work = (f"{variant['flops'] / runs / 1e9:.3g}", f"{share(cell, name):.0%}")
            lines.append((_short(key), name, *numbers, *sizes, *work))
    return _markdown(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _met(is_met: bool) -> str:
    return "reached" if is_met else "**missed**"


def _short(key: str) -> str:
    return key.partition(" ")[2]


def _markdown(lines: Iterable[Sequence[str]]) -> str:
    head, *body = lines
    number = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, number, *body))
