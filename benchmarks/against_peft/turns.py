"""One cell: every variant is built on the same weights, has to compute the same, and then they take turns."""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.against_peft import measure
from benchmarks.against_peft.cells import VARIANTS, Cell, Variant
from benchmarks.against_peft.ours import Ours, backbone_of
from benchmarks.against_peft.peer import Peer
from benchmarks.against_peft.rows import (
    SHAPES,
    batches,
    drawn_rows,
    lengths_of,
    random_model,
    real_rows,
    stored_t5,
    tokens,
)
from softprompt.data import Examples, Ragged
from softprompt.prompts.trainable import TrainablePrompt
from transformers import T5Tokenizer

LR = 0.1
# Rows on which all variants are compared before they are timed.
CHECKED = 4
# Precision -> (difference of the loss, of the gradient relative to its length). In bfloat16 the two sides do not round
# at the same places: this only refuses another computation.
TOLERANCES = {"fp32": (1e-5, 1e-3), "tf32": (1e-2, 1e-1), "bf16": (1e-1, 5e-1)}


class Unequal(Exception):
    """The two sides do not compute the same: a ratio of their times would mean nothing."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What all cells share.

    Args:
        device: where.
        pairs: timed rounds.
        matrix: side of the product that the peak rate is measured with.
        model: folder of a checkpoint, for the cells whose shape is one.
        tokenizer: folder of a tokenizer, for real rows and random weights.
        data_root: folder of real rows.
    """

    device: torch.device
    pairs: int
    matrix: int
    model: Path | None = None
    tokenizer: Path | None = None
    data_root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """The variants of a cell, and what they train on."""

    examples: Examples
    batches: list[list[int]]
    limit: int
    variants: dict[str, Peer | Ours]


def measured(cell: Cell, machine: Machine) -> dict[str, Any]:
    """Everything that the tables are made of, as plain values.

    Raises:
        Unequal: two variants do not compute the same loss and gradient.
    """
    load = os.getloadavg()[0]
    with made(cell, machine) as setup:
        checks = equal(setup, cell.precision)
        probed = _middle(setup)
        costs = {
            name: costs_of(variant, setup.batches[probed], machine.device) for name, variant in setup.variants.items()
        }
        times, rates = rounds(setup, cell, machine)
    loads = [round(x, 2) for x in (load, os.getloadavg()[0])]
    counts = [tokens(setup.examples, rows) for rows in setup.batches[1:]]
    widths = [int(setup.examples.lengths[rows].max()) for rows in setup.batches[1:]]
    return {
        "cell": dataclasses.asdict(cell),
        "tokens": counts,
        "longest": widths,
        "limit": setup.limit,
        "probed_round": probed - 1,
        "matrix_rate": rates,
        "load": loads,
        "checks": checks,
        "variants": {name: {"seconds": times[name], **costs[name]} for name in setup.variants},
    }


@contextlib.contextmanager
def made(cell: Cell, machine: Machine) -> Iterator[Made]:
    """The variants on the same weights and rows; the Trainers are ended afterwards."""
    model, tokenizer = _model(cell, machine)
    # Autocast, which the Trainer's bf16 is, keeps the weights in float32; ours are frozen in bfloat16.
    frozen = _model(cell, machine)[0].bfloat16() if cell.precision == "bf16" else model
    examples, limit = _rows(cell, machine, model, tokenizer)
    order = batches(len(examples), cell.batch)
    engines = {"reference", *(engine for name in cell.variants if (engine := VARIANTS[name].engine))}
    backbones = {engine: backbone_of(frozen, tokenizer, engine) for engine in sorted(engines)}
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # Of transformers and PEFT, about what is dropped one day.
        warnings.simplefilter("ignore")
        place = Path(temporary)

        def ours(name: str, engine: str, variant: Variant) -> Ours:
            method = variant.method or cell.method
            options = {"prompt_length": cell.n} if method == cell.method else {}
            return Ours(
                backbones[engine], method, examples, order,
                options=options, fleet=cell.fleet, onednn=variant.onednn, lr=LR, folder=place / name,
            )  # fmt: skip

        first = ours("first", "reference", VARIANTS["reference"])
        prompt = first.prompts[0].trainable
        assert isinstance(prompt, TrainablePrompt)
        first.close()
        variants: dict[str, Peer | Ours] = {}
        for name in cell.variants:
            variant = VARIANTS[name]
            if variant.engine is not None:
                variants[name] = ours(name, variant.engine, variant)
                continue
            variants[name] = Peer(
                model, tokenizer, prompt, examples, order,
                pad_to=limit if variant.pads == "task" else None, dropout=variant.dropout, lr=LR,
                device=machine.device, precision=cell.precision, folder=place / name,
            )  # fmt: skip
        try:
            yield Made(examples=examples, batches=order, limit=limit, variants=variants)
        finally:
            for one in variants.values():
                one.close()


