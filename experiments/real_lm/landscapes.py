"""Landscapes of few-shot prompts on the real model: is the loss over the input steep, and does PTP smooth it?

Prompts of ten random vectors, SST-2 with 32 rows a class, with and without PTP's random noise, the same seeds; each on
a plane around embedded test rows (docs/landscape.md).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt.settings import LandscapeSettings, PromptSettings, Seeds
from softprompt.store import json_bytes, write_file
from softprompt.study import markdown
from softprompt.training import without_advice

from ..common.runs import run_in
from ..notes.landscapes import measured
from .arms import ARMS
from .design import SIZES
from .tasks import cut_rows, study_task

TASK, SIZE, SEEDS = "glue/sst2", "k32", (0, 1, 2)
COMPARED = ("pt", "rn")
# Nine points a side, because 81 copies of a row take as long as a step of 100 rows.
PLANE = LandscapeSettings(grid=9, rows=24)
SCORED_ROWS = 300
# Row of the table -> name of the number, and its digits.
SHOWN = {
    "accuracy on 300 rows": ("score", 3),
    "max - min of the loss within the plane, nats": ("range", 2),
    "mean change within the plane, nats": ("mean_change", 2),
    "slope in the middle, nats per rms": ("gradient_norm_rms", 2),
    "curvature in the middle, nats per rms²": ("curvature_rms", 2),
}


def measure_landscapes(model: str, data_root: Path, work: Path, result: Path) -> dict[str, Any]:
    """Train the prompts, or go on with them, and write the numbers of their landscapes: by arm and seed."""
    cut_rows(TASK, data_root, work / "landscape-rows", SCORED_ROWS)
    values: dict[str, Any] = json.loads(result.read_text()) if result.is_file() else {}
    for arm in COMPARED:
        if arm in values:
            continue
        folder = work / f"landscape-{arm}"
        with without_advice():
            run_in(
                folder,
                study_task(TASK, work / "landscape-rows"),
                model,
                prompts=[PromptSettings(**ARMS[arm].prompt, seeds=Seeds.all(seed)) for seed in SEEDS],
                settings=SIZES[SIZE].settings(ARMS[arm].loss),
            )
        values[arm] = dict(zip(map(str, SEEDS), measured(folder, PLANE), strict=True))
        write_file(result, json_bytes(values), what="the landscapes", replace=True)
    return values


def table(values: Mapping[str, Any]) -> str:
    """The numbers of each seed without and with noise, as the page has them."""

    def cells(key: str, digits: int) -> dict[str, str]:
        pairs = {seed: [values[arm][str(seed)][key] for arm in COMPARED] for seed in SEEDS}
        return {f"seed {seed}": " → ".join(f"{value:.{digits}f}" for value in pair) for seed, pair in pairs.items()}

    return markdown([{"": name, **cells(*shown)} for name, shown in SHOWN.items()])
