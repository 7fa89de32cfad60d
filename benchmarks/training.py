"""A training step of PEFT under the Hugging Face Trainer and ours, in turns in one process: ratios and their spread.

    python benchmarks/training.py                                     # --part main
    python benchmarks/training.py --part growth
    python benchmarks/training.py --part real --data-root DATA --tokenizer FOLDER [--model FOLDER]
    python benchmarks/training.py --part gpu --device cuda
    python benchmarks/training.py --quick                             # seconds: does everything run?
    python benchmarks/training.py --table                             # what is measured, as Markdown
    python benchmarks/training.py --fill docs/results/speed.md        # its ratios, between the marks of that file

Same weights, same rows, same batches, same initial vectors. Before anything is timed, all variants have to give the
same loss and the same prompt gradient with dropout off; otherwise the cell is refused. A cell that is measured is in
results/training.json and is not measured again (`--again` does); what a run does not touch stays as it is. The peer's
threads each keep what they have freed: with MALLOC_ARENA_MAX=1 a t5-base at batch 16 fits into 24 GB.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from against_peft.cells import MAIN, QUICK, VARIANTS, Cell, gpu, growth, real

RESULT = Path(__file__).parent / "results" / "training.json"
MARKS = "<!-- benchmarks/training.py: begin -->\n", "<!-- benchmarks/training.py: end -->"


def cells(arguments: argparse.Namespace) -> list[Cell]:
    """What the arguments ask for."""
    from against_peft.rows import REAL

    if arguments.quick:
        return [*QUICK, *(gpu(("tiny",), "tiny", (1, 2)) if arguments.part in ("gpu", "all") else ())]
    parts = {"main": MAIN, "growth": growth(), "real": real(REAL), "gpu": gpu()}
    # "all" is what a CPU can do.
    chosen = [part for part in parts if arguments.part == part or (arguments.part == "all" and part != "gpu")]
    chosen_cells = [cell for part in chosen for cell in parts[part]]
    if arguments.model is not None:
        shape = f"checkpoint:{arguments.model.name}"
        chosen_cells = [dataclasses.replace(cell, shape=shape) for cell in chosen_cells if cell.shape == "t5-small"]
    return chosen_cells


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Where it was measured."""
    import torch

    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else _processor()
    versions = {package: version(package) for package in ("torch", "transformers", "peft", "accelerate")}
    return {"device": name, "threads": arguments.threads, "pairs": arguments.pairs, **versions}


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def measure(arguments: argparse.Namespace) -> None:
    """Every cell that is not there yet; each is written as soon as it is measured."""
    # Before torch is imported: its profiler tells of every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    import torch

    from against_peft.report import ratios
    from against_peft.turns import Machine, Unequal, measured

    torch.set_num_threads(arguments.threads)
    # For both sides, though only our loop turns it on by itself: numbers below 1e-38 become 0.
    torch.set_flush_denormal(True)
    machine = Machine(
        device=torch.device(arguments.device),
        pairs=arguments.pairs,
        matrix=256 if arguments.quick else 8192 if arguments.device.startswith("cuda") else 2048,
        model=arguments.model,
        tokenizer=arguments.tokenizer,
        data_root=arguments.data_root,
    )
    print("\n".join(f"{name}: {variant.title}" for name, variant in VARIANTS.items()), flush=True)
    refused = []
    for cell in cells(arguments):
        values = read(arguments.results)
        if cell.key in values and not arguments.again and set(cell.variants) <= set(values[cell.key]["variants"]):
            continue
        # Not `allow_tf32`: transformers sets it by the newer name, and torch refuses both in one process.
        torch.backends.cuda.matmul.fp32_precision = "tf32" if cell.precision == "tf32" else "ieee"
        try:
            record = {**measured(cell, machine), "environment": environment(arguments)}
        except (Unequal, torch.OutOfMemoryError) as error:
            print(f"{cell.key}: {error}", flush=True)
            refused.append(cell.key)
            continue
        write(arguments.results, {**values, cell.key: record})
        print(ratios({cell.key: record}), flush=True)
    if refused:
        raise SystemExit(f"not measured: {', '.join(refused)}")


def read(path: Path) -> dict[str, Any]:
    """The cells that are measured."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, values: dict[str, Any]) -> None:
    """All cells, whole or not at all."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(values, indent=1) + "\n")
    beside.replace(path)


def fill(page: Path, text: str) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = page.read_text().partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    if not mark:
        raise SystemExit(f"{page} has no marks {MARKS[0].strip()!r} ... {MARKS[1]!r}")
    page.write_text(f"{before}{MARKS[0]}{text}\n{MARKS[1]}{after}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--part", choices=("main", "growth", "real", "gpu", "all"), default="main")
    options.add_argument("--pairs", type=int, default=5, help="timed rounds of a cell")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", default="cpu")
    options.add_argument("--model", type=Path, help="folder of a T5 checkpoint, in the place of t5-small's shape")
    options.add_argument("--tokenizer", type=Path, help="folder of T5's tokenizer, for real rows on random weights")
    options.add_argument("--data-root", type=Path, help="folder of real rows")
    options.add_argument("--results", type=Path, default=RESULT)
    options.add_argument("--quick", action="store_true", help="tiny shapes only")
    options.add_argument("--again", action="store_true", help="measure cells that are there already, too")
    options.add_argument("--table", action="store_true", help="print the tables of what is there, measure nothing")
    options.add_argument("--fill", type=Path, help="put the tables of ratios into this page, measure nothing")
    return options


def main() -> None:
    """Measure, or make tables of what is measured."""
    arguments = parser().parse_args()
    if arguments.table or arguments.fill:
        from against_peft.report import tables

        results = read(arguments.results)
        fill(arguments.fill, tables(results)) if arguments.fill else print(tables(results, details=True))
        return
    asks_real = arguments.part in ("real", "all") and not arguments.quick
    if asks_real and (arguments.data_root is None or (arguments.tokenizer is None and arguments.model is None)):
        raise SystemExit("part real needs --data-root, and --tokenizer (random weights) or --model")
    if arguments.quick and arguments.results == RESULT:
        # Nothing to keep.
        arguments.results = Path(tempfile.mkdtemp()) / RESULT.name
    measure(arguments)


if __name__ == "__main__":
    main()
