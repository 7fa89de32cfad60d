"""What a machine without a network needs for the study, in folders small enough to be sent one by one.

    python -m experiments.real_lm carry .carry --data-root DATA --model MODEL.gguf --wheels WHEELS

On that machine `machine.sh` beside this file keeps what each folder brings, puts the model together and runs the study.
"""

import gzip
import lzma
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from softprompt.errors import BadInput

from .design import RATE_TASKS, TASK_ORDER
from .tasks import PLACES, POOL, SCORED

# Fast, and within two per cent of the smallest.
PRESET = 2


def pack(folder: Path, data_root: Path, model: Path, wheels: Path | None, sizes: Sequence[int]) -> Iterator[Path]:
    """Write the folders 0, 1 ... and yield their files: a part of the model in each, rows and wheels in the first.

    Args:
        folder: made anew.
        data_root: folder with the rows.
        model: the model's GGUF file.
        wheels: packages that the machine lacks, or None.
        sizes: of the parts of the compressed model but the last, which takes the rest, in bytes.

    Raises:
        BadInput: no such file, or parts that are larger than the model.
    """
    if not model.is_file():
        raise BadInput(f"{model} is not there; give --model, the GGUF file of the model")
    shutil.rmtree(folder, ignore_errors=True)
    whole = lzma.compress(model.read_bytes(), preset=PRESET)
    if sum(sizes) >= len(whole):
        raise BadInput(
            f"the compressed model has {len(whole)} bytes, fewer than the parts {list(sizes)} before its last"
        )
    for number, size in enumerate([*sizes, len(whole)]):
        start = sum(sizes[:number])
        path = folder / str(number) / f"{model.name}.xz.{number}"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[start : start + size])
        yield path
    for place in sorted({place for task in (*TASK_ORDER, *RATE_TASKS) for place in PLACES[task]}):
        yield _rows(data_root / place, folder / "0" / "data" / place)
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        target = folder / "0" / "wheels" / wheel.name
        target.parent.mkdir(exist_ok=True)
        yield Path(shutil.copy(wheel, target))


def _rows(source: Path, target: Path) -> Path:
    """The first rows of a file, which are all that the study reads."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt") as lines, gzip.open(target, "wt") as kept:
        kept.writelines(islice(lines, POOL + max(SCORED.values())))
    return target
