"""Our own claim: a small prompt is overwritten by its residual updates, and a large prompt ignores the text."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from .check import Check, at_least
from .claim import Claim
from .fixed_norm import arms, at_radius
from .results import Record, Results, score

# In powers of ten, and in shares of the state.
FALL, TEXT = 1.0, 0.1
# Half of a power of ten: a factor of three.
NEAR = 0.5


def of_layer(layer: int, quantity: str) -> Callable[[Record], float | None]:
    """A quantity of the states after a layer; -1 is the last."""

    def found(record: Record) -> float | None:
        layers = record.get("drift")
        return layers[layer][quantity] if layers else None

    return found


def crossing(radii: Sequence[float], moved: Sequence[float]) -> float | None:
    """log10 of the norm at which the first layer moves the states by as much as the vector is long.

    Between two radii the logarithm of the movement is taken as a straight line over that of the radius; None where the
    movement does not cross 1.
    """
    for (low, above), (high, below) in zip(
        zip(radii, moved, strict=True), list(zip(radii, moved, strict=True))[1:], strict=False
    ):
        if above >= 1 > below and below > 0:
            share = math.log(above) / (math.log(above) - math.log(below))
            return math.log10(low) + share * (math.log10(high) - math.log10(low))
    return None


def nearness(results: Results) -> list[float]:
    """0.5 minus the distance, in powers of ten, between that norm and the one that scored best; one a task and seed."""
    radii = results.design.radii
    moved = [results.values(at_radius(r), of_layer(0, "moved")) for r in radii]
    scores = [results.values(at_radius(r), score) for r in radii]
    distances = []
    for cell in moved[0]:
        if not all(cell in column for column in (*moved, *scores)):
            continue
        where = crossing(radii, [column[cell] for column in moved])
        values = [column[cell] for column in scores]
        # The middle of those that scored best, on the scale of the axis.
        best = [math.log10(r) for r, value in zip(radii, values, strict=True) if value == max(values)]
        # If all states move, or none, the distance counts as the largest possible.
        distances.append(NEAR - (abs(where - sum(best) / len(best)) if where is not None else 2 * NEAR))
    return distances


def checks(results: Results) -> Sequence[Check]:
    """The three parts of the explanation."""
    small, large = at_radius(results.design.radii[0]), at_radius(results.design.radii[-1])
    ends = f"from {results.design.radii[0]:g} to {results.design.radii[-1]:g} token norms"

    def log_moved(record: Record) -> float | None:
        value = of_layer(0, "moved")(record)
        return math.log10(value) if value else None

    return [
        at_least(f"first layer moves it less {ends}", "powers of ten", results.paired(small, large, log_moved), FALL),
        at_least(
            f"last states depend less on the text {ends}",
            "share of a state",
            results.paired(small, large, of_layer(-1, "varies")),
            TEXT,
        ),
        at_least(
            "best norm is within a factor 3 of where both are equal", "0.5 - powers of ten", nearness(results), 0.0
        ),
    ]


def figure(results: Results, plots: Any) -> Any:
    """How far the first layer moves a state, and how much the last depends on the text, over the norm."""
    curves = {}
    quantities = {
        "moved by the first layer, of its length": (0, "moved"),
        "last states: share that is text": (-1, "varies"),
    }
    for name, (layer, quantity) in quantities.items():
        points = [
            (r, list(results.values(at_radius(r), of_layer(layer, quantity)).values())) for r in results.design.radii
        ]
        points = [(r, values) for r, values in points if values]
        if points:
            means = [sum(values) / len(values) for _, values in points]
            curves[name] = ([r for r, _ in points], means, None, None)
    return curves and plots.curve_figure(
        curves, x="norm of the vector, in token norms", y="mean over texts and positions", log_x=True, log_y=True
    )


def rows(results: Results) -> Sequence[dict[str, Any]]:
    """What happens at each norm."""
    table = []
    for radius in results.design.radii:
        arm = at_radius(radius)
        row: dict[str, Any] = {"norm": f"{radius:g}", "n": len(results.values(arm, of_layer(0, "moved")))}
        for name, layer, quantity in (
            ("moved by layer 1", 0, "moved"),
            ("norm at the end", -1, "norm"),
            ("cosine kept at the end", -1, "kept"),
            ("text's share at the end", -1, "varies"),
        ):
            values = list(results.values(arm, of_layer(layer, quantity)).values())
            row[name] = f"{sum(values) / len(values):.3g}" if values else ""
        scores = list(results.values(arm, score).values())
        row["score"] = f"{sum(scores) / len(scores):.3f}" if scores else ""
        table.append(row)
    return table


DRIFT = Claim(
    title="Why a norm is best: below it the layers overwrite the prompt, above it the prompt ignores the text",
    source="ours, a reading of the curve above and no claim of the papers",
    rule="States at the prompt's positions over 64 test passages. Three things are asked. (1) How far the first layer "
    "moves a state, relative to the vector's length, falls by ten times or more from the smallest norm to the "
    "largest. (2) The share of the last states that depends on the text falls by 0.1 or more. (3) The norm at "
    "which (1) is 1 lies within a factor of three of the norm with the best score. All intervals have to be above "
    "0.",
    arms=arms,
    probes=("drift",),
    checks=checks,
    figure=figure,
    rows=rows,
)