def equal(made: Made, precision: str) -> dict[str, dict[str, float]]:
    """How far each variant's loss and prompt gradient are from those of the first with its method, dropout off.

    Rows with answers of one length at a time: transformers means the loss over all tokens of a batch, softprompt over
    a row's tokens and then over rows, which is the same only there.

    Raises:
        Unequal: further than rounding explains.
    """
    checks: dict[str, dict[str, float]] = {}
    for rows in _same_answers(made.examples, made.batches[1][:CHECKED]):
        first: dict[str, tuple[float, torch.Tensor]] = {}
        for name, variant in made.variants.items():
            loss, gradient = variant.loss_and_gradient(rows)
            method = VARIANTS[name].method or ""
            expected, slope = first.setdefault(method, (loss, gradient.float()))
            apart: dict[str, float] = {
                "loss": abs(loss - expected),
                "gradient": float((gradient.float() - slope).norm() / slope.norm()),
            }
            checks[name] = {key: max(value, checks.get(name, {}).get(key, 0.0)) for key, value in apart.items()}
    most = TOLERANCES[precision]
    for name, apart in checks.items():
        # Not >, which a NaN would pass.
        if not (apart["loss"] <= most[0] and apart["gradient"] <= most[1]):
            raise Unequal(f"{name} computes something else: differences {apart}, at most {most} is rounding")
    return checks


def costs_of(variant: "Peer | Ours", rows: Sequence[int], device: torch.device) -> dict[str, int]:
    """Operations and memory of a pass over these rows."""
    kept: list[int] = []

    def run() -> None:
        variant.probe(rows)

    operations = measure.flops(run)
    peak = measure.peak_bytes(lambda: kept.append(measure.kept_bytes(run)), device)
    return {"flops": operations, "kept_bytes": kept[0], "peak_bytes": peak}


def rounds(made: Made, cell: Cell, machine: Machine) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds of each variant's step in each round, and the machine's rate of matrix products beside them.

    The first step of each is not counted. Who begins changes from round to round.
    """
    dtype = torch.bfloat16 if cell.precision == "bf16" else torch.float32
    for variant in made.variants.values():
        if isinstance(variant, Peer):
            variant.start()
        variant.step()
    times: dict[str, list[float]] = {name: [] for name in made.variants}
    rates = []
    measure.matrix_rate(machine.device, dtype, machine.matrix)
    for number in range(machine.pairs):
        rates.append(measure.matrix_rate(machine.device, dtype, machine.matrix))
        for name in _turned(list(made.variants), number):
            times[name].append(measure.seconds(made.variants[name].step, machine.device))
    return times, rates


def _turned(names: list[str], number: int) -> list[str]:
    first = number % len(names)
    return names[first:] + names[:first]


def _middle(made: Made) -> int:
    """The timed batch with the median number of tokens."""
    counts = {number: tokens(made.examples, rows) for number, rows in enumerate(made.batches) if number}
    return min(counts, key=lambda number: (abs(counts[number] - statistics.median(counts.values())), number))


def _same_answers(examples: Examples, rows: Sequence[int]) -> list[list[int]]:
    assert isinstance(examples.targets, Ragged)
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(examples.targets.lengths[row]), []).append(row)
    return list(groups.values())


def _model(cell: Cell, machine: Machine) -> tuple[Any, Any]:
    if cell.shape not in SHAPES:
        assert machine.model is not None
        model, tokenizer = stored_t5(machine.model)
    else:
        model, tokenizer = random_model(cell.shape)
        if machine.tokenizer is not None:
            tokenizer = T5Tokenizer.from_pretrained(machine.tokenizer)
    return model.to(machine.device), tokenizer


def _rows(cell: Cell, machine: Machine, model: Any, tokenizer: Any) -> tuple[Examples, int]:
    count = cell.batch * (machine.pairs + 1)
    if "/" not in cell.rows:
        return drawn_rows(cell.rows, count, model.config.vocab_size), lengths_of(cell.rows).most
    assert machine.data_root is not None
    return real_rows(cell.rows, backbone_of(model, tokenizer, "reference"), machine.data_root, count, cell.n)
