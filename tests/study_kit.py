"""What the tests of studies share."""

import json
from pathlib import Path
from typing import Any

from softprompt.settings import PromptSettings, Seeds
from softprompt.study import RunSpec, StoredRun, run_all
from softprompt.tasks import Task

QUICK = {"steps": 4, "eval_every": 2, "batch_size": 4}
RTE = RunSpec(task="glue/rte", model="m", prompt=PromptSettings(method="ept-star"))


def quietly(specs, store, **options):
    return run_all(specs, store, progress=False, device="cpu", **options)


def contents(store: Path) -> dict[str, Any]:
    """Everything in the stored runs but their seconds."""
    found = {}
    for path in sorted((store / "runs").iterdir()):
        values = json.loads(path.read_bytes())["run"]
        assert values.pop("seconds") > 0
        found[path.name] = json.dumps(values)
    return found


def stored(
    method: str,
    seed: int,
    score: float | None,
    task: Task | str = "glue/rte",
    norm: float | None = None,
    majority: float | None = 0.5,
):
    """A stored run with this test score, and these norms in the middle of its curve."""
    spec = RunSpec(
        task=task, model="m", prompt=PromptSettings(method=method, seeds=Seeds.all(seed)), tags={"part": "x"}
    )
    metrics = {} if score is None else {"test": {"score": score}, "validation": {"score": score}}
    curve = {"step": [1, 2, 3], "token_norms": [99.0, norm, 99.0]} if norm is not None else {}
    return StoredRun(
        name=spec.name, spec=spec, metrics=metrics, majority=majority, best_step=2, trainable=1, head=0, stored=1,
        seconds=1.0, status="finished" if score is not None else "dropped at step 1: nan", curve=curve,
    )  # fmt: skip
