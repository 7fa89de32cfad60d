"""Folders of runs as training leaves them, made without a model in a moment."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from softprompt.inference.frozen import Baseline
from softprompt.prompts.prompt import BackboneIdentity, Provenance, SoftPrompt
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.store import json_bytes, save_prompt, sealed_bytes
from softprompt.study import RunSpec, StoredRun
from softprompt.study._stored import path_of, to_bytes
from softprompt.tasks import Task
from softprompt.tasks import task as find_task
from softprompt.training import Comparison, Plan
from softprompt.training._frozen import Trained

WIDTH, STEPS = 8, 40
METHODS = ("prompt-tuning", "ept-star")
VERSIONS = {"softprompt": "0.1.0", "torch": "2.0", "transformers": "5.0"}


def score_of(method: str, seed: int) -> float:
    """The invented test score of a prompt."""
    return {"prompt-tuning": 0.80, "ept-star": 0.70}[method] + 0.01 * seed


def made_run(
    folder: Path,
    *,
    task: str | Task = "lab/opinion",
    model: str = "lab-t5",
    methods: tuple[str, ...] = METHODS,
    seeds: int = 3,
    steps: int = STEPS,
    difference: tuple[float, float, float] | None = None,
    width: int = WIDTH,
    test_rows: int | None = None,
    options: dict[str, Any] | None = None,
    **seeds_of: int,
) -> Path:
    """A finished run, with stored prompts.

    `difference` is the gain over the instruction with its interval; `seeds_of` are seeds of single purposes.
    """
    declared = find_task(task) if isinstance(task, str) else task
    prompts = tuple(
        PromptSettings(
            method=method,
            options=options or {},
            lr=0.3,
            units="raw",
            seeds=dataclasses.replace(Seeds.all(seed), **seeds_of),
        )
        for method in methods
        for seed in range(seeds)
    )
    settings = TrainSettings(steps=steps, loss="tokens", test_rows=test_rows)
    plan = Plan(task=declared, model=ModelSpec(model, answers="tokens"), prompts=prompts, settings=settings)
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(sealed_bytes(plan.to_json()))
    (folder / "timing.jsonl").write_text('{"step": 40, "seconds": 12.0}\n')
    for name, prompt in zip(plan.prompt_names(), prompts, strict=True):
        _made_prompt(folder / name, declared, model, prompt, steps, width)
    if difference is not None:
        comparison = _comparison(plan.prompt_names(), difference)
        (folder / "comparison.json").write_bytes(json_bytes(comparison.to_json()))
    return folder


def _made_prompt(folder: Path, task: Task, model: str, prompt: PromptSettings, steps: int, width: int) -> None:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(prompt, steps)))
    seed, score = prompt.seeds.initialization, score_of(prompt.method, prompt.seeds.initialization)
    metrics = {"test": {"accuracy": score, "score": score}, "validation": {"accuracy": score, "score": score}}
    result = {
        "prompt": folder.name, "task": task.name, "method": prompt.method, "seed": seed, "units": "raw", "lr": 0.3,
        "metrics": metrics, "majority": 0.5, "best_step": steps, "trainable": 80, "head": 0, "stored": 80,
        "norm": 2.0, "token_norms": 1.5, "prompt_steps": steps, "restarts": None, "calibration": None,
        "status": "finished", "warnings": [],
    }  # fmt: skip
    (folder / "result.json").write_bytes(json_bytes(result))
    identity = BackboneIdentity(model, "encoder-decoder", width, embedding_sha256="ab" * 32)
    provenance = Provenance(prompt.method, identity, answers="tokens", task=task.to_json(), versions=VERSIONS)
    vectors = torch.randn(4, width, generator=torch.Generator().manual_seed(seed))
    save_prompt(SoftPrompt(vectors, provenance), folder / "prompt")


def rows(prompt: PromptSettings, steps: int) -> list[dict[str, Any]]:
    """What training records: a falling loss, a growing norm, four evaluations."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        norm = 0.5 + 2 * step / steps
        lines.append({"step": step, "loss": 3 * math.exp(-step / 15), "prompt_norm": norm, "token_norms": norm / 2})
        if step % max(1, steps // 4) == 0:
            score = score_of(prompt.method, prompt.seeds.initialization) * step / steps
            lines.append({"step": step, "split": "validation", "score": score})
    return lines


def _comparison(names: list[str], difference: tuple[float, float, float]) -> Comparison:
    value, low, high = difference
    lines = [
        Baseline(name=name, score=score, interval=(score - 0.05, score + 0.05), predictions=[0], draw=draw)
        for name, score, draw in (
            ("majority", 0.5, None), ("frozen", 0.55, None), ("instruction", 0.6, None), ("4 examples", 0.52, 0),
            ("4 examples", 0.56, 1),
        )
    ]  # fmt: skip
    prompts = [
        Trained(name=name, score=0.7, interval=(0.65, 0.75), difference=value, difference_interval=(low, high),
                predictions=[0])
        for name in names
    ]  # fmt: skip
    return Comparison(rows=200, of=1000, reference="instruction", baselines=lines, prompts=prompts)


def made_answers(prompt: Path, labels: tuple[str, ...] = ("good", "bad"), n: int = 40) -> list[dict[str, Any]]:
    """`evaluation/predictions.jsonl` beside a prompt: each fourth answer is wrong, and ever less sure.

    The result of the prompt says the same score.
    """
    lines = []
    for number in range(n):
        gold = labels[number % 2]
        answer = labels[(number + 1) % 2] if number % 4 == 0 else gold
        sure = 0.95 - 0.4 * number / n
        other = labels[1 - labels.index(answer)]
        scores = {label: sure if label == answer else 1 - sure for label in (answer, other)}
        lines.append({"id": number + 1, "text": f"row {number} <b>bold</b>", "gold": gold, "prediction": answer,
                      "scores": scores})  # fmt: skip
    (prompt / "evaluation").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (prompt / "evaluation" / "predictions.jsonl").write_text(text)
    result = json.loads((prompt / "result.json").read_text())
    right = sum(line["gold"] == line["prediction"] for line in lines) / n
    result["metrics"]["test"] = {"accuracy": right, "score": right}
    (prompt / "result.json").write_text(json.dumps(result))
    return lines


def made_store(folder: Path, *, count: int, tasks: tuple[str, ...] = ("lab/opinion",), points: int = 50) -> Path:
    """The store of a study with so many finished runs: the two methods, and as many seeds as that takes."""
    (folder / "runs").mkdir(parents=True)
    for number in range(count):
        seed, method = number // len(METHODS) // len(tasks), METHODS[number % len(METHODS)]
        prompt = PromptSettings(method=method, seeds=Seeds.all(seed))
        spec = RunSpec(
            task=tasks[number // len(METHODS) % len(tasks)], model="lab-t5", prompt=prompt,
            settings=TrainSettings(steps=1000),
        )  # fmt: skip
        score = 0.7 + 0.2 * math.sin(number) ** 2
        steps = [1 + place * 1000 // points for place in range(points)]
        run = StoredRun(
            name=spec.name, spec=spec, metrics={"test": {"score": score}, "validation": {"score": score - 0.01}},
            majority=0.5, best_step=900, trainable=5120, head=0, stored=5120, seconds=3.5, status="finished",
            curve={"step": steps, "loss": [3 / step**0.5 for step in steps],
                   "token_norms": [1 + math.log(step) for step in steps]},
            validation={"step": [500, 1000], "score": [score - 0.1, score - 0.01]}, embeddings="cd" * 32,
            versions=VERSIONS, prompt_steps=1000,
        )  # fmt: skip
        path_of(folder, spec.name).write_bytes(to_bytes(run))
    return folder


def renamed_task(name: str) -> Task:
    """A declared task under another name."""
    return dataclasses.replace(find_task("lab/opinion"), name=name)


def drop(prompt: Path) -> str:
    """Make of a finished prompt one that was dropped before it was stored; the status that says why."""
    path, status = prompt / "result.json", "dropped at step 1: its loss was not finite"
    result = json.loads(path.read_text())
    path.write_bytes(json_bytes({**result, "metrics": {}, "status": status, "norm": None, "token_norms": None}))
    shutil.rmtree(prompt / "prompt")
    return status


def scored(prompt: Path, score: float | None, split: str = "test") -> None:
    """Give a finished prompt another score."""
    result = json.loads((prompt / "result.json").read_text())
    result["metrics"][split]["score"] = score
    (prompt / "result.json").write_text(json.dumps(result))
