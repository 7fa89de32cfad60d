"""Which settings lower the spread over seeds in few-shot training: a screen, and a confirmation on fresh seeds.

    python -m experiments.stability.study screen  [--store runs/stability-study]
    python -m experiments.stability.study second   [more restarts, fewer vectors; eight seeds, three tasks]
    python -m experiments.stability.study confirm [--seeds 64] [--settings nothing "restarts 3"]
    python -m experiments.stability.study real --data-root DATA     [a real frozen encoder; 12 seeds, 100 steps]

The plan is in PLAN.md. Runs are kept in a store, and each finished cell's scores in results/stability_<part>.json,
which is all that tables.py reads: it may be stopped and started again, also where the store is gone. Until
the screen is complete `confirm` trains what does not depend on it.
"""

import argparse
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, run_all
from softprompt.study.stability import Arm
from softprompt.tasks import TASKS, Source, Task, with_difficulty

from ..common.places import RESULTS
from ..common.results import ResultsFile, is_number

MODEL = "lab-t5-small"
STEPS, TEST_ROWS, DEVELOPMENT_ROWS = 250, 300, 32
# Task -> rows to learn from.
TASK_ROWS = {"lab/weekend": 64, "lab/same-color": 64, "lab/entailment": 32}
SCREENED = ("lab/weekend", "lab/same-color")
FEW_CB = "fewglue/cb"
# Thirty-two rows, as FewGLUE has; a learned head stands beside every prompt here, so it stands alone in the table too.
REAL, REAL_STEPS, REAL_SHOTS, REAL_SEEDS = ("glue/sst2", "glue/rte", FEW_CB), 100, 32, 12
SCREEN_SEEDS, SECOND_SEEDS, FIRST_FRESH, BLOCK = range(200, 206), range(300, 308), 1000, 8
# Seeds of the real encoder's tasks that every setting gets before any gets the next.
REAL_BLOCK = 4
NOTHING = "nothing"
# Setting -> fields of the prompt; of training where the name says so.
Setting = Mapping[str, Any]
PLAIN: Setting = {"method": "prompt-tuning", "units": "raw", "lr": 0.1}


def regularized(name: str, **prompt: Any) -> Setting:
    """Prompt tuning with a regulariser."""
    return {**PLAIN, "regularizer": name, **prompt}


SCREEN: dict[str, Setting] = {
    NOTHING: PLAIN,
    **{f"rn-emb:sigma={s},alpha={a}": regularized(f"rn-emb:sigma={s},alpha={a}")
       for s in (0.1, 0.3, 1.0) for a in (0.3, 1.0, 3.0)},
    **{f"adv-emb:radius={r},alpha={a}": regularized(f"adv-emb:radius={r},alpha={a}")
       for r in (0.1, 0.3, 1.0) for a in (0.1, 0.3, 1.0)},
    **{name: regularized(name) for name in (
        "ptp-rn", "ptp-rn:sigma=1", "ptp-adv", "ptp-adv:radius=1,alpha=1",
        "adv-emb:start=gaussian,sigma=0.1,objective=kl,steps=3,radius=1,alpha=0.3",
        "rn-text:rate=0.15", "rn-text:rate=0.15,delay=0.4", "adv-text:cosine=0.2",
    )},
    "restarts 3": {**PLAIN, "restarts": 3},
    "deep": {**PLAIN, "deep": True},
    "deep, rn-emb:sigma=0.3": regularized("rn-emb:sigma=0.3", deep=True),
    "deep, ptp-rn": regularized("ptp-rn", deep=True),
}  # fmt: skip


