"""What is measured: a cell is a model's shape, a batch, rows and a method, and the variants that take turns on it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train.

    Args:
        title: for tables.
        engine: ours; None for the peer.
        pads: the peer pads to the longest row of the "batch", or to the "task"'s limit.
        dropout: whether the peer leaves the frozen model's dropout on.
        method: where it is not the cell's.
        onednn: whether our engine may multiply by oneDNN.
    """

    title: str
    engine: str | None = None
    pads: str = "batch"
    dropout: bool = True
    method: str | None = None
    onednn: bool = True


VARIANTS = {
    "A": Variant(title="PEFT + Trainer, padded to the task's limit", pads="task"),
    "B": Variant(title="PEFT + Trainer, padded to the longest"),
    "B2": Variant(title="B without dropout", dropout=False),
    "reference": Variant(title="ours, reference engine", engine="reference"),
    "packed": Variant(title="ours, packed engine", engine="packed"),
    "packed, no oneDNN": Variant(title="the same, its products by the peer's library", engine="packed", onednn=False),
    "packed, ept-star": Variant(title="ours, packed engine, EPT*", engine="packed", method="ept-star"),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One line of a table.

    Args:
        part: of the benchmark.
        shape: of the model, or "checkpoint:NAME".
        batch: rows of a run in a step.
        rows: name of drawn lengths, or of a task.
        method: of softprompt and of PEFT.
        n: prompt length.
        fleet: runs that share a pass, on our side; the peer has one.
        precision: "fp32", "tf32" or "bf16".
        variants: names in VARIANTS.
    """

    part: str
    shape: str
    batch: int
    rows: str
    method: str = "prompt-tuning"
    n: int = 10
    fleet: int = 1
    precision: str = "fp32"
    variants: tuple[str, ...] = ("A", "B", "B2", "reference", "packed")

    @property
    def key(self) -> str:
        """Its name in the results."""
        parts = (self.shape, f"b{self.batch}", self.rows, self.method, f"n{self.n}", f"k{self.fleet}", self.precision)
        return " ".join((self.part, *parts))


GROWING = ("B", "reference", "packed")
# The wanted ratios first: a run that is stopped has them.
MAIN = (
    Cell(part="main", shape="t5-small", batch=16, rows="realistic",
         variants=("A", "B", "B2", "reference", "packed", "packed, no oneDNN", "packed, ept-star")),
    Cell(part="main", shape="t5-base", batch=4, rows="realistic",
         variants=("A", "B", "B2", "reference", "packed", "packed, no oneDNN")),
    Cell(part="main", shape="t5-small", batch=4, rows="realistic"),
    Cell(part="main", shape="t5-small", batch=4, rows="multirc-like"),
    Cell(part="main", shape="t5-small", batch=4, rows="long"),
    Cell(part="main", shape="t5-small", batch=16, rows="realistic", method="p-tuning"),
    Cell(part="main", shape="t5-base", batch=16, rows="realistic", variants=("A", "B", "reference", "packed")),
    Cell(part="main", shape="bart-base", batch=16, rows="realistic", variants=("A", "B", "B2", "reference", "packed")),
)  # fmt: skip


def growth() -> tuple[Cell, ...]:
    """One thing at a time around t5-small's shape, batch 4, 96 tokens, ten vectors; nothing is padded."""
    middle = {"part": "growth", "shape": "t5-small", "batch": 4, "rows": "equal-96", "variants": GROWING}
    changes = (
        {},
        {"n": 1},
        {"n": 100},
        {"rows": "equal-32"},
        {"rows": "equal-256"},
        {"rows": "equal-512"},
        {"batch": 1},
        {"batch": 16},
        {"fleet": 2},
        {"fleet": 4},
        {"fleet": 8},
        {"shape": "t5-base"},
    )
    return tuple(Cell(**{**middle, **change}) for change in changes)  # pyright: ignore[reportArgumentType]  (keys are Cell's fields)


def real(tasks: tuple[str, ...]) -> tuple[Cell, ...]:
    """Real rows of these tasks."""
    return tuple(Cell(part="real", shape="t5-small", batch=16, rows=name) for name in tasks)


def gpu(
    shapes: tuple[str, ...] = ("t5-base", "t5-large"), rows: str = "realistic", fleets: tuple[int, ...] = (1, 4, 16, 64)
) -> tuple[Cell, ...]:
    """All precisions and fleets; the peer, one run, is measured beside every fleet, our reference for one run."""
    return tuple(
        Cell(part="gpu", shape=shape, batch=batch, rows=rows, fleet=fleet, precision=precision,
             variants=("A", "B", *(("reference",) if fleet == 1 else ()), "packed"))
        for shape in shapes
        for batch in (16, 4)
        for precision in ("fp32", "tf32", "bf16")
        for fleet in fleets
    )  # fmt: skip


# Seconds, for the tests and to see whether everything runs.
QUICK = (
    Cell(part="quick", shape="tiny", batch=4, rows="tiny",
         variants=("A", "B", "B2", "reference", "packed", "packed, no oneDNN", "packed, ept-star")),
    Cell(part="quick", shape="tiny", batch=4, rows="tiny", method="p-tuning"),
    Cell(part="quick", shape="tiny", batch=4, rows="equal-12", fleet=2, variants=GROWING),
)  # fmt: skip
