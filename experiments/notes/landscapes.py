"""Whether regularisers smooth the loss over the input: landscapes of few-shot prompts, several seeds of each setting.

    python -m experiments.notes.landscapes [--seeds 8] [--folder runs/landscapes] [--results FILE]
    python -m experiments.notes.landscapes --table

The settings and tasks of experiments/stability/study.py that its screen kept, on seeds of their own; each prompt's
input plane (docs/landscape.md: 32 test rows, radius 0.1, 11 x 11 points). Numbers are medians over seeds beside the
mean test score, and the median ratio to the unregularised prompt of the same seed with its 95 % bootstrap interval:
over all seeds, and over pairs that both have learned their task. A prompt at chance is flat because it ignores its
input. It may be stopped and started again: cells in the results are not run again.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from softprompt.analysis.stored_landscapes import draw
from softprompt.analysis.subjects import subjects
from softprompt.settings import LandscapeSettings, PromptSettings, Seeds, TrainSettings
from softprompt.study import markdown
from softprompt.training import read_results

from ..common.results import write_plain
from ..common.runs import run_in
from ..stability.study import MODEL, NOTHING, RESULTS, SCREENED, STEPS, TASK_ROWS, confirmed_settings, kept, task

FIRST = 4000
PLANE = LandscapeSettings(grid=11)
NUMBERS = {
    "max - min": "range",
    "mean change": "mean_change",
    "gradient /rms": "gradient_norm_rms",
    "curvature /rms²": "curvature_rms",
}
# A two-class task at 0.5: half of the way to all right.
LEARNED = 0.75


def settings() -> dict[str, Mapping[str, Any]]:
    """What is compared, by the names of the stability study."""
    every = confirmed_settings(kept())
    return {name: every[name] for name in (NOTHING, "restarts 3", *kept(), "deep")}


def drawn(name: str, prompt: Mapping[str, Any], seeds: Sequence[int], folder: Path) -> dict[str, Any]:
    """Train the prompts of a cell, or go on with it, and measure their landscapes: by seed."""
    run_in(
        folder,
        task(name),
        MODEL,
        prompts=[PromptSettings(**prompt, seeds=Seeds.all(seed)) for seed in seeds],
        settings=TrainSettings(steps=STEPS, eval_every=STEPS, shots=TASK_ROWS[name]),
    )
    return dict(zip(map(str, seeds), measured(folder, PLANE), strict=True))


def measured(folder: Path, plane: LandscapeSettings) -> Iterator[dict[str, Any]]:
    """The landscape of each prompt of a run in numbers, and its score."""
    chosen = subjects([folder])
    for result, subject in zip(read_results(folder), draw(chosen, plane), strict=True):
        numbers = subject.landscape.numbers()
        yield {
            "score": result.metrics["test"]["score"],
            "accuracy": subject.metrics["accuracy"],
            "loss": numbers["loss"].mean,
            **{key: numbers[key].mean for key in NUMBERS.values()},
        }


def tables(results: Mapping[str, Any]) -> Iterator[str]:
    """One table a task."""
    for name, by_setting in results.items():
        plain = by_setting[NOTHING]
        rows = []
        for called, cell in by_setting.items():
            row: dict[str, Any] = {
                "setting": called,
                "seeds": len(cell),
                "score": f"{statistics.mean(record['score'] for record in cell.values()):.3f}",
                "learned": sum(record["score"] >= LEARNED for record in cell.values()),
            }
            for title, key in NUMBERS.items():
                row[title] = f"{statistics.median(record[key] for record in cell.values()):.3g}"
                if called != NOTHING:
                    row[title] += f"; {_ratio(plain, cell, key, lambda a, b: True)}; {_ratio(plain, cell, key, _both)}"
            rows.append(row)
        yield f"{name}: median; its ratio to nothing over all pairs of seeds; over pairs that both learned\n"
        yield markdown(rows) + "\n"
        for title, key in NUMBERS.items():
            correlation: Any = stats.spearmanr(
                [record[key] for record in plain.values()], [record["score"] for record in plain.values()]
            )
            yield f"Spearman of {title} and score over seeds of {NOTHING}: {correlation.statistic:.2f}\n"


def _both(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return min(first["score"], second["score"]) >= LEARNED


def _ratio(plain: Mapping[str, Any], cell: Mapping[str, Any], key: str, wanted: Callable[[Any, Any], bool]) -> str:
    """Median ratio over pairs, with its interval, and how many pairs."""
    pairs = [(plain[seed], record) for seed, record in cell.items() if wanted(plain[seed], record)]
    ratios = np.array([record[key] / base[key] for base, record in pairs])
    if len(ratios) < 3:
        return f"{len(ratios)} pairs"
    low, high = stats.bootstrap((ratios,), np.median, method="percentile", rng=0).confidence_interval
    return f"{np.median(ratios):.2f} ({low:.2f} to {high:.2f}, n {len(ratios)})"


def main() -> None:
    """Measure what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=Path("runs/landscapes"))
    parser.add_argument("--results", type=Path, default=RESULTS / "landscapes.json")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    results: dict[str, Any] = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    seeds = range(FIRST, FIRST + arguments.seeds)
    for called, prompt in settings().items():
        for name in () if arguments.table else SCREENED:
            if called in results.get(name, {}):
                continue
            folder = arguments.folder / "".join(c if c.isalnum() else "-" for c in f"{name} {called}")
            results.setdefault(name, {})[called] = drawn(name, prompt, seeds, folder)
            write_plain(arguments.results, results)
            print(f"{name} {called}: done", flush=True)
    for part in tables(results):
        print(part)


if __name__ == "__main__":
    main()