SCALE, SCALE_AND_RESTARTS = "rms units, lr 0.3", "rms units, lr 0.3, restarts 8"
# The settings of the second screen (third deviation in the log).
SECOND: dict[str, Setting] = {
    NOTHING: PLAIN,
    "restarts 8": {**PLAIN, "restarts": 8},
    "4 vectors, restarts 8": {**PLAIN, "options": {"m": 4}, "restarts": 8},
    "scaled, restarts 8": {"method": "scaled", "lr": 1.0, "restarts": 8},
    "scaled, 3 vectors, restarts 8": {
        "method": "scaled", "lr": 1.0, "options": {"m": 3, "repeats": 3}, "restarts": 8,
    },
    # Rates at which the confirmation study's ten vectors learn best from many rows, ten and a hundred times PLAIN's.
    "lr 1": {**PLAIN, "lr": 1.0},
    "lr 1, restarts 8": {**PLAIN, "lr": 1.0, "restarts": 8},
    SCALE: {**PLAIN, "units": "rms", "lr": 0.3},
    SCALE_AND_RESTARTS: {**PLAIN, "units": "rms", "lr": 0.3, "restarts": 8},
}  # fmt: skip


def confirmed_settings(kept: Sequence[str]) -> dict[str, Setting]:
    """The settings of the confirmation; the first of the kept PTP settings is the best, none are not known yet."""
    scaled, ept_star = {"method": "scaled", "lr": 1.0}, {"method": "ept-star", "lr": 0.3}
    return {
        NOTHING: PLAIN,
        "restarts 3": {**PLAIN, "restarts": 3},
        **{name: SCREEN[name] for name in kept},
        # Beside deep prompts with noise: what of it the noise does.
        "deep": SCREEN["deep"],
        "chosen on 32 validation rows": {**PLAIN, "eval_every": STEPS // 10},
        **{f"restarts 3, {name}": {**SCREEN[name], "restarts": 3} for name in kept[:1]},
        "scaled": scaled,
        "scaled, restarts 3": {**scaled, "restarts": 3},
        "ept-star": ept_star,
        "ept-star, restarts 3": {**ept_star, "restarts": 3},
        **best_and_its_parts(),
    }


def best_and_its_parts() -> dict[str, Setting]:
    """The choice of the second screen, its scale alone, PTP's presets at that scale, and its restarts alone."""
    if best_of_second() != SCALE_AND_RESTARTS:
        return {"restarts 8": SECOND["restarts 8"]}
    return {
        SCALE: SECOND[SCALE],
        SCALE_AND_RESTARTS: SECOND[SCALE_AND_RESTARTS],
        **{f"{SCALE}, {name}": {**SECOND[SCALE], "regularizer": name} for name in ("ptp-rn", "ptp-adv")},
        **{name: SECOND[name] for name in ("restarts 8", "scaled, restarts 8", "scaled, 3 vectors, restarts 8")},
    }


def task(name: str, data_root: str | None = None) -> Task:
    """A lab task with fewer rows to score than it declares, or real rows; FewGLUE's CB is scored on SuperGLUE's."""
    if name in TASK_ROWS:
        return with_difficulty(TASKS[name], validation=DEVELOPMENT_ROWS, test=TEST_ROWS)
    if name != FEW_CB:
        return TASKS[name]
    assert data_root is not None
    root = Path(data_root)
    files = {
        "train": str(root / "fewglue/cb/train.jsonl.gz"),
        "validation": str(root / "fewglue/cb/dev32.jsonl.gz"),
        "test": str(root / "super_glue/cb/validation.jsonl.gz"),
    }
    return dataclasses.replace(TASKS["super_glue/cb"], name=FEW_CB, source=Source(files=files))


def specs(name: str, setting: Setting, seeds: Sequence[int], data_root: str | None) -> list[RunSpec]:
    """The runs of a cell."""
    prompt = {key: value for key, value in setting.items() if key != "eval_every"}
    is_real = name not in TASK_ROWS
    steps, model = (REAL_STEPS, "minilm") if is_real else (STEPS, MODEL)
    settings = TrainSettings(
        steps=steps,
        eval_every=setting.get("eval_every", steps),
        shots=None if name == FEW_CB else TASK_ROWS.get(name, REAL_SHOTS),
        train_score=True,
        max_length=128 if is_real else None,
    )
    declared = task(name, data_root)
    return [
        RunSpec(task=declared, model=model, prompt=PromptSettings(**prompt, seeds=Seeds.all(seed)), settings=settings)
        for seed in seeds
    ]


def cells(
    part: str, wanted: Sequence[tuple[str, str, Setting, Sequence[int]]], store: str, data_root: str | None = None
) -> None:
    """Train what is not in the results yet, cell by cell, and write them after each."""
    results = read(part)
    for name, called, setting, seeds in wanted:
        cell = results.setdefault(name, {}).setdefault(called, {})
        left = [seed for seed in seeds if str(seed) not in cell]
        if not left:
            continue
        runs = run_all(specs(name, setting, left, data_root), store, fleet_size=BLOCK, data_root=data_root)
        for seed, run in zip(left, runs, strict=True):
            cell[str(seed)] = {
                "score": run.score,
                "train": run.metrics.get("train", {}).get("score"),
                "loss": statistics.mean(loss for loss in run.curve["loss"][-10:] if loss is not None),
                "steps": run.prompt_steps,
                "majority": run.majority,
            }
        flat = {f"{name}|{called}": cell for name, by_setting in results.items() for called, cell in by_setting.items()}
        FILE.write(path_of(part), {"cells": flat})
        scores = [record["score"] or 0.0 for record in cell.values()]
        print(f"{part} {name} {called}: {statistics.mean(scores):.3f} +- {statistics.stdev(scores):.3f}", flush=True)


def _is_record(record: Mapping[str, Any]) -> bool:
    if not {"score", "majority"} <= record.keys():
        return False
    return all(value is None or is_number(value) for value in record.values())


FILE = ResultsFile(
    study="the stability study",
    command="python -m experiments.stability.study",
    is_record=_is_record,
    required=("cells",),
    is_sorted=False,
)


def path_of(part: str, folder: "Path | str" = RESULTS) -> Path:
    """The results file of a part."""
    return Path(folder) / f"stability_{part}.json"


def read(part: str, folder: "Path | str" = RESULTS) -> dict[str, Any]:
    """Task -> setting -> seed -> the record of a run; empty where there is no file.

    Raises:
        DamagedFile: the file is not as it was written.
    """
    by_task: dict[str, Any] = {}
    for key, cell in (FILE.read(path_of(part, folder)) or {"cells": {}})["cells"].items():
        name, _, called = key.partition("|")
        by_task.setdefault(name, {})[called] = cell
    return by_task


def screened() -> dict[str, tuple[float, float]]:
    """Setting -> (its standard deviation over that of nothing, mean score), over the tasks; of complete settings.

    Of deviations the root mean square is taken over tasks.
    """
    cell = read("screen")
    complete = [
        name for name in SCREEN if all(len(cell.get(t, {}).get(name, {})) == len(SCREEN_SEEDS) for t in SCREENED)
    ]
    measured = {}
    for called in complete:
        scores = [[item["score"] or 0.0 for item in cell[name][called].values()] for name in SCREENED]
        measured[called] = (
            math.sqrt(statistics.mean(statistics.variance(item) for item in scores)),
            statistics.mean(map(statistics.mean, scores)),
        )
    return {called: (deviation / measured[NOTHING][0], mean) for called, (deviation, mean) in measured.items()}


def kept() -> list[str]:
    """Three PTP settings by the plan's rule, at most one of each kind; none until the screen is complete."""
    ratios = screened()
    if len(ratios) < len(SCREEN):
        return []
    lowest = ratios[NOTHING][1] - 0.02
    ptp = {name: values for name, values in ratios.items() if SCREEN[name].get("regularizer")}
    by_ratio = sorted((n for n, (_, mean) in ptp.items() if mean >= lowest), key=lambda n: ptp[n][0])
    by_mean = sorted(ptp, key=lambda n: -ptp[n][1])
    chosen: list[str] = []
    for name in [*by_ratio, *by_mean]:
        if kind(name) not in map(kind, chosen):
            chosen.append(name)
    return chosen[:3]


def second() -> dict[str, tuple[float, float]]:
    """Setting -> (largest of the tasks' ratios of standard deviations to that of nothing, least gain in the mean)."""
    cell = read("second")
    complete = [n for n in SECOND if all(len(cell.get(t, {}).get(n, {})) == len(SECOND_SEEDS) for t in TASK_ROWS)]
    measured = {}
    for called in complete if NOTHING in complete else ():
        ratios, gains = [], []
        for name in TASK_ROWS:
            ours, theirs = ([record["score"] or 0.0 for record in cell[name][n].values()] for n in (called, NOTHING))
            ratios.append(statistics.stdev(ours) / statistics.stdev(theirs))
            gains.append(statistics.mean(ours) - statistics.mean(theirs))
        measured[called] = max(ratios), min(gains)
    return measured


def best_of_second() -> str | None:
    """The setting whose worst ratio is the lowest, of those that lower no mean by 0.02; None until it is complete."""
    measured = second()
    allowed = [name for name, (_, gain) in measured.items() if gain >= -0.02 and name != NOTHING]
    return min(allowed, key=lambda name: measured[name][0]) if len(measured) == len(SECOND) and allowed else None


def kind(name: str) -> str:
    """What a setting perturbs, and whether the prompt is deep."""
    return name.partition(":")[0]


def arm(called: str, cell: Mapping[str, Any]) -> Arm:
    """The arm of one setting on one task."""
    seeds = sorted(cell, key=int)
    columns = {key: tuple(cell[seed][key] for seed in seeds) for key in ("score", "train", "loss", "steps")}
    return Arm(
        name=called,
        seeds=tuple(map(int, seeds)),
        scores=columns["score"],
        chance=cell[seeds[0]]["majority"],
        train_scores=columns["train"],
        train_losses=columns["loss"],
        prompt_steps=columns["steps"],
    )


def main() -> None:
    """One part of the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("screen", "second", "confirm", "real"))
    parser.add_argument("--store", default="runs/stability-study")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--settings", nargs="+", help="of the part confirm, by name; all where none is given")
    parser.add_argument("--data-root", help="of the part real")
    arguments = parser.parse_args()
    if arguments.part == "screen":
        wanted = [(name, called, setting, SCREEN_SEEDS) for called, setting in SCREEN.items() for name in SCREENED]
        cells("screen", wanted, arguments.store)
    if arguments.part == "second":
        wanted = [(name, called, setting, SECOND_SEEDS) for called, setting in SECOND.items() for name in TASK_ROWS]
        cells("second", wanted, arguments.store)
    if arguments.part == "confirm":
        blocks = range(FIRST_FRESH, FIRST_FRESH + arguments.seeds, BLOCK)
        wanted = [
            (name, called, setting, range(FIRST_FRESH, start + BLOCK))
            for start in blocks
            for called, setting in confirmed_settings(kept()).items()
            for name in TASK_ROWS
            if not arguments.settings or called in arguments.settings
        ]
        cells("confirm", wanted, arguments.store)
    if arguments.part == "real":
        settings = {NOTHING: PLAIN, "head-only": {"method": "linear-probe"}, "restarts 3": {**PLAIN, "restarts": 3}}
        settings |= {name: SCREEN[name] for name in kept()[:1]}
        wanted = [
            (name, called, setting, range(FIRST_FRESH, FIRST_FRESH + last))
            for last in range(REAL_BLOCK, REAL_SEEDS + 1, REAL_BLOCK)
            for name in REAL
            for called, setting in settings.items()
        ]
        cells("real", wanted, arguments.store, arguments.data_root)


if __name__ == "__main__":
    main()
